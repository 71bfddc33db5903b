"""Draws docs/phantom.png, films of the phantom: `python docs/make_phantom_sheet.py`.

Three patients a class, right film beside left film as they hang on a light box; the last row has the lesions' outlines.
"""

from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from PIL import Image

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.phantom import open_phantom

PATIENTS_A_ROW = 3
WIDTH_INCHES, DOTS_PER_INCH = 14.0, 100
GREYS = 64


def bilateral_patients(phantom: Dataset, label: int) -> list[int]:
    """The right film's index of each patient whose two films have this class."""
    rights = range(1, len(phantom), 2)
    return [i for i in rights if phantom.labels[i] == label == phantom.labels[i - 1]]


def draw_sheet(phantom: Dataset):
    """A figure of one row a class and one row of masks."""
    chosen = [bilateral_patients(phantom, label)[:PATIENTS_A_ROW] for label in range(3)]
    rows = [*zip(phantom.classes, chosen, strict=True), ("masks", [chosen[1][0], *chosen[2][:2]])]
    columns = 2 * PATIENTS_A_ROW
    figure = pyplot.figure(figsize=(WIDTH_INCHES, 9.5), facecolor="black", dpi=DOTS_PER_INCH)
    axes = figure.subplots(len(rows), columns)
    for (title, rights), row_axes in zip(rows, axes, strict=True):
        films = [i for right in rights for i in (right, right - 1)]
        for i, axis in zip(films, row_axes, strict=True):
            draw_film(axis, phantom, i, outline=title == "masks")
        row_axes[0].set_ylabel(title, color="white", fontsize=13)
    figure.subplots_adjust(left=0.025, right=0.998, top=0.998, bottom=0.004, wspace=0.01, hspace=0.02)
    return figure


def draw_film(axis, phantom: Dataset, i: int, *, outline: bool) -> None:
    """One film with its name, and with its mask's outline where asked for."""
    axis.imshow(phantom.read(i), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    if outline:
        axis.contour(phantom.mask(i), levels=[0.5], colors=["#ffb000"], linewidths=0.9)
    corner = 0.03 if phantom.images[i].endswith("R") else 0.97
    side = "left" if corner < 0.5 else "right"
    axis.text(corner, 0.03, phantom.images[i], color="#9a9a9a", fontsize=9, ha=side, transform=axis.transAxes)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def main() -> None:
    """Writes the sheet, reduced to a few grey levels so that the file stays small."""
    matplotlib.use("Agg")
    buffer = BytesIO()
    draw_sheet(open_phantom(60, seed=0)).savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    sheet = Image.open(buffer).convert("RGB").quantize(GREYS, dither=Image.Dither.NONE)
    sheet.save(Path(__file__).with_name("phantom.png"), optimize=True)


if __name__ == "__main__":
    main()
