"""Checkpoints: what was saved comes back bit by bit; what was damaged never comes back at all."""

import errno
import itertools
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from disk_faults import each_failure
from hmc_fast.training import checkpoint
from hmc_fast.training.checkpoint import load_checkpoint, remove_checkpoint, save_checkpoint
from small_run import same_bits

FILES = ("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")
NAN = torch.tensor([0x7FC00001, 0x7F800001, 0x80000000 - 2**32], dtype=torch.int32)
TENSORS = {
    "float32": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "float64": torch.tensor([math.pi, 5e-324, -0.0, math.inf], dtype=torch.float64),
    "bfloat16": torch.arange(7, dtype=torch.bfloat16) / 3,
    "float16": torch.tensor([65504.0, 6e-8], dtype=torch.float16),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "uint8": torch.get_rng_state(),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "number": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "nan payloads, -0": NAN.view(torch.float32),
    "channels_last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "transposed": torch.arange(6.0).reshape(2, 3).t(),
    "a view": torch.arange(10.0)[3:5],
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "fold0" / "checkpoint"


def save(folder, step):
    """A checkpoint in which every value is `step`; the same names each time, as in training."""
    sizes = {"model": 9, "optimizer": 5}
    tensors = {name: {"w": torch.full((size,), float(step))} for name, size in sizes.items()}
    save_checkpoint(folder, tensors, {"step": step, "rows": [{"loss": step / 3}]})


def loaded_step(folder):
    """(step, warnings) of what is loaded; all parts of it must belong together."""
    found, warnings = load_checkpoint(folder)
    if found is None:
        return None, warnings
    values = {value for group in found.tensors.values() for value in group["w"].tolist()}
    assert values == {found.state["step"]}
    return found.state["step"], warnings


def names(folder):
    return sorted(path.name for path in folder.parent.iterdir())


@pytest.fixture
def two(folder):
    """A folder with the checkpoints of steps 1 (previous) and 2."""
    save(folder, 1)
    save(folder, 2)
    return folder


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_comes_back_bit_by_bit(folder, name):
    save_checkpoint(folder, {"group": {"key.1": TENSORS[name]}}, {})
    found, warnings = load_checkpoint(folder)
    assert same_bits(found.tensors["group"]["key.1"], TENSORS[name])
    assert warnings == []


def test_all_groups_come_back_an_empty_one_too(folder):
    groups = {"model": TENSORS, "optimizer": {}, "random": {"cpu": torch.get_rng_state()}}
    save_checkpoint(folder, groups, {})
    found, _ = load_checkpoint(folder)
    assert {name: set(group) for name, group in found.tensors.items()} == {
        name: set(group) for name, group in groups.items()
    }


def test_numbers_of_the_state_come_back_bit_by_bit(folder):
    sums = [0.1 + 0.2, 1e300 / 3, 5e-324, -0.0, math.inf]
    state = {"sums": sums, "step": 2**60 + 1, "best": None, "scaler": {}, "text": "é"}
    save_checkpoint(folder, {}, state)
    found, _ = load_checkpoint(folder)
    assert found.state == state
    assert [x.hex() for x in found.state["sums"]] == [x.hex() for x in sums]


def test_a_loss_that_is_no_number_can_be_saved(folder):
    """The JSON was once written with allow_nan=False: a NaN ended the run in a traceback."""
    save_checkpoint(folder, {}, {"rows": [{"test_loss": math.nan}]})
    found, _ = load_checkpoint(folder)
    assert math.isnan(found.state["rows"][0]["test_loss"])


def test_nothing_there_is_nothing_and_no_warning(folder):
    assert load_checkpoint(folder) == (None, [])


def test_the_one_before_is_kept_and_no_more(folder):
    for step in range(1, 5):
        save(folder, step)
    assert names(folder) == ["checkpoint", "checkpoint.previous"]
    assert loaded_step(folder) == (4, [])
    shutil.rmtree(folder)
    assert loaded_step(folder) == (3, [])


def test_removing_leaves_nothing(two):
    shutil.copytree(two, two.with_name("checkpoint.new"))
    remove_checkpoint(two)
    assert names(two) == []


def check_fallback(folder, damaged):
    """`damaged` is named as not used, the checkpoint before is."""
    step, warnings = loaded_step(folder)
    assert step == 1, damaged
    assert len(warnings) == 1
    assert warnings[0].startswith(f"the checkpoint {folder} is damaged (")
    assert warnings[0].endswith(") and not used")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_never_loaded(two, name):
    data = (two / name).read_bytes()
    for length in sorted({0, 1, len(data) - 1, *range(0, len(data), max(1, len(data) // 50))}):
        (two / name).write_bytes(data[:length])
        check_fallback(two, (name, length))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_never_loaded(two, name):
    data = (two / name).read_bytes()
    for bit in np.random.default_rng(0).choice(8 * len(data), 250, replace=False).tolist():
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        (two / name).write_bytes(flipped)
        check_fallback(two, (name, bit))


@pytest.mark.parametrize("name", FILES)
def test_a_longer_a_missing_and_an_unreadable_file_are_never_loaded(two, name):
    with open(two / name, "ab") as file:
        file.write(b"\0")
    check_fallback(two, name)
    (two / name).unlink()
    check_fallback(two, name)
    (two / name).mkdir()
    check_fallback(two, name)


@pytest.mark.parametrize(("first", "second"), [*itertools.combinations(FILES, 2)])
def test_swapped_files_are_never_loaded(two, first, second):
    (two / first).rename(two / "aside")
    (two / second).rename(two / first)
    (two / "aside").rename(two / second)
    check_fallback(two, (first, second))


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_checkpoint_before_is_never_loaded(two, name):
    shutil.copy(two.with_name("checkpoint.previous") / name, two / name)
    check_fallback(two, name)


@pytest.mark.parametrize(
    "text", ["[]", "{}", "null", "1", '"a"', '{"state.json": 1}', "{", "[" * 9]
)
def test_a_manifest_of_another_kind_is_damage(two, text):
    (two / "manifest.json").write_text(text)
    check_fallback(two, text)


def test_an_empty_folder_is_damage(two):
    shutil.rmtree(two)
    two.mkdir()
    check_fallback(two, "all")


def test_the_sentence_names_the_file(two):
    (two / "model.safetensors").write_bytes(b"")
    _, (sentence,) = load_checkpoint(two)
    assert "(model.safetensors differs from the manifest)" in sentence


def test_two_damaged_ones_are_both_named_and_none_is_used(two):
    for path in (two, two.with_name("checkpoint.previous")):
        (path / "state.json").write_text("{}")
    step, warnings = loaded_step(two)
    assert step is None
    assert [sentence.split(" ")[2] for sentence in warnings] == [
        str(two),
        f"{two}.previous",
    ]


def test_after_damage_a_save_brings_the_newest_back(two):
    (two / "state.json").write_text("{}")
    save(two, 3)
    assert loaded_step(two) == (3, [])


def test_a_whole_new_one_without_its_name_is_given_it(two):
    """Killed between the two renames."""
    two.rename(two.with_name("checkpoint.new"))
    assert loaded_step(two) == (2, [])
    assert names(two) == ["checkpoint", "checkpoint.previous"]


def test_a_whole_new_one_beside_a_damaged_one_is_used(two):
    """Killed before the renames, and the current one was damaged later."""
    shutil.copytree(two, two.with_name("checkpoint.new"))
    (two / "state.json").write_text("{}")
    step, warnings = loaded_step(two)
    assert step == 2
    assert len(warnings) == 1
    assert loaded_step(two) == (2, [])


def test_a_new_one_beside_a_whole_one_is_not_used(folder):
    """Killed before the renames: the current one has the name."""
    save(folder, 2)
    folder.rename(folder.with_name("checkpoint.new"))
    save_checkpoint(folder.with_name("older"), {"m": {"w": torch.ones(1)}}, {"step": 1})
    folder.with_name("older").rename(folder)
    assert loaded_step(folder) == (1, [])


@pytest.mark.parametrize("name", FILES)
def test_a_new_one_begun_only_is_not_used_and_goes_with_the_next_save(two, name):
    """Killed while writing, before `name` was there."""
    new = two.with_name("checkpoint.new")
    shutil.copytree(two, new)
    for later in (*FILES[FILES.index(name) :], FILES[0]):
        (new / later).unlink(missing_ok=True)
    shutil.rmtree(two)
    assert loaded_step(two) == (1, [])
    save(two, 3)
    assert loaded_step(two) == (3, [])
    assert names(two) == ["checkpoint", "checkpoint.previous"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_any_failing_call_leaves_the_old_or_the_new_checkpoint(two, tmp_path, monkeypatch, code):
    """A partial checkpoint.new is there too, as a kill leaves it."""
    (two.with_name("checkpoint.new")).mkdir()
    (two.with_name("checkpoint.new") / "state.json").write_text("{")

    def prepare(number):
        return shutil.copytree(two.parent, tmp_path / str(number)) / "checkpoint"

    results = []
    for folder, error in each_failure(monkeypatch, code, prepare, lambda folder: save(folder, 3)):
        step, warnings = loaded_step(folder)
        assert warnings == []
        assert step == 3 if error is None else step in (2, 3)
        save(folder, 4)
        assert loaded_step(folder) == (4, [])
        assert names(folder) == ["checkpoint", "checkpoint.previous"]
        results.append((step, error is None))
    assert len(results) > 30
    assert set(results) == {(2, False), (3, False), (3, True)}


def test_a_full_disk_leaves_no_debris(two, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_synced", full)
        with pytest.raises(OSError, match="No space left on device"):
            save(two, 3)
    assert names(two) == ["checkpoint", "checkpoint.previous"]
    assert loaded_step(two) == (2, [])


def test_what_reads_back_differently_is_not_put_in_place(two, monkeypatch):
    """A bad disk: DamagedCheckpoint once went past the callers, who expect OSError."""
    write = checkpoint.write_synced
    monkeypatch.setattr(
        checkpoint, "write_synced", lambda path, data: write(path, data.replace(b"\0", b"\1"))
    )
    with pytest.raises(OSError, match=r"cannot be read back \(model.safetensors differs"):
        save(two, 3)
    assert loaded_step(two) == (2, [])
    assert names(two) == ["checkpoint", "checkpoint.previous"]


def test_an_interrupt_while_saving_leaves_the_old_one(two, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "sync_directory", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(two, 3)
    assert loaded_step(two) == (2, [])
    assert names(two) == ["checkpoint", "checkpoint.previous"]


def test_all_is_on_the_disk_before_the_first_name_changes(two, monkeypatch):
    calls, fsync, rename = [], os.fsync, os.rename

    def record_fsync(file):
        calls.append(Path(os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    def record_rename(source, target):
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "rename", record_rename)
    save(two, 3)
    new = two.with_name("checkpoint.new")
    first = calls.index("rename")
    assert set(calls[:first]) == {new / name for name in FILES} | {new, two.parent}
    assert calls.index(new) > max(calls.index(new / name) for name in FILES)
    assert calls[first:] == ["rename", "rename", two.parent]


def test_no_pickle_and_a_manifest_of_sums(two):
    assert sorted(path.name for path in two.iterdir()) == sorted(FILES)
    manifest = json.loads((two / "manifest.json").read_text())
    assert set(manifest) == set(FILES) - {"manifest.json"}
    assert all(len(value) == 64 for value in manifest.values())
