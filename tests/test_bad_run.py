"""Bad folders, runs and disks of `hmc-fast train`: one clear sentence, exit code 2, and nothing
lost."""

import contextlib
import errno
import json
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from hmc_fast.errors import InputError
from hmc_fast.files import write_json
from hmc_fast.training import checkpoint, loop
from hmc_fast.training.config import TrainConfig
from tiny import (
    SETTINGS,
    assert_refused,
    contents,
    flags,
    make_folder,
    run,
    skip_pages,
    tiny_network,
    use_tiny_network,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with class folders and run/, a finished run on them; tests leave both as they are."""
    root = tmp_path_factory.mktemp("shared")
    make_folder(root / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMC_FAST_CACHE", str(root / "cache"))
        use_tiny_network(patch)
        skip_pages(patch)
        words = ["--data", root / "data", *flags(out=root / "run"), "--deterministic", "--quiet"]
        assert run("train", *words) == 0
    return root


@pytest.fixture
def place(shared, tmp_path, monkeypatch) -> Path:
    """A working directory with data/ of its own; the tiny network stands for every variant."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMC_FAST_CACHE", str(shared / "cache"))
    use_tiny_network(monkeypatch)
    skip_pages(monkeypatch)
    shutil.copytree(shared / "data", tmp_path / "data")
    return tmp_path


@pytest.fixture
def finished(shared, place) -> Path:
    """done/, a copy of the finished run, with the data of the working directory."""
    shutil.copytree(shared / "run", place / "done")
    config = json.loads((place / "done" / "config.json").read_text())
    config |= {"data": "data", "out": "done"}
    write_json(place / "done" / "config.json", config)
    return place / "done"


@pytest.fixture
def check_refused(place, capsys):
    """A function: `hmc-fast train WORDS` is refused with one sentence that has `parts`."""
    return lambda words, *parts: assert_refused(capsys, place, ["train", *words], *parts)


WORDS = ["--data", "data", *flags(out="run")]


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("file", "--out file cannot be made: file is a file, not a folder"),
        ("file/run", "--out file/run cannot be made: {place}/file is a file, not a folder"),
        ("/proc/none/run", "cannot write to /proc/none/run: No such file or directory"),
        ("data", "data is not empty (it holds "),
        ("done", "done holds a run: go on with --resume, or choose another --out"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_a_place_that_is_no_free_folder(check_refused, place, out, sentence):
    (place / "file").touch()
    check_refused(["--data", "data", *flags(out=out)], sentence.format(place=place))


def test_a_folder_without_permission(check_refused, place, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    check_refused(WORDS, f"--out run cannot be written: no permission in {place}")


def test_a_disk_without_room_is_refused_with_the_figure(check_refused, monkeypatch):
    usage = SimpleNamespace(free=5 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_refused(
        ["--data", "data", *flags(out="runs/a/b")],
        "runs/a/b needs about 64 MiB (2 models, and checkpoints while training)",
        "but only 5 MiB are free",
    )


@pytest.mark.usefixtures("finished")
def test_resume_names_every_setting_that_differs(check_refused, place):
    words = ["--resume", "--out", "done"]
    sentence = "--resume cannot change settings of done: "
    check_refused([*words, "--lr", "0.5"], sentence + "--lr 0.0001 there, 0.5 here\n")
    differing = ["--epochs 2 there, not set here", "--augmented not set there, 9 here"]
    differing += ["--deterministic on there, off here"]
    check_refused([*words, "--augmented", "9", "--no-deterministic"], sentence, *differing)
    (place / "c.json").write_text('{"seed": 3, "workers": 5}')
    check_refused([*words, "--config", "c.json"], sentence + "--seed 0 there, 3 here\n")


def test_resume_needs_the_folder(check_refused):
    check_refused(["--resume", "--data", "data"], "--resume needs --out with the folder of the run")


def change_image() -> str:
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save("data/benign/b1_0.png")
    return "data has changed since the run in done began: benign/b1_0.png; restore the images"


def change_folds() -> str:
    path = Path("done/folds.csv")
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *(row[:-1] + str(1 - int(row[-1])) for row in rows), ""]))
    return "folds.csv of the run in done changed since it began: restore it or start a new run"


def spoil_config() -> str:
    Path("done/config.json").write_text("{")
    return "done/config.json is no JSON file"


def spoil_predictions() -> str:
    Path("done/fold1/predictions.csv").write_text("image,p_normal\n")
    return "done/fold1 is damaged (predictions.csv is not of the fold's test images)"


def spoil_history() -> str:
    Path("done/fold1/history.csv").unlink()
    return "done/fold1 is damaged (done/fold1/history.csv: No such file or directory)"


def spoil_weights() -> str:
    Path("done/fold0/model.safetensors").write_bytes(b"x")
    return "done/fold0 is damaged ("


def change_device() -> str:
    path = Path("done/env.json")
    path.write_text(path.read_text().replace('"device": "cpu"', '"device": "cuda"'))
    return "the device of the run in done changed since it began (cuda there, cpu here)"


SPOILS = [
    change_image,
    change_folds,
    change_device,
    spoil_config,
    spoil_predictions,
    spoil_history,
    spoil_weights,
]


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.usefixtures("finished")
def test_a_run_or_data_that_changed_meanwhile_is_named(check_refused, spoil):
    check_refused(["--resume", "--out", "done"], spoil())


def test_a_damaged_fold_is_trained_again_once_it_is_removed(finished, shared, capsys):
    spoil_weights()
    assert run("train", "--resume", "--out", "done", "--quiet") == 2
    hint = "remove it, and `hmc-fast train --resume --out done` trains it again"
    assert hint in capsys.readouterr().err
    shutil.rmtree(finished / "fold0")
    assert run("train", "--resume", "--out", "done", "--quiet") == 0
    assert_same_results(finished, shared / "run")


