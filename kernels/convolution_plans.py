"""Who computes each 1x1 convolution of inference on which GPU: one table, `convolution_plans.json`,
and a rule for the rest.

    cublaslt    a GEMM of cuBLAS, with bias, or bias and ReLU, in its epilogue: stride 1 and no
                residual
    cudnn       cuDNN's fused convolution with bias, residual and ReLU, or its plain one with
                neither: any stride
    triton      kernels/pointwise.py: everything
    plain       a convolution and passes over its result: what nobody else can

A row of the table holds an architecture, a dtype, the rows of the product (rounded up to a power of
two), channels, stride and epilogue. bench/convolution_plans.py measures rows on a GPU. Nothing is
timed when a model runs: one shape, dtype and GPU always take one provider.

The rule, for what nobody has measured. float32 and float64: the libraries, as the kernel's float32
products have no tensor cores. Without stride and residual: cublaslt, whose tiles are chosen for the
shape and may split the input channels. With them: cudnn where tiles of 128 x 128, with which a
large product is fastest, occupy every multiprocessor; triton where they do not, because its tile
shrinks until they do, and such layers are bound by how many multiprocessors fetch the weights.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hmc_fast.kernels.configurations import power_of_two

TABLE = Path(__file__).with_name("convolution_plans.json")
PROVIDERS = ("cublaslt", "cudnn", "triton", "plain")
LIBRARY_TILE = 128  # rows and columns
HALF = ("bfloat16", "float16")


class Layer(NamedTuple):
    """A 1x1 convolution: rows of the product (samples x height x width of the result), channels,
    stride, and what follows it."""

    rows: int
    channels_in: int
    channels_out: int
    stride: int
    bias: bool
    relu: bool
    residual: bool

    @property
    def group(self) -> "Layer":
        """The layer that stands for it in the table."""
        return self._replace(rows=power_of_two(self.rows))


KEY = ("architecture", "dtype", *Layer._fields)


def able(layer: Layer, dtype: str) -> tuple[str, ...]:
    """Those that compute it without a pass over the result, `plain` where there is none."""
    found = []
    if layer.stride == 1 and not layer.residual and (layer.bias or not layer.relu):
        found.append("cublaslt")
    if layer.relu or not (layer.residual or layer.bias):
        found.append("cudnn")
    if dtype != "float64":
        found.append("triton")
    return tuple(found) or ("plain",)


def provider_for(
    layer: Layer, dtype: str, architecture: int, processors: int, triton: bool = True
) -> str:
    """The table's provider, else the rule's. triton: whether its kernels can be used."""
    row = _table().get((architecture, dtype, *layer.group))
    if row is None and dtype == "float16":
        row = _table().get((architecture, "bfloat16", *layer.group))
    usable = [name for name in able(layer, dtype) if triton or name != "triton"]
    return row if row in usable else rule(layer, dtype, processors, triton)


def rule(layer: Layer, dtype: str, processors: int, triton: bool = True) -> str:
    """Of those that can, see above."""
    names = [name for name in able(layer, dtype) if triton or name != "triton"] or ["plain"]
    libraries = [name for name in names if name != "triton"]
    if dtype not in HALF:
        return libraries[0] if libraries else "plain"
    if "cublaslt" in names or "triton" not in names:
        return names[0]
    tiles = -(-layer.rows // LIBRARY_TILE) * -(-layer.channels_out // LIBRARY_TILE)
    return libraries[0] if libraries and tiles >= processors else "triton"


@cache
def _table() -> dict[tuple[Any, ...], str]:
    return {tuple(row[name] for name in KEY): row["provider"] for row in table_rows()}


def table_rows() -> list[dict[str, Any]]:
    """The table as it stands in convolution_plans.json."""
    return json.loads(TABLE.read_text())
