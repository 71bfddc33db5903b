"""The folder of a run's explanations: explain.csv, explain.json, and a folder an image.

An image's maps and pictures are written first, its rows in explain.csv last and in one step: an
image that stands there is whole, whenever the process is stopped, and is not made again.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hmc_fast.errors import InputError
from hmc_fast.files import write_bytes, write_csv, write_json
from hmc_fast.training.run_folder import read_json

TABLE, SETTINGS, IMAGES = "explain.csv", "explain.json", "images"
FIGURES = (
    "iou", "pointing_game", "energy_inside",
    "average_drop", "increase", "insertion", "deletion",
)  # fmt: skip
COLUMNS = ("image", "label", "predicted", "target", "method", "layer", *FIGURES, "seconds")
Row = dict[str, str]
Key = tuple[str, str, str]


@dataclass
class Explanations:
    """What a folder holds; rows: of explain.csv by image, method and layer, as text; settings: what
    they have in common, for explain.json."""

    folder: Path
    rows: dict[Key, Row]
    settings: dict[str, Any]

    def holds(self, image: str, place: str, pairs: Iterable[tuple[str, str]]) -> bool:
        """Whether the image is explained by all of these methods and layers."""
        return all(
            (image, *pair) in self.rows and self.map_path(place, *pair).is_file() for pair in pairs
        )

    def figures(self, image: str, method: str, layer: str) -> dict[str, float | None]:
        """The FIGURES of one map; None for one that is not defined."""
        row = self.rows[image, method, layer]
        return {name: float(row[name]) if row[name] else None for name in FIGURES}

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Put an image's rows into explain.csv; None becomes an empty cell."""
        for row in rows:
            cells = {column: cell(row[column]) for column in COLUMNS}
            self.rows[cells["image"], cells["method"], cells["layer"]] = cells
        write_json(self.folder / SETTINGS, self.settings)
        write_csv(
            self.folder / TABLE, COLUMNS, [[row[c] for c in COLUMNS] for row in self.rows.values()]
        )

    def of(self, place: str) -> Path:
        """The folder of one image."""
        return self.folder / IMAGES / place

    def map_path(self, place: str, method: str, layer: str) -> Path:
        """Where a map lies, float32 (H, W); its picture beside it as .png."""
        return self.of(place) / f"{method}.{layer}.npy"

    def panel_path(self, place: str, layer: str) -> Path:
        """Where the picture of all methods' maps lies."""
        return self.of(place) / f"panel.{layer}.png"

    def write_map(self, place: str, method: str, layer: str, cam: np.ndarray) -> None:
        """Write one map."""
        write_array(self.map_path(place, method, layer), cam)

    def maps(self, place: str, methods: Iterable[str], layer: str) -> dict[str, np.ndarray]:
        """The maps of an image and a layer that exist, by method, in this order."""
        paths = {method: self.map_path(place, method, layer) for method in methods}
        return {m: np.load(p, allow_pickle=False) for m, p in paths.items() if p.is_file()}


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an array as .npy, in a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def open_explanations(folder: Path, settings: dict[str, Any]) -> Explanations:
    """What a folder holds already; nothing is written yet.

    settings: JSON values by name; of an earlier call those that both have must be the same, as all
    rows of explain.csv are to be compared with each other. Raises InputError: they differ (named),
    the files are damaged, or the folder holds something else.
    """
    before = read_json(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    rows = read_rows(folder / TABLE) if (folder / TABLE).is_file() else {}
    if rows and not before:
        raise InputError(f"{folder} has {TABLE} but no {SETTINGS}: choose another --out")
    for name, value in settings.items():
        if rows and value != before.get(name, value):
            raise InputError(
                f"{folder} holds explanations with another {name} ({before[name]} there, {value} "
                "here): choose another --out"
            )
    return Explanations(folder, rows, before | settings if rows else settings)


def read_rows(path: Path) -> dict[Key, Row]:
    """The rows of explain.csv; InputError where it is no such table."""
    try:
        with open(path, newline="") as file:
            header, *rows = list(csv.reader(file))
        if header != list(COLUMNS):
            raise ValueError(f"it must start with {','.join(COLUMNS)}")
        named = [_checked(dict(zip(COLUMNS, row, strict=True))) for row in rows]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise InputError(
            f"{path} is damaged ({error}): remove it, or choose another --out"
        ) from error
    return {(row["image"], row["method"], row["layer"]): row for row in named}


def _checked(row: Row) -> Row:
    """The row, where its figures are numbers."""
    for name in FIGURES:
        float(row[name] or 0)
    return row


def cell(value: Any) -> str:
    """Six digits of a number are enough, nothing of None."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
