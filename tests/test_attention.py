"""The operator: backends against float64 truth, gradients, compilation, and every refusal."""

import logging

import pytest
import torch

from hmc_fast import attention
from hmc_fast.attention import Shape, choose_backend, spatial_attention
from hmc_fast.kernels import chunked

BACKENDS = ["reference", "chunked", "sdpa"]
SHAPES = [  # batch, tokens_q, tokens_k, d_qk, d_v
    (1, 1, 1, 8, 8),
    (2, 17, 17, 8, 64),
    (1, 63, 65, 16, 16),
    (3, 196, 49, 8, 64),
    (1, 257, 49, 32, 256),
    (1, 49, 1025, 8, 8),
]


def make_inputs(batch, tokens_q, tokens_k, d_qk, d_v, dtype=torch.float64, gamma=0.7):
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (batch, tokens_q, d_qk),
        (batch, tokens_k, d_qk),
        (batch, tokens_k, d_v),
        (batch, tokens_q, d_v),
    ]
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]
    return [t.requires_grad_() for t in (*tensors, torch.tensor([gamma], dtype=dtype))]


def textbook(q, k, v, x, gamma, scale):
    """Equations 11 to 15, written with sums over every index."""
    weights = torch.exp(scale * torch.einsum("bic,bjc->bij", q, k))
    attention_map = weights / weights.sum(-1, keepdim=True)
    return gamma * torch.einsum("bij,bjc->bic", attention_map, v) + x


