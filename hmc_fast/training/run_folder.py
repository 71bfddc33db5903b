"""The folder of a run: who may write there, what must agree before a run goes on, and how much disk
it needs."""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hmc_fast.errors import InputError
from hmc_fast.training.config import TrainConfig, config_from_dict, flag

CONFIG, ENVIRONMENT, FOLDS, IMAGES = "config.json", "env.json", "folds.csv", "images.json"
LOCK, OWNER = ".lock", ".owner"
PAGES_BYTES = 64 << 20  # the tables, figures and report of a run, generously
PROBE_SECONDS = 0.2  # others may hold a lock for a moment, to see whether it is free
OTHERS_SECONDS = 600  # the longest that another process may prepare a shared run
# between a run and its --resume
FREE_TO_CHANGE = {"out", "workers", "checkpoint_every", "only_fold"}


def run_folder(out: str) -> Path:
    """The folder that --out names, `~` understood."""
    return Path(os.path.expanduser(out))


def default_out(variant: str, root: Path = Path("runs")) -> Path:
    """runs/<variant>-<n> with the smallest n that is not taken."""
    number = 1
    while (root / f"{variant}-{number}").exists():
        number += 1
    return root / f"{variant}-{number}"


class InUse(InputError):
    """Another process holds the folder."""


@contextlib.contextmanager
def locked(folder: Path, *, keep: bool = False) -> Iterator[None]:
    """Hold the run's folder, made if need be, and removed again where nothing came into it.

    keep: leave the lock's file where others may be waiting for it. InUse where another process
    holds the folder (its number is named), InputError where it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _acquire(folder)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        (folder / OWNER).write_text(str(os.getpid()))
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        if not keep:
            (folder / LOCK).unlink(missing_ok=True)  # before the release: nobody waits for it
        with contextlib.suppress(OSError):
            for path in made:
                path.rmdir()
        lock.release()


@contextlib.contextmanager
def locked_in_turn(folder: Path, seconds: float = OTHERS_SECONDS) -> Iterator[None]:
    """`locked` for the steps that processes which share a run take one after the other.

    InUse where the others take longer than `seconds`.
    """
    last = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder, keep=True))
                break
            except InUse:
                if time.monotonic() > last:
                    raise
                time.sleep(0.2)
        yield


def _acquire(folder: Path) -> FileLock:
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=PROBE_SECONDS)
    except Timeout:
        owner = (folder / OWNER).read_text() if (folder / OWNER).is_file() else ""
        process = f"process {owner}" if owner else "another process"
        raise InUse(f"{folder} is in use by {process}: wait for it, or stop it") from None
    return lock


def check_not_in_use(folder: Path) -> None:
    """InputError where another process holds the folder; what a killed one left does not count."""
    if (folder / LOCK).is_file():
        _acquire(folder).release()


def is_held(folder: Path) -> bool:
    """Whether another process holds the folder at this moment."""
    try:
        check_not_in_use(folder)
    except InUse:
        return True
    return False


def is_begun(folder: Path) -> bool:
    """Whether a run wrote its configuration there; a run killed before that starts again."""
    return (folder / CONFIG).is_file()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; InputError where there is none."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON file: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} must hold a JSON object")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """The settings in config.json of an earlier run, checked."""
    values = read_json(path)
    try:
        config_from_dict(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return values


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the first of those above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def check_free(folder: Path, leftovers: bool = False) -> None:
    """InputError where `folder` is a file or holds something: a run needs a new or an empty folder.

    leftovers: what a run leaves that was killed before it had begun does not count.
    """
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise InputError(f"--out {folder} cannot be made: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"--out {folder} cannot be written: no permission in {nearest}")
    kept = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    ours = {LOCK, OWNER, *((ENVIRONMENT, FOLDS, IMAGES) if leftovers else ())}
    kept = [name for name in kept if name not in ours and not name.endswith(".tmp")]
    if CONFIG in kept:
        raise InputError(f"{folder} holds a run: go on with --resume, or choose another --out")
    if kept:
        raise InputError(f"{folder} is not empty (it holds {kept[0]}): choose another --out")


def check_same(config: TrainConfig, before: Mapping[str, Any], folder: Path) -> None:
    """InputError that names the settings in which a resumed run differs from the run in `folder`,
    whose settings are `before`."""
    changed = different_settings(config, before)
    if changed:
        raise InputError(f"--resume cannot change settings of {folder}: {changed}")


def different_settings(config: TrainConfig, before: Mapping[str, Any]) -> str:
    """'--lr 0.1 there, 0.2 here' for the settings that a run may not change when it goes on, or ''.

    A setting that is younger than the run had its default there.
    """
    now, before = dataclasses.asdict(config), dataclasses.asdict(config_from_dict(dict(before)))
    keys = [key for key in now if key not in FREE_TO_CHANGE and now[key] != before[key]]
    return ", ".join(
        f"{flag(key)} {word(before[key])} there, {word(now[key])} here" for key in keys
    )


def word(value: Any) -> str:
    """A setting's value for a sentence."""
    words = {None: "not set", True: "on", False: "off"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def checkpoint_bytes(model_bytes: int, selects: bool = False) -> int:
    """What the checkpoints of a fold in training take: three exist at a time, each with Adam's two
    moments; selects: and the best weights."""
    return 3 * (4 if selects else 3) * model_bytes


def check_disk(folder: Path, model_bytes: int, folds: int, selects: bool = False) -> None:
    """InputError where the disk is too small for a model a fold and one fold's checkpoints."""
    needed = model_bytes * folds + PAGES_BYTES
    needed += checkpoint_bytes(model_bytes, selects) if folds else 0
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} needs about {needed / 2**20:.0f} MiB ({folds} models, and checkpoints while "
            f"training), but only {free / 2**20:.0f} MiB are free"
        )
