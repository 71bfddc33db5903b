"""Put panels of `hmc-fast explain` below each other: docs/explained.png, the README's picture.

    hmc-fast train
    hmc-fast explain runs/hmc-1 --method all --layer layer2 layer3 --images p002R p011L
    python docs/make_explained_sheet.py runs/hmc-1/explain p002R:layer3 p011L:layer2

Of the phantom: overlays of MIAS films may not be published.
"""

import sys
from pathlib import Path

from PIL import Image

OUT = Path(__file__).with_name("explained.png")
WIDTH = 1100


def main() -> None:
    folder, *chosen = sys.argv[1:]
    panels = []
    for film, layer in (word.split(":") for word in chosen):
        panel = Image.open(Path(folder) / "images" / film / f"panel.{layer}.png").convert("RGB")
        panels.append(panel.resize((WIDTH, panel.height * WIDTH // panel.width)))
    sheet = Image.new("RGB", (WIDTH, sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        sheet.paste(panel, (0, top))
        top += panel.height
    sheet.save(OUT, optimize=True)
    print(OUT)


if __name__ == "__main__":
    main()
