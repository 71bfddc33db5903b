"""What a study takes before it starts: the disk, which is refused where it is too small, and an
estimate of the time."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hmc_fast.errors import InputError
from hmc_fast.study import estimate
from hmc_fast.study.estimate import PlannedRun, check_study_disk, estimate_study, model_bytes
from hmc_fast.training.config import TrainConfig
from tiny import SETTINGS, tiny_network

CPU = torch.device("cpu")
MIB = 2**20


def planned(variant="hmc", folds=5, images=100, **settings) -> PlannedRun:
    given = SETTINGS | {"folds": 5, "batch_size": 10, "epochs": 3} | settings
    return PlannedRun(TrainConfig(variant=variant, **given), folds, images)


@pytest.fixture
def timed(monkeypatch) -> dict[str, float]:
    """Seconds of training an image, instead of a measurement."""
    seconds = {"resnet50": 0.5, "hmc": 1.0}
    monkeypatch.setattr(estimate, "seconds_an_image", lambda configs, device, build: seconds)
    return seconds


@pytest.fixture
def disk(monkeypatch) -> SimpleNamespace:
    """A disk with so many bytes free; paths: what was asked about."""
    usage = SimpleNamespace(free=2**50, paths=[])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage.paths.append(path) or usage)
    return usage


def test_images_of_a_fold_with_its_evaluations():
    # 3 passes of 80; 4 evaluations of 20, each a third of a step
    assert planned().images_seen == pytest.approx(240 + 4 * 20 / 3)
    assert planned(validation_fraction=0.25).images_seen == pytest.approx(180 + 4 * 20 / 3)
    # 8000 in 100 passes, every one evaluated; 16000 no more often
    assert planned(epochs=None, augmented=8000).images_seen == pytest.approx(8000 + 101 * 20 / 3)
    assert planned(epochs=None, augmented=16000).images_seen == pytest.approx(16000 + 101 * 20 / 3)
    assert planned(epochs=None, augmented=40).images_seen == pytest.approx(40 + 2 * 20 / 3)


def test_the_time_is_that_of_all_folds(timed, tmp_path):
    runs = [planned("hmc", 5), planned("resnet50", 2), planned("vgg16", 0)]
    found = estimate_study(runs, tmp_path, CPU, build=tiny_network)
    one = 240 + 80 / 3
    assert found.seconds == pytest.approx((5 * 1.0 + 2 * 0.5) * one)
    assert found.each[:2] == pytest.approx([one, 0.5 * one])
    assert found.each[2] > one  # vgg16, though it is trained
    assert found.sentence == (
        "about 26 min 40 s of training for 7 folds (an estimate: steps of resnet50, hmc timed "
        "here), and about 0.2 GiB of disk"
    )


def test_finished_runs_are_not_timed(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        estimate,
        "seconds_an_image",
        lambda configs, *_: asked.extend(c.variant for c in configs) or {"hmc": 1.0},
    )
    estimate_study([planned("vgg16", 0), planned("hmc", 1)], tmp_path, CPU, build=tiny_network)
    assert asked == ["hmc"]


def test_what_is_not_timed_is_said(timed, tmp_path):
    found = estimate_study([planned("vgg16", 1)], tmp_path, CPU, build=tiny_network)
    assert "timed here; vgg16 by arithmetic)" in found.sentence


def test_devices_share_the_folds_and_processes_on_a_cpu_share_its_cores(timed, tmp_path):
    runs, one = [planned(folds=5)], 240 + 80 / 3
    settings = {"build": tiny_network}
    gpu = torch.device("cuda")
    assert estimate_study(runs, tmp_path, gpu, processes=2, **settings).seconds == pytest.approx(
        2.5 * one
    )
    assert estimate_study(runs, tmp_path, gpu, processes=8, **settings).seconds == pytest.approx(
        one
    )
    assert estimate_study(runs, tmp_path, CPU, processes=8, **settings).seconds == pytest.approx(
        5 * one
    )


def test_nothing_left_to_train_takes_no_time(tmp_path):
    found = estimate_study([planned(folds=0)], tmp_path, CPU, build=tiny_network)
    assert (found.seconds, found.sentence) == (0, "every fold of the study is trained")
    assert len(found.each) == 1


def test_bytes_are_models_checkpoints_and_pages(tmp_path):
    size = 4 * (8 * 3 * 64 + 8 + 4 * 8 + 8 * 3 + 3) + 8  # tiny network; BatchNorm counts in int64
    assert model_bytes(planned().config, tiny_network) == size
    runs = [planned(folds=5), planned("resnet50", folds=2)]
    found = check_study_disk(runs, tmp_path, processes=2, build=tiny_network)
    assert found == size * (7 + 2 * 9) + 3 * 64 * MIB  # 3 checkpoints, each with two moments
    selecting = [planned(folds=1, validation_fraction=0.2)]
    assert (
        check_study_disk(selecting, tmp_path, build=tiny_network) == size * (1 + 12) + 2 * 64 * MIB
    )


def test_real_networks_have_the_bytes_of_the_design():
    """33 106 695 and 23 514 179 parameters; 53 norms with two statistics a channel and a count."""
    statistics = 4 * 2 * 26_560 + 8 * 53
    assert model_bytes(planned("hmc").config) == 4 * 33_106_695 + statistics
    assert model_bytes(planned("resnet50").config) == 4 * 23_514_179 + statistics


def test_a_disk_that_is_too_small_is_refused_with_the_figures(disk, tmp_path, timed):
    disk.free = 3 * 2**30
    folder = tmp_path / "not" / "made"
    with pytest.raises(InputError) as error:
        estimate_study([planned("hmc", 35)], folder, CPU)
    assert str(error.value) == (
        f"the study needs about 5.6 GiB in {folder} (35 models: 4.3 GiB, and 1.1 GiB for "
        "checkpoints while training), but only 3.0 GiB are free: make room, choose another --out, "
        "or ask for fewer networks or folds"
    )
    assert disk.paths == [tmp_path]
    disk.free = 6 * 2**30
    assert estimate_study([planned("hmc", 35)], folder, CPU).bytes < disk.free
    assert not Path(folder).exists()
