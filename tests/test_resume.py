"""A run that was stopped at any step and goes on ends bit by bit as one that was never stopped."""

import contextlib
import functools
import itertools
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from hmc_fast.errors import InputError
from hmc_fast.models.network import HMCNet
from hmc_fast.training import fold, loop, session
from hmc_fast.training.checkpoint import load_checkpoint
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.fold import Interrupted
from hmc_fast.training.step import Trainer
from small_run import TinyNet, outcome, same_bits, write_images
from tiny import skip_pages

# 22 images, 11 of them for training: 2 passes are 22 images, 5 steps of 5
SETTINGS = {
    "image_size": 64,
    "batch_size": 5,
    "epochs": 2,
    "folds": 2,
    "only_fold": 0,
    "device": "cpu",
    "amp": "off",
    "deterministic": True,
    "workers": 0,
}
STEPS = 5
VARIATIONS = {
    "two passes": {},
    "validation": {"validation_fraction": 0.3, "epochs": 3},
    "class weights": {"class_weights": "balanced"},
    "bf16": {"amp": "bf16"},
    "fp16 with its scaler": {"amp": "fp16"},
    "a budget that ends within a pass": {"epochs": None, "augmented": 38},
    "a budget below one pass": {"epochs": None, "augmented": 7},
    "batches larger than a pass": {"batch_size": 14, "epochs": 3},
}