def output_and_gradients(function, inputs):
    out = function(*inputs)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return [out, *torch.autograd.grad(out, inputs, cotangent)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("gamma", [0.0, -1.5])
def test_output_and_gradients_equal_the_textbook_in_float64(backend, shape, gamma):
    inputs = make_inputs(*shape, gamma=gamma)
    expected = output_and_gradients(lambda *t: textbook(*t, 0.3), inputs)
    got = output_and_gradients(lambda *t: spatial_attention(*t, 0.3, backend), inputs)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rows_of_scores", [1, 7, 100])
def test_chunked_does_not_depend_on_the_block_size(monkeypatch, rows_of_scores):
    inputs = make_inputs(2, 53, 41, 8, 64)
    whole = output_and_gradients(lambda *t: spatial_attention(*t, None, "chunked"), inputs)
    monkeypatch.setattr("hmc_fast.kernels.chunked.BLOCK_BYTES", rows_of_scores * 41 * 8)
    blocks = output_and_gradients(lambda *t: spatial_attention(*t, None, "chunked"), inputs)
    for one, other in zip(blocks, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_keeps_dtype_and_stays_near_float64(backend, dtype):
    inputs = make_inputs(2, 65, 33, 16, 128, dtype)
    got = output_and_gradients(lambda *t: spatial_attention(*t, None, backend), inputs)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    expected = output_and_gradients(lambda *t: textbook(*t, 16**-0.5), wide)
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == dtype
        error = (one.double() - other).norm() / other.norm()
        assert error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits_give_the_dominating_key(backend):
    q = torch.full((1, 2, 8), 100.0)
    k = torch.stack([torch.full((8,), 10.0), torch.full((8,), -10.0)])[None]
    v = torch.tensor([[[1.0] * 8, [2.0] * 8]])
    out = spatial_attention(q, k, v, torch.zeros(1, 2, 8), torch.ones(1), 1.0, backend)
    torch.testing.assert_close(out, torch.ones(1, 2, 8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_default_scale_is_one_over_root_d_qk(backend):
    inputs = make_inputs(1, 9, 9, 16, 16)
    expected = spatial_attention(*inputs, 0.25, backend)
    torch.testing.assert_close(spatial_attention(*inputs, None, backend), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_without_a_graph_break(backend):
    inputs = make_inputs(2, 12, 12, 8, 64)

    def function(*tensors):
        return spatial_attention(*tensors, None, backend)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    for one, other in zip(
        output_and_gradients(compiled, inputs), output_and_gradients(function, inputs), strict=True
    ):
        torch.testing.assert_close(one, other)


def peaked_inputs():
    """Scores of standard deviation 40: most weights of a row are denormal or zero in float32."""
    q, k, v, x, gamma = make_inputs(2, 63, 65, 16, 24, dtype=torch.float32)
    return [(40 * q).detach().requires_grad_(), k, v, x, gamma]


def test_chunked_multiplies_no_denormal_numbers(monkeypatch):
    """A CPU takes 30 times as long over them, in every thread that does not flush them."""
    mm, smallest = torch.mm, torch.finfo(torch.float32).tiny
    seen = []

    def recorded(a, b, **options):
        seen.append(((a != 0) & (a.abs() < smallest)).sum().item())
        return mm(a, b, **options)

    inputs = [t.detach() for t in peaked_inputs()]
    weights = torch.softmax(inputs[0] @ inputs[1].mT / 4, dim=-1)
    assert ((weights > 0) & (weights < smallest)).sum() > 20
    monkeypatch.setattr(chunked.torch, "mm", recorded)
    chunked.chunked_forward(*inputs, 0.25)
    assert len(seen) == 4  # scores and values, two samples
    assert not any(seen)


def test_peaked_probabilities_give_the_references_gradients():
    inputs = peaked_inputs()
    expected, got = (
        output_and_gradients(lambda *t, name=name: spatial_attention(*t, None, name), inputs)
        for name in ("reference", "chunked")
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("smallest", "dtype", "peaked"),
    [
        (0.0, torch.float32, True),
        (1e-39, torch.float32, True),
        (1e-37, torch.float32, False),
        (1e-39, torch.float64, False),
        (float("nan"), torch.float32, False),
        (0.0, torch.bfloat16, False),  # its products have no denormal numbers
    ],
)
def test_a_row_of_some_tells_whether_there_are_denormal_numbers(smallest, dtype, peaked):
    probabilities = torch.full((40, 5), 0.2, dtype=dtype)
    probabilities[32, 3] = smallest
    assert chunked._is_peaked(probabilities) == peaked
    assert not chunked._is_peaked(probabilities[:0])


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_chunked_passes_torchs_own_operator_checks():
    inputs = [t.detach().requires_grad_() for t in make_inputs(2, 6, 5, 4, 8)]
    torch.library.opcheck(torch.ops.hmc_fast.chunked_attention, (*inputs, 0.5))


def test_chunked_refuses_a_second_derivative():
    inputs = make_inputs(1, 5, 5, 4, 8)
    out = spatial_attention(*inputs, None, "chunked")
    cotangent = torch.ones_like(out).requires_grad_()
    (first,) = torch.autograd.grad(out, inputs[0], cotangent, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_reference_passes_gradcheck():
    inputs = make_inputs(1, 4, 3, 2, 5)
    assert torch.autograd.gradcheck(lambda *t: spatial_attention(*t, None, "reference"), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_casts_all_but_gamma(backend):
    inputs = make_inputs(1, 8, 8, 8, 64, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = spatial_attention(*inputs, None, backend)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(t.grad.dtype == torch.float32 for t in inputs)


def test_channels_last_and_strided_inputs_equal_contiguous_ones():
    q, k, v, x, gamma = make_inputs(2, 12, 12, 8, 64)
    fused = torch.cat([q, k, v], dim=2).detach()
    parts = fused.split([8, 8, 64], dim=2)
    for backend in BACKENDS:
        got = spatial_attention(*parts, x, gamma, None, backend)
        torch.testing.assert_close(got, spatial_attention(q, k, v, x, gamma, None, backend))


def tensors(**changes):
    shapes = {"q": (2, 5, 4), "k": (2, 6, 4), "v": (2, 6, 32), "x": (2, 5, 32), "gamma": (1,)}
    return {name: torch.zeros(changes.get(name, shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": (5, 4)}, r"q must have 3 dimensions .* \(5, 4\)"),
        ({"k": (2, 6, 3)}, r"k must be .* \(2, 6, 4\), got \(2, 6, 3\)"),
        ({"v": (3, 6, 32)}, r"v must be .* got \(3, 6, 32\)"),
        ({"x": (2, 5, 31)}, r"x must be .* \(2, 5, 32\), got \(2, 5, 31\)"),
        ({"x": (2, 5)}, r"x must have 3 dimensions .* \(2, 5\)"),
        ({"x": (2, 6, 32)}, r"x must be .* \(2, 5, 32\), got \(2, 6, 32\)"),
        ({"k": (2, 7, 4)}, r"k must be .* \(2, 6, 4\), got \(2, 7, 4\)"),
        ({"k": (2, 0, 4), "v": (2, 0, 32)}, "at least one key"),
        ({"v": (2, 6, 0), "x": (2, 5, 0)}, r"v must have at least one channel, got shape"),
        ({"gamma": ()}, r"gamma must have shape \(1,\)"),
    ],
)
def test_wrong_shapes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        spatial_attention(**tensors(**changes))


@pytest.mark.parametrize("name", ["k", "v", "x", "gamma"])
def test_a_tensor_on_another_device_is_named(name):
    mixed = tensors()
    mixed[name] = mixed[name].to("meta")
    with pytest.raises(ValueError, match=f"^{name} must .*on (q's device )?cpu, got .*meta"):
        spatial_attention(**mixed)


@pytest.mark.parametrize("name", ["k", "v", "x"])
def test_a_tensor_of_another_dtype_is_named(name):
    mixed = tensors()
    mixed[name] = mixed[name].half()
    with pytest.raises(ValueError, match=f"{name} must be .*torch.float32, got torch.float16"):
        spatial_attention(**mixed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": (2, 5, 257), "k": (2, 6, 257)}, "q must have at most 256 channels, got 257"),
        ({"v": (2, 6, 2049), "x": (2, 5, 2049)}, "v must have at most 2048 channels, got 2049"),
    ],
)
def test_widths_beyond_the_kernels_are_refused_by_triton_and_taken_by_auto(
    monkeypatch, changes, message
):
    monkeypatch.setattr("hmc_fast.attention.device_problem", lambda device: None)
    wide = tensors(**changes)
    with pytest.raises(ValueError, match=f"backend triton cannot run: {message}"):
        spatial_attention(**wide, backend="triton")
    assert spatial_attention(**wide).shape == wide["x"].shape


def test_wrong_dtypes_scales_and_backends_are_named():
    good = tensors()
    with pytest.raises(ValueError, match="q must be a float tensor"):
        spatial_attention(**{n: t.int() if n == "q" else t for n, t in good.items()})
    with pytest.raises(ValueError, match="scale must be a finite number"):
        spatial_attention(**good, scale=float("inf"))
    with pytest.raises(ValueError, match=r"v must be a float tensor of q's dtype torch.float32"):
        spatial_attention(**good | {"v": good["v"].double()})
    with pytest.raises(ValueError, match="gamma must be"):
        spatial_attention(**good | {"gamma": good["gamma"].half()})
    with pytest.raises(ValueError, match="scale must be a finite number"):
        spatial_attention(**good, scale=float("nan"))
    with pytest.raises(ValueError, match="backend must be one of auto, reference"):
        spatial_attention(**good, backend="flash")


def choose(tokens, backend="auto", needs_grad=False):
    shape = Shape(1, tokens, tokens, 32, 256)
    return choose_backend(backend, torch.device("cpu"), torch.float32, shape, needs_grad)


def test_environment_variable_overrides_auto_but_not_the_argument(monkeypatch):
    monkeypatch.setenv("HMC_FAST_BACKEND", "sdpa")
    assert choose(49).backend == "sdpa"
    assert choose(49, "chunked").backend == "chunked"
    monkeypatch.setenv("HMC_FAST_BACKEND", "fastest")
    with pytest.raises(ValueError, match="HMC_FAST_BACKEND must be one of"):
        choose(49)


CUDA = torch.device("cuda", 0)
HA1, TOO_WIDE = Shape(8, 3136, 3136, 32, 256), Shape(8, 3136, 3136, 32, 4096)


def test_auto_takes_the_fused_kernels_on_a_gpu_that_can_run_them(monkeypatch):
    monkeypatch.delenv("HMC_FAST_BACKEND", raising=False)
    monkeypatch.setattr(attention, "device_problem", lambda device: None)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for needs_grad in (False, True):
            assert choose_backend("auto", CUDA, dtype, HA1, needs_grad).backend == "triton"
    chosen = choose_backend("auto", CUDA, torch.float64, HA1, False)
    assert chosen.backend == "sdpa"
    assert "not float64" in chosen.reason
    chosen = choose_backend("auto", CUDA, torch.float16, TOO_WIDE, False)
    assert chosen.backend == "sdpa"
    assert "at most 2048 channels, got 4096" in chosen.reason


def test_auto_says_why_an_older_gpu_takes_plain_products(monkeypatch):
    monkeypatch.delenv("HMC_FAST_BACKEND", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    small = Shape(1, 49, 49, 256, 2048)
    chosen = choose_backend("auto", CUDA, torch.float16, small, True)
    assert chosen.backend == "reference"
    assert "needs compute capability 8.0, this GPU has 7.5" in chosen.reason
    with pytest.raises(ValueError, match="backend triton cannot run: it needs compute capability"):
        choose_backend("triton", CUDA, torch.float16, small, True)


def test_triton_is_refused_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton is not installed"):
        choose_backend("triton", CUDA, torch.float16, HA1, True)


def test_a_cpu_never_interprets_unasked(monkeypatch):
    monkeypatch.delenv("HMC_FAST_BACKEND", raising=False)
    for shape in (HA1, Shape(1, 49, 49, 256, 2048)):
        chosen = choose_backend("auto", torch.device("cpu"), torch.float32, shape, True)
        assert chosen.backend != "triton"


@pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is interpreted beside a GPU")
def test_bfloat16_is_refused_by_the_interpreter():
    good = {name: tensor.bfloat16() for name, tensor in tensors().items()}
    with pytest.raises(ValueError, match="interpreter computes bfloat16 products wrongly"):
        spatial_attention(**good, backend="triton")


def test_the_reason_is_logged_once(monkeypatch, caplog):
    monkeypatch.delenv("HMC_FAST_BACKEND", raising=False)
    attention._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="hmc_fast"):
        for _ in range(3):
            spatial_attention(**tensors())
    assert [r.getMessage() for r in caplog.records] == [
        "attention backend reference: few enough scores for plain products on a CPU"
    ]
