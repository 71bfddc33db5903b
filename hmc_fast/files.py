"""Durable writes: a file that exists is whole, whenever the process or the machine stops.

Every write goes to a temporary file in the same folder, is synced, renamed over the target, and the
folder is synced. Readers see the old bytes or the new ones, never a mixture.
"""

import contextlib
import csv
import glob
import hashlib
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step; on an error the old file stays and nothing is left
    beside it. What a killed process left beside it goes too."""
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` whose process has died."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = found.name.removeprefix(f".{path.name}.").removesuffix(".tmp")
        if process.isdecimal() and not _is_alive(int(process)):
            with contextlib.suppress(OSError):
                found.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:  # somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of `text` in UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON; NaN and infinities are refused, they are no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A header line and `rows`, with LF line ends."""
    write_text(path, csv_text(header, rows))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The text that `write_csv` writes."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()


def write_synced(path: Path, data: bytes) -> None:
    """Create or truncate `path`, write all of `data` and wait until the disk has it."""
    with open(path, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in folder `path` are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_bytes(data: bytes | memoryview) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
