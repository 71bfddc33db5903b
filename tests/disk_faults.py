"""A disk that fails at the i-th call, for every i: full, or broken."""

import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hmc_fast import files

CALLS = ("open", "fsync", "mkdir", "rename", "replace", "rmdir", "unlink")


class Disk:
    """Lets all calls to the operating system through but the one of number `fails`, from 1; a write
    that fails has written half."""

    def __init__(self, fails: int, code: int) -> None:
        self.fails, self.code, self.calls = fails, code, 0

    @property
    def has_failed(self) -> bool:
        """Whether the call that was to fail was made."""
        return self.calls >= self.fails

    def count(self) -> None:
        """A call is made."""
        self.calls += 1
        if self.calls == self.fails:
            raise OSError(self.code, os.strerror(self.code))

    def counted(self, function: Callable) -> Callable:
        """`function`, one of the calls."""

        def call(*args, **kwargs):
            self.count()
            return function(*args, **kwargs)

        return call

    def open(self, path: object, mode: str, **options: int) -> io.FileIO:
        """`open` without a buffer, whose writes are counted too."""
        self.count()
        file = _File(path, mode)
        file.disk = self
        return file


class _File(io.FileIO):
    disk: Disk

    def write(self, data):
        try:
            self.disk.count()
        except OSError:
            super().write(data[: len(data) // 2])
            raise
        return super().write(data)


def each_failure(
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    prepare: Callable[[int], Path],
    action: Callable[[Path], None],
) -> Iterator[tuple[Path, OSError | None]]:
    """Run action(prepare(i)) on a disk whose call i fails, for i = 1, 2, ... until there is no call
    i; each time give what was prepared and the error that came out."""
    for fails in itertools.count(1):
        prepared, error = prepare(fails), None
        disk = Disk(fails, code)
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, disk.counted(getattr(os, name)))
            patch.setattr(files, "open", disk.open, raising=False)
            try:
                action(prepared)
            except OSError as raised:
                error = raised
        if not disk.has_failed:
            assert error is None
            return
        yield prepared, error
