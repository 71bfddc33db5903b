"""Whole runs in a second: class folders of tiny images, a tiny network, the command line in this
process."""

import csv
import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import nn

from hmc_fast import models
from hmc_fast.cli import main
from hmc_fast.files import sha256_file
from hmc_fast.training import loop, results
from hmc_fast.training.config import TrainConfig

CLASSES = ("normal", "benign", "malignant")
PATIENTS, FILMS = 4, 2  # of each class, of each patient
NOISE = ("Traceback", "Errno", "Error(", "object at", "<")  # of Python, in no sentence of ours
SETTINGS = {
    "image_size": 64,
    "batch_size": 4,
    "epochs": 2,
    "folds": 2,
    "workers": 0,
    "device": "cpu",
    "amp": "off",
}


def tiny_network(config: TrainConfig) -> nn.Module:
    """`tiny_layers` for the classes of a configuration."""
    return tiny_layers(len(config.class_names))


def tiny_layers(classes: int) -> nn.Module:
    """1600 parameters with BatchNorm, from torch's random state."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    )


def make_folder(directory: Path, patients: int = PATIENTS, films: int = FILMS) -> Path:
    """normal/, benign/ and malignant/ with `films` films of each of `patients` patients, 16 x 16
    pixels of seeded noise, brighter from class to class, and patients.csv."""
    generator, rows = np.random.default_rng(0), ["image,patient_id"]
    for label, name in enumerate(CLASSES):
        (directory / name).mkdir(parents=True)
        for patient in range(patients):
            for film in range(films):
                pixels = generator.integers(60 * label, 60 * label + 80, (16, 16), dtype=np.uint8)
                image = f"{name}/{name[0]}{patient}_{film}.png"
                Image.fromarray(pixels).save(directory / image)
                rows.append(f"{image},{name[0]}{patient}")
    (directory / "patients.csv").write_text("\n".join([*rows, ""]))
    return directory


def flags(**settings: object) -> list[str]:
    """`SETTINGS` with changes as words of a command line; None leaves a flag out."""
    words = []
    for name, value in (SETTINGS | settings).items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def run(*words: object) -> int:
    """The exit code of `hmc-fast WORDS` in this process."""
    try:
        return main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)


def use_tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hmc-fast train` and `load_model` build the tiny network, whatever the variant."""
    monkeypatch.setattr(loop, "train", functools.partial(loop.train, build=tiny_network))
    monkeypatch.setattr(models, "create_model", lambda variant, classes, **_: tiny_layers(classes))


def finished_run(root: Path, **settings: object) -> Path:
    """`root` with data/ and a run of two folds on it in run/, without pages."""
    make_folder(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMC_FAST_CACHE", str(root / "cache"))
        patch.chdir(root)
        use_tiny_network(patch)
        skip_pages(patch)
        assert run("train", "--data", "data", *flags(out="run", **settings), "--quiet") == 0
    return root


def skip_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run draws no figures and writes an empty report: they take longer than all the rest."""
    monkeypatch.setattr(results, "run_figures", lambda page: {})
    monkeypatch.setattr(results, "write_report", lambda path, page, drawn: path.write_text(""))


def contents(directory: Path) -> dict[str, str]:
    """Every path below a folder with the hash of its bytes."""
    return {
        str(path.relative_to(directory)): sha256_file(path) if path.is_file() else "folder"
        for path in sorted(directory.rglob("*"))
    }


def assert_refused(
    capsys: pytest.CaptureFixture, directory: Path, words: list, *parts: object
) -> None:
    """`hmc-fast WORDS` gives exit code 2 and one line of error with all of `parts`, and no path
    below `directory` comes, goes or changes."""
    before = contents(directory)
    code = run(*words)
    sentence = capsys.readouterr().err
    assert code == 2
    assert sentence.startswith("hmc-fast")
    assert sentence.count("\n") == 1
    assert [part for part in parts if str(part) not in sentence] == [], sentence
    assert [noise for noise in NOISE if noise in sentence] == [], sentence
    assert contents(directory) == before


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by column."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def weights_of(folder: Path, number: int = 0) -> str:
    """SHA-256 of a fold's weights in a run."""
    return sha256_file(folder / f"fold{number}" / "model.safetensors")
