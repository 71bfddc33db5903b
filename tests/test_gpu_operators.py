"""The operators of convolutions on a GPU: what torch asks of them, and kernels that do not work."""

import pytest
import torch

from hmc_fast.attention import device_problem
from hmc_fast.kernels.configurations import dtype_name
from hmc_fast.kernels.convolution_plans import able
from hmc_fast.kernels.convolution_reference import pointwise_reference, pooled_stem_reference
from hmc_fast.models import gpu_operators
from hmc_fast.models.gpu_operators import PROVIDERS, kernels_problem, layer_of

CPU = torch.device("cpu")
DTYPES = [torch.float16, torch.bfloat16, torch.float32]
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.02, torch.float16: 4e-3}  # fp32: TF32
operators = torch.ops.hmc_fast


def normal(*shape, like=None):
    """Channels last where it is a map."""
    tensor = torch.randn(shape)
    tensor = tensor if like is None else tensor.to(like)
    return tensor.to(memory_format=torch.channels_last) if len(shape) == 4 else tensor


def test_a_convolution_passes_torchs_own_checks():
    x, weight = torch.randn(2, 4, 6, 5), torch.randn(3, 4, 3, 3)
    x, weight = (t.to(memory_format=torch.channels_last) for t in (x, weight))
    residual = torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last)
    operator = torch.ops.hmc_fast.convolution_relu
    for bias, added in ((None, None), (torch.randn(3), residual)):
        torch.library.opcheck(operator, (x, weight, bias, added, [2, 2], [1, 1], [1, 1], 1))


@pytest.mark.parametrize(("stride", "relu", "ending"), [(1, True, 2), (2, False, 0), (2, True, 1)])
def test_a_product_passes_torchs_own_checks(stride, relu, ending):
    x, weight = normal(2, 4, 7, 5), normal(3, 4, 1, 1)
    bias = normal(3) if ending else None
    residual = normal(2, 3, -(-7 // stride), -(-5 // stride)) if ending == 2 else None
    arguments = (x, weight, bias, residual, stride, relu)
    torch.library.opcheck(operators.pointwise_convolution, arguments)


@pytest.mark.parametrize("masks", [None, (3, 4, 5)])
def test_the_stem_passes_torchs_own_checks(masks):
    images, weight = normal(1 if masks else 2, 1, 17, 22), normal(5, 1, 7, 7)
    masks = None if masks is None else torch.rand(masks)
    torch.library.opcheck(operators.pooled_stem, (images, weight, normal(5), masks, None))


@pytest.mark.parametrize(("bias", "relu"), [(False, False), (True, False), (True, True)])
def test_a_gemm_is_the_convolution(bias, relu):
    given = (normal(2, 4, 5, 3), normal(6, 4, 1, 1), normal(6) if bias else None, None)
    out = PROVIDERS["cublaslt"](*given, 1, relu)
    torch.testing.assert_close(out, pointwise_reference(*given, relu=relu))
    assert out.is_contiguous(memory_format=torch.channels_last)


interpreted = pytest.mark.skipif(
    device_problem(CPU) is not None, reason="nothing can be interpreted here"
)


@interpreted
@pytest.mark.parametrize("stride", [1, 2])
def test_what_a_gpu_runs_for_few_rows_is_the_kernel(stride, monkeypatch):
    """The implementation for CUDA, interpreted."""
    size = -(-5 // stride)
    given = [normal(2, 16, 5, 5), normal(24, 16, 1, 1) / 4, normal(24), normal(2, 24, size, size)]
    halves, started = [tensor.half() for tensor in given], []
    kernel = PROVIDERS["triton"]
    monkeypatch.setitem(PROVIDERS, "triton", lambda *a: started.append(1) or kernel(*a))
    out = gpu_operators._cuda_pointwise(*halves, stride, True)
    expected = pointwise_reference(*(t.double() for t in halves), stride=stride, relu=True)
    assert started
    assert (out - expected).norm() <= 2e-3 * expected.norm()


@interpreted
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_what_a_gpu_runs_for_the_masked_stem(dtype):
    """The kernel in half precision, torch otherwise."""
    images, weight, masks = (
        normal(1, 1, 9, 6).to(dtype),
        normal(8, 1, 7, 7) / 7,
        torch.rand(2, 3, 3),
    )
    out = gpu_operators._cuda_pooled_stem(images, weight.to(dtype), None, masks, None)
    expected = pooled_stem_reference(images, weight.to(dtype), None, masks)
    torch.testing.assert_close(out, expected, rtol=5e-3, atol=5e-3)
    assert out.is_contiguous(memory_format=torch.channels_last)


@interpreted
def test_kernels_that_err_or_fail_are_found_out(monkeypatch):
    problem, kernel = kernels_problem.__wrapped__, "hmc_fast.kernels.pointwise.pointwise"
    assert problem(torch.float16, CPU) is None
    assert "float64" in problem(torch.float64, CPU)
    monkeypatch.setattr(kernel, lambda x, *rest, **how: x[:, :, ::2, ::2] * 0)
    assert "give another result" in problem(torch.float16, CPU)
    monkeypatch.setattr(kernel, lambda *given, **how: 1 / 0)
    assert "ZeroDivisionError: division by zero" in problem(torch.float16, CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ending", [(), ("bias",), ("bias", "residual")], ids=str)
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_provider_gives_the_result_on_a_gpu(dtype, ending, relu, stride):
    like = torch.empty(0, dtype=dtype, device="cuda")
    shapes = {"bias": (48,), "residual": (2, 48, 12 // stride, 12 // stride)}
    added = [normal(*shapes[n], like=like) if n in ending else None for n in shapes]
    given = [normal(2, 64, 12, 12, like=like), normal(48, 64, 1, 1, like=like) / 8, *added]
    wide = [None if t is None else t.double() for t in given]
    truth = pointwise_reference(*wide, stride=stride, relu=relu)
    for name in able(layer_of(*given, stride, relu), dtype_name(dtype)):
        out = PROVIDERS[name](*given, stride, relu)
        assert out.is_contiguous(memory_format=torch.channels_last), name
        assert (out.double() - truth).norm() <= LIMITS[dtype] * truth.norm(), name


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("masks", [None, (3, 7, 7)], ids=str)
def test_the_stem_on_a_gpu(dtype, masks):
    like = torch.empty(0, dtype=dtype, device="cuda")
    images, weight = normal(1, 1, 64, 48, like=like), normal(64, 1, 7, 7, like=like) / 7
    masks = None if masks is None else torch.rand(masks, device="cuda")
    bias = normal(64, like=like)
    wide = [t.double() for t in (images, weight, bias)]
    truth = pooled_stem_reference(*wide, None if masks is None else masks.double())
    out = operators.pooled_stem(images, weight, bias, masks, None)
    assert (out.double() - truth).norm() <= LIMITS[dtype] * truth.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_kernels_can_be_used_on_a_gpu(dtype):
    device = torch.device("cuda", torch.cuda.current_device())
    assert kernels_problem(dtype, device) is None
