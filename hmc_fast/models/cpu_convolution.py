"""Convolutions on a CPU through oneDNN: weights laid out once, bias, residual and ReLU in the same
pass.

torch.compile uses the same operators, which are private: `onednn_problem` tries them when a network
is built, and the plain convolution takes over where they are missing or wrong. The layout that
oneDNN wants depends on the map's size and, with several threads, on the batch: a weight laid out
for another shape would be rearranged in every call, which costs up to ten times the convolution. So
weights are laid out when a shape is first seen, and those of three shapes are kept.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from hmc_fast.models.convolution import Convolution, is_right

SHAPES_KEPT = 3  # a large batch in parts, what is left of it, a single image


class PrepackedConvolution(Convolution):
    """The same parameters and result; the rearranged weights beside them are a cache, which copies
    and files leave out."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._packed: dict[tuple[int, ...], Tensor] = {}

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        plain = x.device.type != "cpu" or x.dtype == torch.float64 or self.norm is not None
        if plain or torch.compiler.is_compiling():
            return super().forward(x, residual)
        stride, padding, dilation, groups = self.geometry
        weight = self._packed.get(x.shape)
        weight = self._pack(x) if weight is None else weight
        settings = (weight, self.bias, padding, stride, dilation, groups)
        relu = "relu" if self.relu else None
        operators = torch.ops.mkldnn
        if residual is None:
            return operators._convolution_pointwise(x, *settings, relu or "none", [], "")
        added: tuple[Any, ...] = ("add", 1.0, relu, [], "")
        if self.overwrite:
            return operators._convolution_pointwise_.binary(residual, x, *settings, *added)
        return operators._convolution_pointwise.binary(x, residual, *settings, *added)

    def _pack(self, x: Tensor) -> Tensor:
        """The weight as oneDNN wants it for maps of this shape."""
        stride, padding, dilation, groups = self.geometry
        size = [max(1, len(x)), *x.shape[1:]]
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            self.weight, padding, stride, dilation, groups, size
        )
        kept = list(self._packed.items())[1 - SHAPES_KEPT :]
        self._packed = dict([*kept, (x.shape, packed)])  # at once: other threads may call too
        return packed

    def _apply(self, *args: Any, **kwargs: Any) -> "PrepackedConvolution":
        self._packed = {}  # another dtype or device
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._packed = {}
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": {}}


@functools.cache
def onednn_problem(dtype: torch.dtype) -> str | None:
    """Why PrepackedConvolution cannot be used for `dtype`, or None."""
    if dtype not in (torch.float32, torch.bfloat16):
        return f"oneDNN's fused convolutions take float32 and bfloat16, not {dtype}"
    try:
        right = is_right(PrepackedConvolution, dtype, torch.device("cpu"))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        return f"oneDNN's fused convolutions cannot be called: {error}"
    return None if right else "oneDNN's fused convolutions give another result"
