"""The convolutions of each device and CUDA graphs: right, one call each, and replaced where they do
not work."""

import copy
from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hmc_fast import optimize_for_inference
from hmc_fast.models import create_model, optimized
from hmc_fast.models.convolution import Convolution, is_right
from hmc_fast.models.cpu_convolution import SHAPES_KEPT, PrepackedConvolution, onednn_problem
from hmc_fast.models.cuda_graphs import GraphedCalls, Recording
from hmc_fast.models.folded import fold
from hmc_fast.models.folding import Identities
from hmc_fast.models.gpu_convolution import CudaConvolution, CudaStem
from hmc_fast.models.optimized import fastest_convolution
from hmc_fast.models.spatial_attention import SpatialAttention2d
from random_network import phantom_images, random_network, small_network

VIEWS = "alias as_strided detach expand permute select slice split split_with_sizes squeeze t"
VIEWS = {f"aten::{name}" for name in f"{VIEWS} transpose unsqueeze view _unsafe_view".split()}


class Calls(TorchDispatchMode):
    """Names of the operators that compute something, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, arguments=(), keywords=None):
        name = operator.name().split(".")[0]
        if name not in VIEWS:
            self.names.append(name)
        return operator(*arguments, **(keywords or {}))


def calls_of(function, *arguments):
    with torch.no_grad(), Calls() as calls:
        function(*arguments)
    return calls.names


@pytest.mark.skipif(onednn_problem(torch.float32) is not None, reason="no fused oneDNN operators")
def test_on_a_cpu_every_convolution_is_one_call_without_relu_or_sum():
    fast, images = optimize_for_inference(create_model("resnet50").eval()), phantom_images(1)
    fast(images)  # weights are laid out
    names = calls_of(fast.net, images)
    assert names.count("mkldnn::_convolution_pointwise") == 37
    assert names.count("mkldnn::_convolution_pointwise_") == 16
    others = [name for name in names if not name.startswith("mkldnn")]
    assert others == ["aten::max_pool2d_with_indices", "aten::mean", "aten::addmm"]


def test_without_onednns_operators_the_plain_convolutions_take_over(monkeypatch):
    monkeypatch.setattr(optimized, "onednn_problem", lambda dtype: "they are gone")
    model, images = small_network(torch.float32), phantom_images(2)
    fast = optimize_for_inference(model)
    assert not any(isinstance(module, PrepackedConvolution) for module in fast.modules())
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("problem", [None, AttributeError("no such operator"), RuntimeError("no")])
def test_operators_that_fail_or_err_are_found_out(monkeypatch, problem):
    def forward(self, x, residual=None):
        if problem:
            raise problem
        return torch.zeros(2, 32, *x.shape[2:])

    monkeypatch.setattr(PrepackedConvolution, "forward", forward)
    expected = f"cannot be called: {problem}" if problem else "give another result"
    assert expected in onednn_problem.__wrapped__(torch.float32)
    assert "take float32 and bfloat16" in onednn_problem.__wrapped__(torch.float64)


def test_weights_are_laid_out_anew_for_each_shape_and_few_are_kept():
    fast = optimize_for_inference(small_network(torch.float32))
    layer = fast.net.stem[0]
    shapes = [(1, 3, 64, 64), (2, 3, 64, 64), (2, 3, 64, 72), (3, 3, 80, 64)]
    results = [fast(torch.ones(shape)) for shape in shapes]
    if isinstance(layer, PrepackedConvolution):
        assert [tuple(shape) for shape in layer._packed] == shapes[-SHAPES_KEPT:]
    for shape, result in zip(shapes, results, strict=True):
        torch.testing.assert_close(fast(torch.ones(shape)), result)


def whole_blocks(variant):
    """Every attention block one call, whatever its size."""
    model = random_network(variant, torch.float32)
    for module in model.modules():
        if isinstance(module, SpatialAttention2d):
            module.backend = "chunked"
    return model


# Beside convolutions and attention: resizing for CA23 and CA34, CA34's mean weights, the average
# pool (its mean is taken in the classifier's dtype) and the classifier, the cast of the one vector
# that CA34 adds to it.
OTHERS = {
    "aten::upsample_bilinear2d": 2, "aten::bmm": 2, "aten::_softmax": 1, "aten::mean": 2,
    "aten::addmm": 2, "aten::add": 1, "aten::_to_copy": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "products", "blocks"),
    [("hmc", 42, 3), ("hierarchical", 38, 2), ("multiscale", 40, 1), ("resnet50", 36, 0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu_a_forward_has_few_calls_and_none_over_a_convolutions_output(
    variant, products, blocks, dtype
):
    """The same calls on a CPU: each is one kernel on a GPU, a library's or ours, but for attention
    with split keys, which is two."""
    net = fold(whole_blocks(variant), grayscale=True, kind=CudaConvolution, dtype=dtype)
    images = torch.zeros(1, 1, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
    found = Counter(calls_of(net, images))
    assert found.pop("hmc_fast::pooled_stem") == 1
    assert found.pop("hmc_fast::convolution_relu") == 16
    assert found.pop("hmc_fast::pointwise_convolution") == products
    assert found.pop("hmc_fast::chunked_attention", 0) == blocks
    assert found <= Counter(OTHERS)
    assert 1 + 16 + products + blocks + found.total() <= 75 - 2  # HA1 and HA2 may be two


STEMS = {
    "grey": ({"grayscale": True}, True),
    "colour": ({}, False),
    "a norm that is not folded": (
        {"grayscale": True, "identities": Identities(batch_norm=False, skip_map=False)},
        False,
    ),
}


@pytest.mark.parametrize("case", STEMS)
def test_the_stem_is_one_call_where_the_kernel_can_be_it(case):
    how, fused = STEMS[case]
    model, images = small_network(), phantom_images(2).double()
    net = fold(model, kind=CudaConvolution, **how)
    assert isinstance(net.stem, CudaStem) == fused
    with torch.no_grad():
        torch.testing.assert_close(net(images), model(images), rtol=1e-9, atol=1e-10)


def test_another_pool_behind_the_stem_is_not_the_kernels():
    model = small_network()
    model.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True).eval()
    assert not isinstance(fold(model, grayscale=True, kind=CudaConvolution).stem, CudaStem)


def test_the_stem_takes_masks():
    stem = fold(small_network(), grayscale=True, kind=CudaConvolution).stem
    image, masks = phantom_images(1)[:, :1].double(), torch.rand(3, 5, 5).double()
    upsampled = nn.functional.interpolate(masks[:, None], image.shape[2:], mode="bilinear")
    with torch.no_grad():
        torch.testing.assert_close(stem(image, masks), stem(image * upsampled))


@pytest.mark.parametrize("grayscale", [False, True])
def test_the_fused_operators_compile_without_a_graph_break(grayscale):
    net = fold(small_network(torch.float32), grayscale=grayscale, kind=CudaConvolution)
    images = phantom_images(2)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), net(images))


def test_the_devices_decide_which_convolutions_are_used(monkeypatch):
    monkeypatch.setattr(optimized, "onednn_problem", lambda dtype: None)
    monkeypatch.setattr(optimized, "cudnn_problem", lambda dtype, device: None)
    assert fastest_convolution(torch.float32, torch.device("cpu")) is PrepackedConvolution
    assert fastest_convolution(torch.float32, torch.device("cuda")) is CudaConvolution
    assert fastest_convolution(torch.float32, torch.device("meta")) is Convolution
    monkeypatch.setattr(optimized, "cudnn_problem", lambda dtype, device: "none")
    assert fastest_convolution(torch.float32, torch.device("cuda")) is Convolution


class StandIn:
    """A recorder whose replay computes: as a graph, it reads and writes fixed memory."""

    def __init__(self):
        self.recorded = []

    def __call__(self, forward, images):
        static, logits = images.clone(), forward(images).zero_()
        self.recorded.append(tuple(images.shape))
        return Recording(static, lambda: logits.copy_(forward(static)), logits)


def test_calls_of_one_batch_size_replay_a_graph_for_each_size_of_image():
    fast, recorder = optimize_for_inference(small_network(torch.float32)), StandIn()
    fast.graphs = GraphedCalls(2, recorder)
    inputs = [torch.randn(2, 3, 64, width) for width in (64, 72, 64)]
    first, other, again = (fast(images) for images in inputs)
    assert recorder.recorded == [(2, 3, 64, 64), (2, 3, 64, 72)]
    fast.graphs = None
    for images, got in zip(inputs, (first, other, again), strict=True):
        assert torch.equal(got, fast(images))


def test_other_batch_sizes_and_copies_have_no_graph():
    fast, recorder = optimize_for_inference(small_network(torch.float32)), StandIn()
    fast.graphs = GraphedCalls(2, recorder)
    fast(torch.zeros(3, 3, 64, 64))
    assert recorder.recorded == []
    fast(torch.zeros(2, 3, 64, 64))
    assert copy.deepcopy(fast).graphs._recordings == {}


def test_a_batch_size_changes_nothing_on_a_cpu():
    assert optimize_for_inference(small_network(), batch_size=4).graphs is None


on_gpu = pytest.mark.gpu
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.01}  # fp32: TF32 convolutions


def on_device(variant="hmc"):
    return random_network(variant, torch.float32).cuda(), phantom_images(8).cuda()


@on_gpu
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
@pytest.mark.parametrize("variant", ["hmc", "hierarchical", "multiscale", "resnet50"])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_on_a_gpu_optimised_and_original_agree(variant, dtype, batch_size):
    model, images = on_device(variant)
    fast = optimize_for_inference(model, dtype=dtype, grayscale=True, batch_size=batch_size)
    with torch.no_grad():
        for given in (images, images.flip(0), images[:3]):  # replayed with other images; no graph
            expected = copy.deepcopy(model).double()(given.double()).softmax(1)
            assert (fast(given).softmax(1) - expected).abs().max() <= LIMITS[dtype]


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_fused_convolutions_are_used_and_right_on_a_gpu(dtype):
    device = torch.device("cuda", torch.cuda.current_device())
    assert is_right(CudaConvolution, dtype, device)
    assert fastest_convolution(dtype, device) is CudaConvolution


@on_gpu
def test_a_forward_has_at_most_75_kernels():
    model, images = on_device()
    fast = optimize_for_inference(model, dtype=torch.bfloat16, grayscale=True)
    prepared = fast._prepare(images)
    with torch.no_grad():
        fast.net(prepared)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            fast.net(prepared)
            torch.cuda.synchronize()
    kernels = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    assert len(kernels) <= 75, kernels


@on_gpu
def test_activations_on_a_gpu_are_those_of_the_plain_network():
    model, images = on_device()
    fast = optimize_for_inference(model, grayscale=True, batch_size=8)
    plain = dict(fold(model, grayscale=True).maps(images[:, :1]))
    for stage, expected in plain.items():
        got = fast.activations(images, stage)
        assert (got - expected).norm() <= 1e-2 * expected.norm(), stage
