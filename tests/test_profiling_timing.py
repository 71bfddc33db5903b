"""How sides are timed and their memory is counted: in turn, within a budget, checked first."""

import gzip
import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hmc_fast.models import create_model
from hmc_fast.profiling import latency, timing
from hmc_fast.profiling.counts import Architecture
from hmc_fast.profiling.memory import peak_mib
from hmc_fast.profiling.networks import phantom_images, settled_network
from hmc_fast.profiling.sides import EAGER, OPTIMISED, Name, Side, can_optimise, make_sides
from hmc_fast.profiling.trace import write_trace

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def clock(monkeypatch):
    """A function that makes a call of so many seconds, on a clock that nothing else moves."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now.seconds)

    def call(seconds, log=None, name=""):
        def run():
            now.seconds += seconds
            if log is not None:
                log.append(name)
            return name

        return run

    return call


def test_sides_run_in_turn_and_the_first_changes(clock):
    log = []
    sides = {name: clock(s, log, name) for name, s in (("a", 0.001), ("b", 0.004), ("c", 0.002))}
    times = timing.in_turn(sides, range(3))
    assert "".join(log) == "abc" + "cba" + "abc"
    assert times == {name: pytest.approx([ms] * 3) for name, ms in (("a", 1), ("b", 4), ("c", 2))}


def test_a_timed_call_gives_its_result(clock):
    assert timing.timed(clock(0.25, name="result")) == ("result", pytest.approx(250))


def test_quantiles_are_median_and_20_and_80_percent():
    found = timing.quantiles([5.0, 1.0, 3.0, 2.0, 4.0, 0.0])
    assert found == pytest.approx({"q50": 2.5, "q20": 1.0, "q80": 4.0})


@pytest.mark.parametrize(("seconds", "rounds"), [(1.0, 20), (2.5, 8), (30.0, 3), (1e-9, 20)])
def test_rounds_fit_the_budget_of_20_seconds(seconds, rounds):
    assert latency.rounds_within(seconds, CPU) == rounds


def logits_side(*logits):
    values = torch.tensor([logits])
    return Side(lambda images: values, lambda images: values)


def test_a_wrong_side_is_named_and_not_timed(capsys):
    eager, wrong, right = (
        Name("net", provider, torch.float32) for provider in (EAGER, OPTIMISED, "compiled")
    )
    sides = {eager: logits_side(0.0, 1.0), wrong: logits_side(0.0, 1.1)}
    sides[right] = logits_side(5.0, 6.0)  # the same probabilities
    found = latency.measure(sides, torch.zeros(1, 3, 8, 8), rounds=2)
    assert [one.name for one in found] == [eager, right]
    assert [len(one.ms) for one in found] == [2, 2]
    said = capsys.readouterr().out
    assert "net optimised float32 is left out: max |Δp| against eager is 0.019" in said


def test_not_a_number_is_wrong():
    name = Name("net", EAGER, torch.float32)
    other = Name("net", OPTIMISED, torch.float16)
    sides = {name: logits_side(0.0, 1.0), other: logits_side(float("nan"), 1.0)}
    right, _ = latency.right_sides(sides, torch.zeros(1, 3, 8, 8), quiet=True)
    assert list(right) == [name]


def test_milliseconds_an_image_are_those_of_the_batch_shared():
    found = latency.Latency(Name("net", EAGER, torch.float32), 8, [80.0, 16.0], 1.0, 0.0)
    assert found.ms_an_image() == [10.0, 2.0]


def test_peak_memory_is_the_most_that_is_in_use_at_once():
    def call():
        first = torch.empty(3 * MIB, dtype=torch.uint8)
        second = torch.empty(5 * MIB, dtype=torch.uint8)
        del first
        return torch.empty(1 * MIB, dtype=torch.uint8), second

    call()
    assert peak_mib(call, CPU) == pytest.approx(8.0, abs=0.01)


def test_phantom_images_are_grey_and_begin_again():
    images = phantom_images(18, 64)
    assert images.shape == (18, 3, 64, 64)
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(images[:, 0], images[:, 2])
    assert torch.equal(images[16:], images[:2])
    assert not torch.equal(images[0], images[2])


@pytest.fixture(scope="module")
def settled():
    return settled_network(Architecture("hmc", 64))


def test_every_block_of_a_settled_network_is_computed(settled):
    state = torch.get_rng_state()
    again = settled_network(Architecture("hmc", 64))
    assert torch.equal(torch.get_rng_state(), state)
    assert [block.gamma.item() for block in again.attention_blocks().values()] == [0.5] * 4
    images = phantom_images(2, 64)
    assert not again.training
    assert torch.equal(again(images), settled(images))
    assert again(images).isfinite().all()


def test_the_sides_of_a_network_give_its_probabilities(settled):
    images = phantom_images(2, 64)
    expected = settled(images).softmax(1)
    sides = dict(make_sides("hmc", settled, [torch.float32], batch_size=2, compiled=False))
    assert [str(name) for name in sides] == ["hmc eager float32", "hmc optimised float32"]
    for side in sides.values():
        for call in side:
            logits = call(images)
            assert not logits.requires_grad
            torch.testing.assert_close(logits.softmax(1), expected, rtol=0, atol=1e-4)


def test_baselines_have_no_optimised_side():
    with torch.device("meta"):
        vit = create_model("vit_b_16", image_size=64).eval()
    assert not can_optimise(vit)
    sides = make_sides("vit_b_16", vit, [torch.float32], batch_size=1, compiled=False)
    assert [name.provider for name, _ in sides] == [EAGER]


def test_the_ninth_compiled_side_is_compiled_too(monkeypatch):
    seen = []
    backend = partial(torch.compile, backend=lambda graph, _: seen.append(graph) or graph)
    monkeypatch.setattr(torch, "compile", backend)
    for width in range(1, 12):
        network = nn.Sequential(nn.Flatten(), nn.Linear(12, width)).eval()
        sides = dict(make_sides("net", network, [torch.float32], batch_size=1, compiled=True))
        images = torch.ones(1, 3, 2, 2)
        eager, compiled = (side.forward(images) for side in sides.values())
        assert torch.equal(eager, compiled)
        assert len(seen) == width


@pytest.mark.parametrize("name", ["trace.json", "trace.json.gz"])
def test_a_trace_holds_a_span_for_each_side(tmp_path, name):
    sides = {Name("net", p, torch.float32): logits_side(0.0, 1.0) for p in (EAGER, OPTIMISED)}
    write_trace(tmp_path / name, sides, torch.zeros(4, 3, 8, 8))
    data = (tmp_path / name).read_bytes()
    events = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)["traceEvents"]
    spans = [e["name"] for e in events if e.get("cat") == "user_annotation"]
    wanted = ["net eager float32 batch 4", "net optimised float32 batch 4"]
    assert [span for span in spans if span.startswith("net")] == wanted
    assert list(tmp_path.iterdir()) == [tmp_path / name]
