"""How long a training step takes on this machine: measured for the cheapest network and for as many
others as a budget of seconds allows; what is not measured takes its share by its multiply-adds."""

import dataclasses
import math
import statistics
import time
from collections.abc import Iterable, Mapping

import torch

from hmc_fast.data.augment import draw_parameters
from hmc_fast.profiling.closed_form import closed_form
from hmc_fast.profiling.timing import milliseconds, on_device
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.session import Build
from hmc_fast.training.step import Trainer, choose_precision

BUDGET_SECONDS = 20.0  # of the timed steps of all networks
STEPS = 3  # timed, after one that warms up
TRIAL_BATCH = {"cpu": 8, "cuda": 32}  # images at the most; a larger batch takes its share


def seconds_an_image(
    configs: Iterable[TrainConfig], device: torch.device, build: Build
) -> dict[str, float]:
    """Seconds of training an image, by variant, of the cheapest one and of those after it that the
    budget allows; measured on random images, in the precision of --amp (`auto`: not tried out)."""
    by_variant = {config.variant: config for config in configs}
    started = time.perf_counter()
    timed: dict[str, float] = {}
    for config in sorted(by_variant.values(), key=gmac):
        if timed:
            trial = an_image(config, timed) * _trial_batch(config, device) * (STEPS + 1)
            if time.perf_counter() - started + trial > BUDGET_SECONDS:
                continue
        timed[config.variant] = _time_steps(config, device, build)
    return timed


def _time_steps(config: TrainConfig, device: torch.device, build: Build) -> float:
    """The median over STEPS steps, an image."""
    batch = _trial_batch(config, device)
    with torch.random.fork_rng(devices=[]), on_device(device):
        torch.manual_seed(0)
        model = build(dataclasses.replace(config, weights=None))
        shape = (batch, 1, config.pixels, config.pixels)
        images = torch.randint(256, shape, dtype=torch.uint8).to(device)
        precision = choose_precision(
            config.amp, model, device, (batch, config.pixels), deterministic=True, steps=0
        )
        trainer = Trainer(model, device, precision, config.lr, compiled=False)
        parameters = draw_parameters(0, range(batch), range(batch)).to(device)
        labels = torch.zeros(batch, dtype=torch.int64, device=device)
        times = [
            milliseconds(lambda: trainer.step(images, parameters, labels)) for _ in range(STEPS + 1)
        ]
    return statistics.median(times[1:]) / 1e3 / batch


def _trial_batch(config: TrainConfig, device: torch.device) -> int:
    return min(config.images_a_step, TRIAL_BATCH[device.type])


def an_image(config: TrainConfig, timed: Mapping[str, float]) -> float:
    """Seconds of training an image: as timed, or by the arithmetic of the timed network that is
    nearest in it."""
    if config.variant in timed:
        return timed[config.variant]
    own = gmac(config)
    others = {name: gmac(dataclasses.replace(config, variant=name)) for name in timed}
    nearest = min(others, key=lambda name: abs(math.log(others[name] / own)))
    return timed[nearest] * own / others[nearest]


def gmac(config: TrainConfig) -> float:
    """Of one image's forward pass."""
    macs = closed_form(
        config.variant, config.pixels, num_classes=len(config.class_names),
        reduction=config.reduction,
    )  # fmt: skip
    return sum(macs.values()) / 1e9
