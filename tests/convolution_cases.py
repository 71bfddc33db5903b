"""What the tests of the convolution kernels share: problems, the allowed error, broken copies.

The rule is that of tolerances.py: 2 x (error of the plain twin in the dtype + rounding), by element
and by position, rounding being that of storing the result, and of the float32 sums.
"""

import importlib.util
import itertools
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kernel_inputs import DEVICE
from tolerances import FLOAT32, Bound, excess, stored

_COPIES = itertools.count()


class Case(NamedTuple):
    """A 1x1 convolution: samples, input channels, height, width, output channels, stride."""

    batch: int
    channels_in: int
    height: int
    width: int
    channels_out: int
    stride: int = 1


def normal(*shape: int, dtype: torch.dtype, seed: int, size: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (size * torch.randn(shape, generator=generator)).to(DEVICE, dtype)


def make_inputs(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    """x and residual channels last, weight and bias."""
    batch, channels, height, width, out, stride = case
    size = (-(-height // stride), -(-width // stride))
    maps = {
        "x": normal(batch, channels, height, width, dtype=dtype, seed=0),
        "residual": normal(batch, out, *size, dtype=dtype, seed=3),
    }
    maps = {n: t.to(memory_format=torch.channels_last) for n, t in maps.items()}
    weight = normal(out, channels, 1, 1, dtype=dtype, seed=1, size=channels**-0.5)
    return maps | {"weight": weight, "bias": normal(out, dtype=dtype, seed=2)}


def assert_near(result: Tensor, function: Any, inputs: dict[str, Any], **how: Any) -> None:
    """`result` is as near to `function` in float64 as the rule allows.

    function: the plain twin. The sums' magnitudes are its result for the inputs' own.
    """
    dtype = result.dtype

    def twin(change: Any) -> Tensor:
        changed = {
            name: change(value)
            if isinstance(value, Tensor) and value.is_floating_point()
            else value
            for name, value in inputs.items()
        }
        return function(**changed, **how).double().permute(0, 2, 3, 1)

    truth, magnitudes = twin(lambda t: t.double()), twin(lambda t: t.double().abs())
    error = (twin(lambda t: t) - truth).abs()
    rounding = stored(truth, dtype) + FLOAT32.eps * magnitudes
    bound = Bound(
        truth,
        2 * (error.max() + rounding.max()),
        2 * (error.norm(dim=-1) + rounding.norm(dim=-1)),
    )
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert excess(result.permute(0, 2, 3, 1), bound) <= 1


def broken_copy(module: ModuleType, old: str, new: str, folder: Path) -> ModuleType:
    """The kernel file with some text replaced everywhere, imported."""
    text = Path(module.__file__ or "").read_text()
    assert old in text, f"{old!r} is not in {module.__file__}"
    name = f"copied_convolution_{next(_COPIES)}"
    path = folder / f"{name}.py"
    path.write_text(text.replace(old, new))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


REVERSED = ("tl.program_id(0)", "(tl.num_programs(0) - 1 - tl.program_id(0))")
