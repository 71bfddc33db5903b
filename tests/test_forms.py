"""The two forms of an attention block: equal in exact arithmetic, the cheaper one chosen."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hmc_fast.models import create_model
from hmc_fast.models.forms import BlockSizes, choose_form, multiply_adds
from hmc_fast.models.spatial_attention import SpatialAttention2d

BACKENDS = ["reference", "chunked", "sdpa"]


def make_block(channels=16):
    torch.manual_seed(0)
    block = SpatialAttention2d(channels).double()
    with torch.no_grad():
        block.gamma.fill_(-0.7)
    return block


def output_and_gradients(block, x, context, match, form):
    block.form = form
    parameters = [*block.parameters(), *(match.parameters() if match else []), x]
    out = block(x, context, match)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad(out, parameters, cotangent)]


def assert_forms_agree(block, x, context=None, match=None):
    direct, reassociated = (
        output_and_gradients(block, x, context, match, form) for form in ("direct", "reassociated")
    )
    for one, other in zip(reassociated, direct, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_self_attention_is_the_same_in_both_forms(backend):
    block = make_block()
    block.backend = backend
    assert_forms_agree(block, torch.randn(2, 16, 5, 7, dtype=torch.float64).requires_grad_())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_matching_convolution_composes_into_keys_and_values(backend):
    block, match = make_block(), nn.Conv2d(6, 16, kernel_size=1).double()
    block.backend = backend
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64).requires_grad_()
    assert_forms_agree(block, x, torch.randn(2, 6, 3, 5, dtype=torch.float64), match)


def test_interpolation_and_matching_commute():
    match = nn.Conv2d(6, 16, kernel_size=1).double()
    finer = torch.randn(2, 6, 9, 13, dtype=torch.float64)

    def resize(feature_map):
        return nn.functional.interpolate(feature_map, size=(4, 7), mode="bilinear")

    torch.testing.assert_close(match(resize(finer)), resize(match(finer)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["reassociated", "auto"])
def test_the_network_trains_to_the_same_gradients_in_every_form(form):
    torch.manual_seed(0)
    model = create_model("hmc").double()
    for block in model.attention_blocks().values():
        nn.init.constant_(block.gamma, 0.6)
    images, results = torch.randn(3, 3, 64, 64, dtype=torch.float64), {}
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("direct", form):
        model.load_state_dict(state)
        for block in model.attention_blocks().values():
            block.form = name
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2]))
        results[name] = [logits, *torch.autograd.grad(loss, list(model.parameters()))]
    largest = max(gradient.abs().max() for gradient in results["direct"])
    for one, other in zip(results[form], results["direct"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10 * float(largest))


def test_inference_and_single_images_are_as_the_paper_writes_it():
    for model in (create_model("hmc"), create_model("hmc").eval()):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 224, 224))
        assert counter.get_total_flops() / 2e9 == pytest.approx(9.1730, abs=5e-5)


@pytest.mark.parametrize("form", ["direct", "reassociated"])
def test_multiply_adds_are_those_that_torch_counts(form):
    sizes = BlockSizes(batch=2, tokens_q=12, tokens_k=12, d_qk=2, channels=16, raw_channels=6)
    block, match = SpatialAttention2d(16, form=form, backend="reference"), nn.Conv2d(6, 16, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block(torch.zeros(2, 16, 3, 4), torch.zeros(2, 6, 3, 4), match)
    queries = 2 * 12 * 16 * 2  # equal in both forms, so not counted
    biases = 16 * 16 + 2 * 16 if form == "reassociated" else 0  # of composed weights: a row each
    expected = dict(zip(("direct", "reassociated"), multiply_adds(sizes), strict=True))[form]
    assert counter.get_total_flops() // 2 - queries - expected in (0, biases)


def test_auto_takes_the_form_with_less_arithmetic_in_training():
    at_224 = BlockSizes(32, 49, 49, 256, 2048, 1024)
    at_64 = at_224._replace(batch=8, tokens_q=4, tokens_k=4)
    assert choose_form("auto", True, at_224).form == "reassociated"
    assert choose_form("auto", True, at_64).form == "direct"
    assert choose_form("auto", False, at_224).form == "direct"
    assert choose_form("auto", True, at_224._replace(raw_channels=0)).form == "direct"
    assert choose_form("reassociated", False, at_64).form == "reassociated"


def test_an_unknown_form_is_named():
    with pytest.raises(ValueError, match="attention_form must be one of auto, direct"):
        create_model("hmc", attention_form="fast")


def kept_for_backward(block, x):
    """Bytes of every storage that autograd holds, parameters left out."""
    storages = {}
    parameters = {p.untyped_storage().data_ptr() for p in block.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = block(x)
    assert out.requires_grad
    return sum(s.nbytes() for pointer, s in storages.items() if pointer not in parameters)


@pytest.mark.skipif(torch.cuda.is_available(), reason="interprets the kernels on a CPU")
def test_the_fused_kernels_keep_one_map_less_in_the_reassociated_form():
    torch.manual_seed(0)
    x = torch.randn(1, 128, 17, 17).to(memory_format=torch.channels_last)
    kept = {}
    for form in ("direct", "reassociated"):
        kept[form] = kept_for_backward(SpatialAttention2d(128, backend="triton", form=form), x)
    weights = 2 * 128 * 128 * x.element_size()  # gamma times the values' weight, and its transpose
    assert kept["reassociated"] <= kept["direct"] - x.nbytes + weights
