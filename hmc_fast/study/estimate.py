"""How long a study will train and how much disk it takes, before it starts: an estimate of the time
(step_times.py), a figure for the disk, which is refused where it is too small."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from hmc_fast.errors import InputError
from hmc_fast.sentences import counted, duration
from hmc_fast.study.step_times import an_image, seconds_an_image
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.fold import EVALUATIONS
from hmc_fast.training.loop import build_model
from hmc_fast.training.run_folder import PAGES_BYTES, checkpoint_bytes, nearest_existing
from hmc_fast.training.session import Build

FORWARD = 1 / 3  # of a training step: an evaluation has no backward pass
GIB = 2**30


class PlannedRun(NamedTuple):
    """A run that the study will train.

    config: its settings, the preset's filled in; folds: how many are not done yet; images: of the
    whole data set.
    """

    config: TrainConfig
    folds: int
    images: int

    @property
    def images_seen(self) -> float:
        """Images of a fold's steps, the forward passes of its evaluations as their share."""
        test = self.images / self.config.folds
        train = (self.images - test) * (1 - self.config.validation_fraction)
        total = self.config.augmented or self.config.passes * train
        evaluations = min(EVALUATIONS, max(1, round(total / train)))
        return total + FORWARD * test * (evaluations + 1)


class Estimate(NamedTuple):
    """seconds: of training, all in all; bytes: on the disk; each: seconds of one fold of every run,
    finished ones too (their images, where no run was timed); sentence: for the user."""

    seconds: float
    bytes: int
    each: list[float]
    sentence: str


def estimate_study(
    planned: Sequence[PlannedRun],
    folder: Path,
    device: torch.device,
    *,
    processes: int = 1,
    build: Build = build_model,
) -> Estimate:
    """What the runs will take, `processes` folds at a time on as many devices.

    folder: of the study, made or not; build: makes a network (tests give a small one). Raises
    InputError where the disk of `folder` is too small, with the figures.
    """
    to_do = [run for run in planned if run.folds]
    needed = check_study_disk(to_do, folder, processes=processes, build=build)
    if not to_do:
        each = [run.images_seen for run in planned]
        return Estimate(0.0, needed, each, "every fold of the study is trained")
    timed = seconds_an_image([run.config for run in to_do], device, build)
    each = [run.images_seen * an_image(run.config, timed) for run in planned]
    folds = [a for a, run in zip(each, planned, strict=True) for _ in range(run.folds)]
    parallel = processes if device.type == "cuda" else 1  # processes on a CPU share its cores
    seconds = max(sum(folds) / parallel, max(folds))
    sentence = (
        f"about {duration(seconds)} of training for {counted(len(folds), 'fold')} (an estimate: "
        f"{_ways(to_do, timed)}), and about {needed / GIB:.1f} GiB of disk"
    )
    return Estimate(seconds, needed, each, sentence)


def check_study_disk(
    planned: Sequence[PlannedRun], folder: Path, *, processes: int = 1, build: Build = build_model
) -> int:
    """Bytes that the runs add to the disk: a model a fold, `processes` folds' checkpoints while
    they train, and pages. InputError where so much is not free below `folder`."""
    sizes = [model_bytes(run.config, build) for run in planned]
    models = sum(size * run.folds for size, run in zip(sizes, planned, strict=True))
    checkpoints = processes * max(
        (
            checkpoint_bytes(size, run.config.validation_fraction > 0)
            for size, run in zip(sizes, planned, strict=True)
        ),
        default=0,
    )
    needed = models + checkpoints + PAGES_BYTES * (len(planned) + 1)
    free = shutil.disk_usage(nearest_existing(folder)).free
    if free < needed:
        folds = counted(sum(run.folds for run in planned), "model")
        raise InputError(
            f"the study needs about {needed / GIB:.1f} GiB in {folder} ({folds}: "
            f"{models / GIB:.1f} GiB, and {checkpoints / GIB:.1f} GiB for checkpoints while "
            f"training), but only {free / GIB:.1f} GiB are free: make room, choose another --out, "
            "or ask for fewer networks or folds"
        )
    return needed


def model_bytes(config: TrainConfig, build: Build = build_model) -> int:
    """Of a network's parameters and buffers, which is what a finished fold keeps."""
    with torch.device("meta"):
        model = build(dataclasses.replace(config, weights=None))
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def _ways(planned: Sequence[PlannedRun], timed: Mapping[str, float]) -> str:
    """'resnet50 and hmc timed here, vgg16 by its arithmetic'."""
    others = sorted({run.config.variant for run in planned} - timed.keys())
    here = f"steps of {', '.join(timed)} timed here"
    return f"{here}; {', '.join(others)} by arithmetic" if others else here
