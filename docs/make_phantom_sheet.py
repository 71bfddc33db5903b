"""Draws docs/phantom.png, a sheet of the phantom's films: `python docs/make_phantom_sheet.py`.

Three patients a class, the right film beside the left as they hang on a light box. The last row
shows the lesions' masks as outlines.
"""

from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot
from PIL import Image

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.phantom import open_phantom

PATIENTS_A_ROW = 3
INCHES = (14.0, 9.5)
DOTS_PER_INCH = 100
GREYS = 96
OUTLINE = (255, 176, 0)


def bilateral_patients(phantom: Dataset, label: int) -> list[int]:
    """The right film's index of each patient whose two films have this class."""
    rights = range(1, len(phantom), 2)
    return [i for i in rights if phantom.labels[i] == label == phantom.labels[i - 1]]


def draw_sheet(phantom: Dataset):
    """A figure with a row for each class and a row of masks."""
    chosen = [bilateral_patients(phantom, label)[:PATIENTS_A_ROW] for label in range(3)]
    rows = [*zip(phantom.classes, chosen, strict=True), ("masks", [chosen[1][0], *chosen[2][:2]])]
    figure = pyplot.figure(figsize=INCHES, facecolor="black")
    axes = figure.subplots(len(rows), 2 * PATIENTS_A_ROW)
    for (title, rights), row_axes in zip(rows, axes, strict=True):
        films = [i for right in rights for i in (right, right - 1)]
        for i, axis in zip(films, row_axes, strict=True):
            draw_film(axis, phantom, i, outline=title == "masks")
        row_axes[0].set_ylabel(title, color="white", fontsize=13)
    figure.subplots_adjust(0.025, 0.004, 0.998, 0.998, wspace=0.01, hspace=0.02)
    return figure


def draw_film(axis, phantom: Dataset, i: int, *, outline: bool) -> None:
    """One film with its name, and with its mask's outline where asked for."""
    axis.imshow(phantom.read(i), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    if outline:
        colour = tuple(level / 255 for level in OUTLINE)
        axis.contour(phantom.mask(i), levels=[0.5], colors=[colour], linewidths=0.9)
    name = phantom.images[i]
    x, side = (0.03, "left") if name.endswith("R") else (0.97, "right")
    axis.text(x, 0.03, name, color="0.6", fontsize=9, ha=side, transform=axis.transAxes)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def few_colours(picture: Image.Image) -> Image.Image:
    """The picture in evenly spaced greys and shades of the outline, for a small file."""
    greys = np.linspace(0, 255, GREYS).round().repeat(3).reshape(-1, 3)
    shares = np.linspace(0.15, 1, 8)[:, None, None]
    blends = shares * np.array(OUTLINE) + (1 - shares) * greys[::8]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([greys, blends.reshape(-1, 3)]).astype(np.uint8).tobytes())
    return picture.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)


def main() -> None:
    matplotlib.use("Agg")
    buffer = BytesIO()
    draw_sheet(open_phantom(60, seed=0)).savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    target = Path(__file__).with_name("phantom.png")
    few_colours(Image.open(buffer)).save(target, optimize=True)


if __name__ == "__main__":
    main()
