"""How long a training step takes: measured within a budget, the rest by arithmetic."""

import itertools

import pytest
import torch

from hmc_fast.study import step_times
from hmc_fast.study.step_times import an_image, gmac, seconds_an_image
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.loop import build_model
from tiny import SETTINGS, tiny_network

CPU = torch.device("cpu")
VARIANTS = ("hmc", "vgg16", "resnet50")  # 9.17, 15.47 and 4.09 GMAC at 224 px


def configs(*variants, **settings):
    return [TrainConfig(variant=name, **SETTINGS | settings) for name in variants]


@pytest.fixture
def clock(monkeypatch):
    """A function that builds a network whose calls take clock.seconds[variant], on a clock that
    nothing else moves; clock.built: the variants that were built, in order."""
    now = [0.0]

    def milliseconds(call):
        call()
        seconds = build.seconds[build.built[-1]]
        now[0] += seconds
        return 1e3 * seconds

    def build(config):
        build.built.append(config.variant)
        return tiny_network(config)

    build.built, build.seconds = [], {"resnet50": 0.2, "hmc": 0.4, "vgg16": 0.6}
    monkeypatch.setattr(step_times, "milliseconds", milliseconds)
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: now[0])
    return build


def test_all_are_timed_where_that_is_quick(clock):
    found = seconds_an_image(configs(*VARIANTS, batch_size=4), CPU, clock)
    assert clock.built == ["resnet50", "hmc", "vgg16"]  # by arithmetic
    assert found == {name: pytest.approx(s / 4) for name, s in clock.seconds.items()}


def test_a_network_that_would_take_too_long_is_not_timed(clock):
    clock.seconds |= {"resnet50": 1.0, "hmc": 2.0}  # 4 steps each; then 4 * 3.4 s for vgg16
    found = seconds_an_image(configs(*VARIANTS, image_size=224), CPU, clock)
    assert clock.built == list(found) == ["resnet50", "hmc"]
    (vgg16,) = configs("vgg16", image_size=224)
    assert an_image(vgg16, found) == pytest.approx(found["hmc"] * 15.466 / 9.173, rel=1e-3)
    assert an_image(configs("hmc")[0], found) == found["hmc"]


def test_the_cheapest_network_is_timed_however_long_it_takes(clock):
    clock.seconds["resnet50"] = 100.0
    assert list(seconds_an_image(configs(*VARIANTS), CPU, clock)) == ["resnet50"]


def test_a_large_batch_is_tried_in_part(clock, monkeypatch):
    shapes = []
    stepped = step_times.Trainer.step

    def step(self, images, parameters, labels):
        shapes.append((tuple(images.shape), images.dtype, len(parameters), len(labels)))
        return stepped(self, images, parameters, labels)

    monkeypatch.setattr(step_times.Trainer, "step", step)
    found = seconds_an_image(configs("hmc", batch_size=100), CPU, clock)
    assert set(shapes) == {((8, 1, 64, 64), torch.uint8, 8, 8)}
    assert found == {"hmc": pytest.approx(0.4 / 8)}


def test_the_first_step_is_no_measure(clock, monkeypatch):
    times = itertools.chain([9000.0, 100.0, 700.0], itertools.repeat(200.0))
    monkeypatch.setattr(step_times, "milliseconds", lambda call: next(times))
    (config,) = configs("hmc", batch_size=2)
    assert seconds_an_image([config], CPU, clock) == {"hmc": pytest.approx(0.2 / 2)}


def test_the_random_state_is_left_as_it_was(clock):
    torch.manual_seed(5)
    expected = torch.get_rng_state()
    seconds_an_image(configs("hmc"), CPU, clock)
    assert torch.equal(torch.get_rng_state(), expected)


def test_arithmetic_is_that_of_the_networks():
    found = {config.variant: gmac(config) for config in configs(*VARIANTS, image_size=224)}
    assert found == {
        "hmc": pytest.approx(9.1730, abs=5e-5),
        "vgg16": pytest.approx(15.4662, abs=5e-5),
        "resnet50": pytest.approx(4.0871, abs=5e-5),
    }


@pytest.mark.slow
def test_real_networks_are_timed():
    found = seconds_an_image(configs("resnet50", "hmc", "vgg16"), CPU, build_model)
    assert 0 < found["resnet50"] < found["hmc"] < 10
