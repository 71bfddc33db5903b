"""What the study's networks cost: computed at the paper's size, timed once and kept."""

import json

import pytest
import torch

from hmc_fast.errors import InputError
from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.models import VARIANTS, create_model
from hmc_fast.profiling.latency import Latency
from hmc_fast.profiling.sides import EAGER, OPTIMISED, Name
from hmc_fast.study import complexity as module
from hmc_fast.study.complexity import complexity, timed_complexity

CPU = torch.device("cpu")
DESIGN = {  # parameters, GMAC, GFLOP: shared/design.md, section 2
    "hmc": (33_106_695, 9.1730, 18.35),
    "hierarchical": (23_924_741, 7.7873, 15.57),
    "multiscale": (32_696_133, 5.4728, 10.95),
    "resnet50": (23_514_179, 4.0871, 8.17),
}


@pytest.mark.parametrize("variant", DESIGN)
def test_the_figures_are_those_of_the_design(variant):
    (found,) = complexity([variant]).values()
    parameters, gmac, gflop = DESIGN[variant]
    assert found["parameters"] == parameters
    assert found["gmac"] == pytest.approx(gmac, abs=5e-5)
    assert found["gflop"] == pytest.approx(gflop, abs=5e-3)
    assert found["ms"] is None


def test_all_variants_in_the_order_asked_for():
    assert list(complexity(VARIANTS[::-1])) == list(VARIANTS[::-1])


def test_classes_and_reduction_count():
    (found,) = complexity(["hmc"], classes=2, reduction=1).values()
    with torch.device("meta"):
        model = create_model("hmc", 2, reduction=1)
    assert found["parameters"] == sum(p.numel() for p in model.parameters())
    assert found["gmac"] == pytest.approx(13.1287, abs=5e-5)  # the classifier is 2e-6 of it


@pytest.fixture
def timings(monkeypatch) -> list:
    """The settings of every measurement, which takes no time: resnet50 10 and 4 ms, vgg16 70."""
    calls = []

    def measure_all(settings, *, quiet):
        calls.append(settings)
        ms = {("resnet50", EAGER): 10.0, ("resnet50", OPTIMISED): 4.0, ("vgg16", EAGER): 70.0}
        return [
            Latency(Name(network, side, torch.float32), 1, [value - 1, value, value + 9], 0.0, 0.0)
            for (network, side), value in ms.items()
            if network in settings.variants
        ]

    monkeypatch.setattr(module, "measure_all", measure_all)
    return calls


def test_medians_at_batch_one_stand_beside(tmp_path, timings):
    found = timed_complexity(["resnet50", "vgg16"], tmp_path, CPU, rounds=3, quiet=True)
    assert (found["resnet50"]["ms"], found["resnet50"]["optimised_ms"]) == (10.0, 4.0)
    assert (found["vgg16"]["ms"], found["vgg16"]["optimised_ms"]) == (70.0, None)
    assert found["vgg16"]["parameters"] == complexity(["vgg16"])["vgg16"]["parameters"]
    (settings,) = timings
    assert (settings.batches, settings.image_size, settings.rounds) == ((1,), 224, 3)
    assert [dtype_name(dtype) for dtype in settings.dtypes] == ["float32"]
    assert json.loads((tmp_path / "latency.json").read_text())["machine"]


def test_a_study_that_goes_on_does_not_time_again(tmp_path, timings):
    first = timed_complexity(["resnet50", "vgg16"], tmp_path, CPU)
    assert timed_complexity(["resnet50", "vgg16"], tmp_path, CPU) == first
    assert len(timings) == 1
    timed_complexity(["resnet50"], tmp_path, CPU)
    timed_complexity(["resnet50"], tmp_path, CPU, classes=2)
    assert len(timings) == 3


def test_a_damaged_file_is_one_sentence(tmp_path, timings):
    (tmp_path / "latency.json").write_text("{")
    with pytest.raises(InputError, match=r"latency\.json is no JSON file"):
        timed_complexity(["resnet50"], tmp_path, CPU)
    assert timings == []


@pytest.mark.slow
def test_a_real_network_is_timed(tmp_path):
    (found,) = timed_complexity(["resnet50"], tmp_path, CPU, rounds=2, quiet=True).values()
    assert 1 < found["ms"] < 10_000
    assert 1 < found["optimised_ms"] < 10_000
