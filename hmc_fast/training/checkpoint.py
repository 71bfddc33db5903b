"""Crash-safe checkpoints: a folder of safetensors and JSON files, whole or not there, whenever the
process dies.

A checkpoint is written beside, synced, read back and compared with its SHA-256 manifest; only then
the current one becomes `<name>.previous` and the new one takes its name. At every moment one of
them is whole. No pickle anywhere.
"""

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load, save
from torch import Tensor

from hmc_fast.files import sha256_bytes, sha256_file, sync_directory, write_synced

MANIFEST, STATE = "manifest.json", "state.json"


class Checkpoint(NamedTuple):
    """tensors: by file and name; state: JSON-ready values."""

    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


class DamagedCheckpoint(Exception):
    """A checkpoint whose files do not match its manifest."""


def save_checkpoint(
    folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> None:
    """Replace the checkpoint at `folder`; the one before stays beside it as `<folder>.previous`.

    tensors: a safetensors file for each key; state: written as JSON, which here may hold NaN. On an
    error (disk full) the old checkpoint is untouched and what was begun is removed. Raises OSError:
    it cannot be written, or what was written reads back differently.
    """
    new = _new(folder)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir(parents=True)
        _write_files(new, tensors, state)
        _verify(new)
    except BaseException as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(new)
        if isinstance(error, DamagedCheckpoint):
            raise OSError(errno.EIO, f"it cannot be read back ({error})") from error
        raise
    _swap(new, folder)


def load_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint at `folder`, or None, and a sentence for each damaged one that
    was passed over."""
    warnings = []
    for candidate in (folder, _new(folder), _previous(folder)):
        try:
            checkpoint = _read(candidate)
        except DamagedCheckpoint as error:
            if candidate != _new(folder) and candidate.is_dir():
                warnings.append(f"the checkpoint {candidate} is damaged ({error}) and not used")
            continue
        if candidate == _new(folder):  # killed between the renames: finish them
            _swap(candidate, folder)
        return checkpoint, warnings
    return None, warnings


def remove_checkpoint(folder: Path) -> None:
    """Remove the checkpoint at `folder` and all that stands beside it for its sake."""
    for path in (_new(folder), _previous(folder), folder):
        shutil.rmtree(path, ignore_errors=True)


def _write_files(
    folder: Path, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]
) -> None:
    manifest = {}
    for name, group in tensors.items():
        data = save({key: tensor.detach().cpu().contiguous() for key, tensor in group.items()})
        manifest[f"{name}.safetensors"] = sha256_bytes(data)
        write_synced(folder / f"{name}.safetensors", data)
    data = json.dumps(state).encode()
    manifest[STATE] = sha256_bytes(data)
    write_synced(folder / STATE, data)
    write_synced(folder / MANIFEST, json.dumps(manifest, indent=2).encode())
    sync_directory(folder)
    sync_directory(folder.parent)


def _swap(new: Path, folder: Path) -> None:
    """Give `new` the name `folder`; at every moment one of the three names is whole."""
    if folder.exists():
        shutil.rmtree(_previous(folder), ignore_errors=True)
        os.rename(folder, _previous(folder))
    os.rename(new, folder)
    sync_directory(folder.parent)


def _new(folder: Path) -> Path:
    return folder.with_name(folder.name + ".new")


def _previous(folder: Path) -> Path:
    return folder.with_name(folder.name + ".previous")


def _verify(folder: Path) -> dict[str, str]:
    """The manifest of `folder`; DamagedCheckpoint where a file differs from it."""
    name = MANIFEST
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not isinstance(manifest, dict) or STATE not in manifest:
            raise DamagedCheckpoint(f"{MANIFEST} does not list {STATE}")
        for name, expected in manifest.items():
            if sha256_file(folder / name) != expected:
                raise DamagedCheckpoint(f"{name} differs from the manifest")
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    return manifest


def _read(folder: Path) -> Checkpoint:
    names = [name for name in _verify(folder) if name != STATE]
    tensors = {Path(name).stem: load((folder / name).read_bytes()) for name in names}
    return Checkpoint(tensors, json.loads((folder / STATE).read_text()))
