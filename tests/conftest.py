"""Fixtures that several test files share."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():  # before anything imports a kernel: interpret them
    os.environ.setdefault("TRITON_INTERPRET", "1")

from hmc_fast.data.mias import published_sums
from hmc_fast.files import sha256_file

NEIGHBOUR = Path(__file__).resolve().parents[2] / "shared" / "mias"
PROSE = "This list is made up.\n=====\n\n"


@pytest.fixture(scope="session")
def mias_dir() -> Path:
    """The real MIAS images: HMC_FAST_MIAS, or the copy beside the repository, unpacked once."""
    given = os.environ.get("HMC_FAST_MIAS")
    directory = Path(given).expanduser() if given else NEIGHBOUR
    if given and not directory.is_dir():
        pytest.fail(f"HMC_FAST_MIAS is {given}, which is no directory")
    if not directory.is_dir():
        pytest.skip(f"no MIAS images: HMC_FAST_MIAS is not set and {directory} does not exist")
    packed = (directory / "unpack.py").exists() and not (directory / "mdb001.pgm").exists()
    return unpacked(directory) if packed else directory


def unpacked(packed: Path) -> Path:
    """The PGM files in a cache folder, every one checked by its published sum."""
    import platformdirs  # not there on every GPU machine, whose tests need no images
    from filelock import FileLock

    cache = platformdirs.user_cache_path("hmc_fast", ensure_exists=True)
    target = cache / "mias"
    with FileLock(cache / "mias.lock"):
        if not complete(target, packed):
            command = [sys.executable, str(packed / "unpack.py"), str(target)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return target


def complete(target: Path, packed: Path) -> bool:
    """Whether the cache holds the list and all images as they were published."""
    info, sums = target / "Info.txt", published_sums()
    files = {image: target / f"{image}.pgm" for image in sums}
    if not info.exists() or info.read_bytes() != (packed / "Info.txt").read_bytes():
        return False
    return all(path.exists() and sha256_file(path) == sums[i] for i, path in files.items())


@pytest.fixture
def make_mias(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a folder: Info.txt with the given rows, flat 1024² PGM films."""

    def make(*rows: str, images: tuple[str, ...] | None = None, newline: str = "\n") -> Path:
        text = PROSE + "".join(f"{row}\n" for row in rows)
        (tmp_path / "Info.txt").write_bytes(text.replace("\n", newline).encode())
        for image in images if images is not None else sorted({row.split()[0] for row in rows}):
            film = np.full((1024, 1024), int(image[3:]) % 256, np.uint8)
            (tmp_path / f"{image}.pgm").write_bytes(b"P5\n1024 1024\n255\n" + film.tobytes())
        return tmp_path

    return make


@pytest.fixture
def quick_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few draws, deals and simulations in a study's tables."""
    from study_cells import quick

    quick(monkeypatch)


@pytest.fixture
def study() -> dict:
    """A full made-up study; nobody changes it."""
    from study_cells import full_study

    return full_study()


@pytest.fixture
def tables() -> dict:
    """{name: table} of `study`."""
    from study_cells import full_tables

    return full_tables()