class Crash(Exception):
    """Stands for whatever ends a process without notice."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """data/ and a cache of its images."""
    root = tmp_path_factory.mktemp("shared")
    write_images(root / "data")
    return root


@pytest.fixture
def start(shared, tmp_path, monkeypatch):
    """A function that trains to its end in tmp_path/NAME, "unbroken" without checkpoints, and
    returns this folder."""
    monkeypatch.setenv("HMC_FAST_CACHE", str(shared / "cache"))
    skip_pages(monkeypatch)

    def run(name="run", *, resume=False, network=TinyNet, **changes):
        every = 1000.0 if name == "unbroken" else 0.0
        values = SETTINGS | {"checkpoint_every": every} | changes
        config = TrainConfig(data=str(shared / "data"), out=str(tmp_path / name), **values)
        return loop.train(config, resume=resume, quiet=True, build=lambda config: network())

    return run


@contextlib.contextmanager
def at_step(number, action):
    """Call `action` instead of the step `number`, from 0, that is taken inside."""
    steps, step = itertools.count(), Trainer.step

    def counted(*args):
        if next(steps) == number:
            action()
        return step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", counted)
        yield


def crash():
    raise Crash


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def crashes(function, step, **settings):
    """Whether `function` came to a step, where it is ended without notice."""
    try:
        with at_step(step, crash):
            function(**settings)
    except Crash:
        return True
    return False


def stopped_step(folder, number=0):
    found, warnings = load_checkpoint(folder / f"fold{number}" / "checkpoint")
    assert warnings == []
    return found.state["step"]


@pytest.mark.parametrize("name", VARIATIONS)
def test_a_crash_after_every_step_changes_nothing(start, tmp_path, name):
    expected = outcome(start("unbroken", **VARIATIONS[name]))
    assert crashes(start, 0, **VARIATIONS[name])
    crash_count = 1
    while crashes(start, 1, resume=True, **VARIATIONS[name]):
        assert stopped_step(tmp_path / "run") == crash_count
        crash_count += 1
    assert crash_count >= (1 if "below" in name else 3)
    assert outcome(tmp_path / "run") == expected


@pytest.mark.parametrize("step", range(STEPS - 1))
def test_a_signal_in_any_step_stops_after_it_and_the_run_goes_on(start, tmp_path, capsys, step):
    expected = outcome(start("unbroken"))
    with at_step(step, interrupt), pytest.raises(Interrupted):
        start(checkpoint_every=1000.0)
    assert stopped_step(tmp_path / "run") == step + 1
    assert f"--resume --out {tmp_path / 'run'}" in capsys.readouterr().out
    assert outcome(start(resume=True, checkpoint_every=1000.0)) == expected


def test_a_signal_in_the_last_step_of_a_fold_stops_before_the_next(start, tmp_path):
    """Each fold once had signal handlers of its own, and the next one forgot the signal."""
    expected = outcome(start("unbroken", only_fold=None))
    with at_step(STEPS - 1, interrupt), pytest.raises(Interrupted):
        start(only_fold=None)
    assert sorted(p.name for p in (tmp_path / "run" / "fold0").iterdir()) == [
        "history.csv", "model.json", "model.safetensors", "predictions.csv",
    ]  # fmt: skip
    assert not (tmp_path / "run" / "fold1").exists()
    assert outcome(start(resume=True, only_fold=None)) == expected


def test_a_second_signal_stops_at_once(start, tmp_path):
    def twice():
        interrupt()
        interrupt()

    with at_step(2, twice), pytest.raises(KeyboardInterrupt) as error:
        start(checkpoint_every=1000.0)
    assert not isinstance(error.value, Interrupted)
    assert load_checkpoint(tmp_path / "run" / "fold0" / "checkpoint") == (None, [])


def test_signals_are_handled_as_before_when_the_run_is_over(start):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    start()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_crash_in_the_second_fold_leaves_the_first_alone(start, tmp_path):
    expected = outcome(start("unbroken", only_fold=None))
    assert crashes(start, STEPS + 2, only_fold=None)
    first = tmp_path / "run" / "fold0" / "model.safetensors"
    written = first.stat().st_mtime_ns
    assert outcome(start(resume=True, only_fold=None)) == expected
    assert first.stat().st_mtime_ns == written


def test_a_fold_resumed_alone_is_the_fold_of_the_whole_run(start, tmp_path):
    """Folds share no random state."""
    whole = start("unbroken", only_fold=None)
    assert crashes(start, 3, only_fold=1)
    start(resume=True, only_fold=1)
    for name in ("model.safetensors", "model.json", "predictions.csv"):
        paths = [folder / "fold1" / name for folder in (whole, tmp_path / "run")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("kept", ["checkpoint.previous", None])
def test_without_the_newest_checkpoint_the_end_is_the_same(start, tmp_path, kept):
    expected = outcome(start("unbroken"))
    assert crashes(start, 3)
    for name in {"checkpoint", "checkpoint.previous"} - {kept}:
        shutil.rmtree(tmp_path / "run" / "fold0" / name)
    assert outcome(start(resume=True)) == expected


def test_where_no_checkpoint_is_whole_the_fold_starts_again_and_says_so(start, tmp_path, capsys):
    expected = outcome(start("unbroken"))
    assert crashes(start, 3)
    for name in ("checkpoint", "checkpoint.previous"):
        (tmp_path / "run" / "fold0" / name / "model.safetensors").write_bytes(b"")
    assert outcome(start(resume=True)) == expected
    assert "no whole checkpoint is left: fold 0 starts again" in capsys.readouterr().out


@pytest.mark.parametrize("written", ["predictions.csv", "model.safetensors", "model.json"])
def test_a_crash_among_the_results_of_a_fold_changes_nothing(start, tmp_path, written, monkeypatch):
    expected = outcome(start("unbroken"))
    replace = os.replace

    def replace_and_crash(source, target):
        replace(source, target)
        if Path(target).parent.name == "fold0" and Path(target).name == written:
            raise Crash

    monkeypatch.setattr(os, "replace", replace_and_crash)
    with pytest.raises(Crash):
        start()
    monkeypatch.setattr(os, "replace", replace)
    assert (tmp_path / "run" / "fold0" / "checkpoint").is_dir()
    assert outcome(start(resume=True)) == expected


def test_the_start_of_a_run_that_did_not_begin_decides_nothing(start, tmp_path):
    """env.json of a start that was killed before config.json once gave its precision to the next
    start, whatever --amp said."""
    folder = start("unbroken", amp="bf16", seed=1)
    (tmp_path / "run").mkdir()
    for name in ("images.json", "folds.csv", "env.json"):
        shutil.copy(folder / name, tmp_path / "run" / name)
    expected = outcome(start("expected"))
    assert outcome(start(resume=True)) == expected
    precision = json.loads((tmp_path / "run" / "env.json").read_text())["precision"]
    assert precision["amp"] == "off"


def test_a_measured_precision_is_kept_when_the_run_goes_on(start, tmp_path, monkeypatch):
    """A second measurement could end otherwise."""
    expected = outcome(start("unbroken", amp="bf16"))
    measured = iter([loop.Precision("bf16", "measured"), loop.Precision("off", "measured")])
    monkeypatch.setattr(session, "choose_precision", lambda *args, **kwargs: next(measured))
    assert crashes(start, 2, amp="auto")
    assert outcome(start(resume=True, amp="auto")) == expected


def test_the_gradient_scaler_goes_on_at_its_scale(start, tmp_path, monkeypatch):
    """It begins so high here that steps are skipped, and rises again after every good one."""
    scaler = functools.partial(torch.amp.GradScaler, init_scale=2.0**24, growth_interval=1)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    settings = {"amp": "fp16", "epochs": 6}
    expected = outcome(start("unbroken", **settings))
    scales = set()
    crashes(start, 0, **settings)
    while crashes(start, 1, resume=True, **settings):
        found, _ = load_checkpoint(tmp_path / "run" / "fold0" / "checkpoint")
        scales.add(found.state["scaler"]["scale"])
    assert len(scales) > 2
    assert outcome(tmp_path / "run") == expected


def test_the_best_weights_so_far_come_back(start, tmp_path):
    """With such a step the validation loss rises from its first value."""
    settings = {"validation_fraction": 0.3, "epochs": 3, "lr": 0.3}
    expected = outcome(start("unbroken", **settings))
    crashes(start, 0, **settings)
    while crashes(start, 1, resume=True, **settings):
        continue
    assert json.loads((tmp_path / "run" / "fold0" / "model.json").read_text())["selected_epoch"] < 3
    assert outcome(tmp_path / "run") == expected


def record(monkeypatch, moment):
    """Every tensor that training stands on, by name, when a fold is `moment` (resumed, saved)."""
    seen = []
    function = getattr(fold, moment)

    def recorded(trainer, *args):
        result = function(trainer, *args)
        state = trainer.optimizer.state_dict()["state"]
        seen.append(
            {f"{i}.{name}": t.clone() for i, group in state.items() for name, t in group.items()}
            | {name: t.clone() for name, t in trainer.model.state_dict().items()}
            | {"random": torch.get_rng_state()}
        )
        return result

    monkeypatch.setattr(fold, moment, recorded)
    return seen


def test_weights_optimizer_and_random_state_come_back_with_their_layout(start, monkeypatch):
    saved, resumed = record(monkeypatch, "_save"), record(monkeypatch, "_resume")
    assert crashes(start, 3)
    start(resume=True)
    before, after = saved[2], resumed[1]
    assert before.keys() == after.keys()
    assert len(before) > 30
    for name, tensor in before.items():
        assert same_bits(tensor, after[name]), name
        assert tensor.stride() == after[name].stride(), name
    assert any(t.ndim == 4 and not t.is_contiguous() for t in after.values())  # channels_last


class Diverging(TinyNet):
    """Its logits are no numbers."""

    def forward(self, images):
        return super().forward(images) * torch.nan


def test_a_loss_that_is_no_number_is_one_sentence_with_checkpoints_too(start):
    """Saving such a sum was once a traceback."""
    with pytest.raises(InputError, match="the loss of fold 0 is no longer a number in epoch 1"):
        start(network=Diverging)


def tiny_hmc():
    return HMCNet(layers=(1, 1, 1, 1))


@pytest.mark.slow
def test_the_real_blocks_go_on_bit_by_bit(start, tmp_path):
    """Bottlenecks and attention, whose gammas start at 0."""
    settings = {"network": tiny_hmc, "epochs": 1, "lr": 1e-2}
    expected = outcome(start("unbroken", **settings))
    assert crashes(start, 2, **settings)
    assert outcome(start(resume=True, **settings)) == expected
