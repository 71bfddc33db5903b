"""Durable writes: the old bytes or the new ones, whatever fails, and nothing left lying about."""

import csv
import errno
import hashlib
import io
import json
import os
import subprocess
import sys

import pytest

from disk_faults import each_failure
from hmc_fast import files

OLD, NEW = b"old " * 50, b"new bytes" * 100


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "results [1].csv"  # a name that means something to glob
    path.write_bytes(OLD)
    return path


@pytest.fixture(scope="module")
def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", [b"", b"a", NEW, bytes(3_000_000)], ids=len)
def test_the_file_holds_the_bytes_and_stands_alone(target, data):
    files.write_bytes(target, data)
    assert target.read_bytes() == data
    assert names(target.parent) == [target.name]


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    files.write_bytes(tmp_path / "ours", b"")
    rights = [(tmp_path / name).stat().st_mode for name in ("plain", "ours")]
    assert rights[0] == rights[1]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("before", [OLD, None], ids=["over an old file", "a first file"])
def test_any_failing_call_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, code, before):
    def prepare(number):
        folder = tmp_path / str(number)
        folder.mkdir()
        if before is not None:
            (folder / "file").write_bytes(before)
        return folder

    failures = 0
    for folder, error in each_failure(
        monkeypatch, code, prepare, lambda folder: files.write_bytes(folder / "file", NEW)
    ):
        assert error.errno == code
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert found in ({"file": NEW}, {} if before is None else {"file": before})
        failures += 1
    assert failures == 6  # open, write, fsync, replace, open and fsync of the folder


def test_short_writes_are_continued(target, monkeypatch):
    class Slow(io.FileIO):
        def write(self, data):
            return super().write(data[:7])

    monkeypatch.setattr(files, "open", lambda path, mode, **_: Slow(path, mode), raising=False)
    files.write_bytes(target, NEW)
    assert target.read_bytes() == NEW


def test_an_interrupt_while_writing_leaves_the_old_file(target, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(target, NEW)
    assert target.read_bytes() == OLD
    assert names(target.parent) == [target.name]


def test_data_are_on_the_disk_before_the_name_changes(target, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: calls.append("fsync") or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *names: calls.append("replace") or replace(*names))
    files.write_bytes(target, NEW)
    assert calls == ["fsync", "replace", "fsync"]


def test_what_a_killed_process_left_is_removed_at_the_next_write(target, dead_process):
    (target.parent / f".{target.name}.{dead_process}.tmp").write_bytes(b"half")
    (target.parent / f".{target.name}.{10**30}.tmp").write_bytes(b"no process has this number")
    files.write_bytes(target, NEW)
    assert names(target.parent) == [target.name]


def test_temporary_files_of_others_stay(target, dead_process):
    others = [
        f".{target.name}.{os.getppid()}.tmp",  # a process that is alive
        f".another.{dead_process}.tmp",
        f".{target.name}.notes.tmp",
        f"{target.name}.{dead_process}.tmp",
    ]
    for name in others:
        (target.parent / name).write_bytes(b"")
    files.write_bytes(target, NEW)
    assert names(target.parent) == sorted([target.name, *others])


def test_json_is_read_back_and_nan_is_refused(target):
    value = {"a": [1, 2.5, None], "text": "µm"}
    files.write_json(target, value)
    assert json.loads(target.read_text(encoding="utf-8")) == value
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(target, {"a": float("nan")})
    assert json.loads(target.read_text(encoding="utf-8")) == value


def test_csv_is_read_back_with_commas_quotes_and_line_ends(target):
    rows = [["a,b", 'quo"te'], ["two\nlines", "ü"]]
    files.write_csv(target, ["x", "y"], rows)
    assert target.read_bytes().startswith(b"x,y\n")
    with open(target, newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["x", "y"], *rows]


def test_floats_in_csv_come_back_bit_by_bit(target):
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    files.write_csv(target, ["x"], [[value] for value in values])
    with open(target, newline="") as file:
        _, *rows = csv.reader(file)
    assert [float(cell).hex() for (cell,) in rows] == [value.hex() for value in values]


@pytest.mark.parametrize("data", [b"", NEW, bytes(2_000_000)], ids=len)
def test_sums_are_those_of_hashlib(target, data):
    target.write_bytes(data)
    expected = hashlib.sha256(data).hexdigest()
    assert files.sha256_bytes(data) == expected
    assert files.sha256_file(target) == expected
