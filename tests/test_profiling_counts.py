"""Parameters and multiply-adds: by hand, by torch's counter and by fvcore, and what is executed."""

import itertools

import pytest
import torch

from hmc_fast.attention import device_problem
from hmc_fast.models import VARIANTS
from hmc_fast.profiling.closed_form import closed_form
from hmc_fast.profiling.counts import (
    Architecture,
    count,
    dispatched_macs,
    executed_macs,
    flop_counter_macs,
    fvcore_macs,
    parameters,
)
from hmc_fast.profiling.modules import module_table

CPU = torch.device("cpu")
HMC = ("hmc", "hierarchical", "multiscale", "resnet50")
PAPER_SIZE = {  # design.md, section 2: parameters and GMAC at 224 px
    "hmc": (33_106_695, 9.1730),
    "hierarchical": (23_924_741, 7.7873),
    "multiscale": (32_696_133, 5.4728),
    "resnet50": (23_514_179, 4.0871),
}
REDUCED = {4: (34_500_295, 9.7381), 2: (37_287_495, 10.8683), 1: (42_861_895, 13.1287)}


def by_hand(architecture):
    variant, size, classes, reduction = architecture
    return closed_form(variant, size, num_classes=classes, reduction=reduction)


@pytest.mark.parametrize("variant", PAPER_SIZE)
def test_the_designs_figures(variant):
    size, gmac = PAPER_SIZE[variant]
    assert parameters(Architecture(variant)) == size
    assert sum(closed_form(variant).values()) / 1e9 == pytest.approx(gmac, abs=5e-5)


@pytest.mark.parametrize("reduction", REDUCED)
def test_the_designs_figures_of_other_reductions(reduction):
    size, gmac = REDUCED[reduction]
    assert parameters(Architecture("hmc", reduction=reduction)) == size
    macs = sum(closed_form("hmc", reduction=reduction).values())
    assert macs / 1e9 == pytest.approx(gmac, abs=5e-5)


def test_single_layers_of_the_closed_form():
    found = closed_form("hmc", 224, num_classes=5)
    assert found["conv1"] == 112 * 112 * 64 * 3 * 7 * 7
    assert found["match_ca34"] == 14 * 14 * 1024 * 2048
    queries_keys_values = 784 * 512 * (64 + 64 + 512)
    assert found["ha2"] == queries_keys_values + 784 * 784 * (64 + 512)
    assert found["fc"] == 2048 * 5


@pytest.mark.parametrize("size", [224, 96, 130])
@pytest.mark.parametrize("variant", VARIANTS)
def test_torchs_counter_equals_the_closed_form_in_every_module(variant, size):
    size = 144 if variant == "vit_b_16" and size == 130 else size
    architecture = Architecture(variant, size, num_classes=4)
    counted, expected = flop_counter_macs(architecture), by_hand(architecture)
    assert counted[""] == sum(expected.values())
    assert {name: counted[name] for name in expected} == expected


@pytest.mark.parametrize("reduction", [8, 4, 2, 1])
@pytest.mark.parametrize("variant", ["hmc", "hierarchical", "multiscale"])
def test_torchs_counter_equals_the_closed_form_at_every_reduction(variant, reduction):
    architecture = Architecture(variant, 224, reduction=reduction)
    assert flop_counter_macs(architecture)[""] == sum(by_hand(architecture).values())


@pytest.mark.parametrize("backend", ["auto", "reference", "chunked", "sdpa"])
def test_the_backend_changes_no_count(backend):
    small, paper = Architecture("hmc", 64), Architecture("hmc", 224)
    assert flop_counter_macs(paper, backend)[""] == 9_172_994_304
    assert fvcore_macs(small, backend)[""] == sum(by_hand(small).values())


@pytest.mark.slow
@pytest.mark.skipif(device_problem(CPU) is not None, reason="Triton's interpreter is not in use")
def test_the_kernels_change_no_count():
    small = Architecture("hmc", 64)
    interpreted = dispatched_macs(small.network("triton"), small.image())
    assert interpreted == flop_counter_macs(small)
    assert fvcore_macs(small, "triton")[""] == interpreted[""] == sum(by_hand(small).values())


@pytest.mark.parametrize("variant", HMC)
def test_fvcore_equals_torchs_counter_in_every_module(variant):
    architecture = Architecture(variant, 64)
    counted = flop_counter_macs(architecture)
    macs = {name: n for name, n in fvcore_macs(architecture).items() if n}
    assert {name: counted.get(name) for name in macs} == macs
    assert macs[""] == sum(by_hand(architecture).values())


def test_all_ways_agree_on_hmc_at_the_papers_size():
    found = count(Architecture("hmc"), CPU, torch.float32)
    assert (found.closed_form, found.flop_counter, found.fvcore) == (9_172_994_304,) * 3
    assert found.gflop == pytest.approx(18.346, abs=1e-3)
    assert found.executed / 1e9 == pytest.approx(6.9953, abs=5e-5)
    assert found.agree
    assert not found._replace(fvcore=found.fvcore - 1).agree
    assert found._replace(fvcore=None).agree


ATTENDING = HMC[:3]  # reduction changes nothing in the others
CASES = [*itertools.product(VARIANTS, [8]), *itertools.product(ATTENDING, [4, 2, 1])]


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 96])
@pytest.mark.parametrize(("variant", "reduction"), CASES)
def test_all_ways_agree(variant, reduction, size):
    found = count(Architecture(variant, size, 3, reduction), CPU, torch.float32)
    assert found.closed_form == found.flop_counter == found.fvcore


def test_the_environment_changes_no_count(monkeypatch):
    monkeypatch.setenv("HMC_FAST_BACKEND", "triton")  # which does not run on meta tensors
    found = count(Architecture("multiscale", 64), CPU, torch.float32)
    assert found.closed_form == found.flop_counter == found.fvcore
    assert found.executed < found.closed_form


def test_a_network_that_cannot_be_folded_executes_no_other_count():
    assert executed_macs(Architecture("vit_b_16", 64), CPU, torch.float32) is None


def test_counting_leaves_the_fast_path_of_attention_as_it_was():
    before = torch.backends.mha.get_fastpath_enabled()
    flop_counter_macs(Architecture("vit_b_16", 64))
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_the_table_of_modules_adds_up():
    header, *rows = module_table(Architecture("hmc", 64))
    assert header.split() == ["module", "parameters", "GMAC", "share"]
    cells = {row.split()[0]: row.split()[1:] for row in rows}
    stages = [row for row in rows if not row.startswith((" ", "all"))]
    total = sum(int(row.split()[1].replace(",", "")) for row in stages)
    assert cells["all"][0] == f"{total:,}" == "33,106,695"
    products = 256 * 256 * (32 + 256) / 1e9  # of HA1 at 64 px: 16 x 16 tokens
    assert cells["ha1.(products)"][:2] == ["0", f"{products:.4f}"]
    assert cells["layer1.0"][0] == "75,008"
    assert "layer1.0.conv1" not in cells