@pytest.mark.parametrize("words", [["--resume"], []])
def test_a_second_process_is_told_the_number_of_the_first(check_refused, place, words):
    entered, leave = threading.Event(), threading.Event()

    def wait_in_the_run(config: TrainConfig) -> torch.nn.Module:
        if (place / "run" / ".lock").exists():
            entered.set()
            leave.wait(60)
        return tiny_network(config)

    config = TrainConfig(data="data", out="run", **SETTINGS)
    options = {"quiet": True, "build": wait_in_the_run}
    first = threading.Thread(target=loop.train.func, args=(config,), kwargs=options)
    first.start()
    try:
        assert entered.wait(60)
        sentence = f"run is in use by process {os.getpid()}: wait for it, or stop it"
        check_refused([*WORDS, *words], sentence)
    finally:
        leave.set()
        first.join()
    assert (place / "run" / "metrics.json").is_file()
    assert not list(place.glob("run/.*"))


def test_a_lock_without_a_number_and_one_that_nobody_holds(check_refused, finished):
    with FileLock(finished / ".lock"):
        check_refused(["--resume", "--out", "done"], "done is in use by another process")
    (finished / ".owner").write_text("4711")  # a process that was killed
    assert run("train", "--resume", "--out", "done", "--quiet") == 0
    assert not list(finished.glob(".*"))


def test_a_run_that_began_while_the_images_were_decoded_is_left_alone(place):
    def meanwhile(config: TrainConfig) -> torch.nn.Module:
        (place / "run").mkdir()
        (place / "run" / "config.json").write_text("{}")
        return tiny_network(config)

    config = TrainConfig(data="data", out="run", **SETTINGS)
    with pytest.raises(InputError, match=r"run holds a run: go on with --resume"):
        loop.train.func(config, quiet=True, build=meanwhile)
    assert contents(place / "run").keys() == {"config.json"}


def test_a_default_name_that_was_taken_meanwhile_is_not_used(place):
    def meanwhile(config: TrainConfig) -> torch.nn.Module:
        (place / "runs" / "hmc-1").mkdir(parents=True, exist_ok=True)
        return tiny_network(config)

    config = TrainConfig(data="data", **SETTINGS)
    assert loop.train.func(config, quiet=True, build=meanwhile) == Path("runs/hmc-2")


def full_disk(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


def stop_after(steps: int):
    """For `loop.stop_signals`: asks for a stop when so many steps of a fold are done."""

    @contextlib.contextmanager
    def stop_signals(quiet: bool):
        answers = iter([False] * steps)
        yield lambda: next(answers, True)

    return stop_signals


def assert_same_results(one: Path, other: Path) -> None:
    for name in ("predictions.csv", "fold0/model.safetensors", "fold1/model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_a_disk_that_fills_up_loses_no_checkpoint(place, shared, capsys, monkeypatch):
    written, names = checkpoint.write_synced, []

    def fill_up_in_the_third(path: Path, data: bytes) -> None:
        names.append(path.name)
        written(path, data[:9])
        full_disk() if names.count("manifest.json") == 3 else written(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_synced", fill_up_in_the_third)
        words = [*WORDS, "--deterministic", "--checkpoint-every", "0", "--quiet"]
        assert run("train", *words) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("hmc-fast: cannot write the checkpoint in run/fold0: No space left")
    assert sentence.count("\n") == 1
    assert not list(place.glob("run/fold0/*.new"))
    assert run("train", "--resume", "--out", "run", "--quiet") == 0
    assert_same_results(place / "run", shared / "run")


@pytest.mark.parametrize("target", ["hmc_fast.training.fold.write_csv", "os.fsync"])
def test_a_full_disk_elsewhere_is_one_sentence_too(place, capsys, monkeypatch, target):
    with monkeypatch.context() as patch:
        patch.setattr(target, full_disk)
        assert run("train", *WORDS, "--quiet") == 2
    assert capsys.readouterr().err == "hmc-fast: No space left on device: somewhere\n"
    assert not list(place.glob("run/.*"))
    assert run("train", *WORDS, "--quiet", "--resume") == 0


def test_a_corrupt_checkpoint_is_named_and_the_one_before_is_used(
    place, shared, capsys, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "stop_signals", stop_after(3))
        words = [*WORDS, "--deterministic", "--checkpoint-every", "0", "--quiet"]
        assert run("train", *words) == 130
    newest = place / "run" / "fold0" / "checkpoint"
    assert (newest.parent / "checkpoint.previous").is_dir()
    spoilt = bytearray((newest / "model.safetensors").read_bytes())
    spoilt[-1] ^= 1
    (newest / "model.safetensors").write_bytes(spoilt)
    capsys.readouterr()
    assert run("train", "--resume", "--out", "run", "--quiet") == 0
    said = capsys.readouterr().out
    assert "the checkpoint run/fold0/checkpoint is damaged (model.safetensors differs" in said
    assert said.count("\n") == 1
    assert_same_results(place / "run", shared / "run")


def test_predictions_that_are_no_numbers_are_one_sentence(place, capsys, monkeypatch):
    diverged = lambda self, images, batch_size: torch.full((len(images), 3), torch.nan)  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr("hmc_fast.training.step.Trainer.predict", diverged)
        assert run("train", *WORDS, "--quiet") == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("hmc-fast: ")
    assert "lower --lr or train with --amp off" in sentence
    assert sentence.count("\n") == 1
