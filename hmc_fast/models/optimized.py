"""`optimize_for_inference`: the folded network with the convolutions that its device is fastest at.

    CPU    oneDNN, weights laid out in advance; a large batch in several of CHUNK_PIXELS
    CUDA   1x1 as products, cuDNN's fused convolutions, the grey stem in one kernel; one batch size
           may be a CUDA graph

What depends on the size of the images alone (laid out weights, graphs) is made when it is first
seen.
"""

import contextlib
import copy
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from hmc_fast.models.convolution import Convolution
from hmc_fast.models.cpu_convolution import PrepackedConvolution, onednn_problem
from hmc_fast.models.cuda_graphs import GraphedCalls
from hmc_fast.models.foldable import check_foldable
from hmc_fast.models.folded import ALL, FoldedNet, fold
from hmc_fast.models.folding import Identities, is_grey
from hmc_fast.models.gpu_convolution import CudaConvolution, cudnn_problem

CHUNK_PIXELS = 8 * 224 * 224  # on a CPU; more images at once do not stay in its caches
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DESCRIPTIONS = ("classes", "preprocessing", "description")  # what load_model adds to a network


def optimize_for_inference(
    model: nn.Module,
    *,
    dtype: torch.dtype | None = None,
    grayscale: bool = False,
    batch_size: int | None = None,
    identities: Identities = ALL,
    logits_only: bool = False,
) -> "OptimizedModel":
    """A module with the same call as `model`, several times faster; `model` is left as it is.

    model: HMC-Net or ResNet50 in eval mode, on the device where the result is to run. dtype: of
    weights and maps: None for the model's own, so that logits differ by rounding alone;
    torch.bfloat16 or torch.float16 where the loss of digits is acceptable: logits are still of the
    model's own dtype. grayscale: all images will have three equal channels, which every call
    checks, or one channel, which needs no check. batch_size: on a GPU, calls of so many images
    replay a CUDA graph, recorded at the first of them for each size of image; on a CPU it changes
    nothing. identities: which of folding.py to use, for measurements. logits_only: `activations` of
    ca34 will not be asked for, which is less to fold.

    Raises ValueError, with the reason: a network or layer that cannot be folded exactly, training
    mode, hooks, a dtype that has no fast products on this device, batch_size below 1.
    """
    own = next(check_foldable(model).parameters())
    device = own.device
    _check_arguments(dtype, device, batch_size)
    dtype = dtype or own.dtype
    kind = fastest_convolution(dtype, device)
    net = fold(
        model, identities, dtype=dtype, grayscale=grayscale, kind=kind, logits_only=logits_only
    )
    optimized = OptimizedModel(net, dtype, grayscale, batch_size if device.type == "cuda" else None)
    for name in DESCRIPTIONS:
        if hasattr(model, name):
            setattr(optimized, name, copy.deepcopy(getattr(model, name)))
    return optimized


def fastest_convolution(dtype: torch.dtype, device: torch.device) -> type[Convolution]:
    """The class of convolutions for a device: the plain one where the fused ones do not work."""
    if device.type == "cpu" and onednn_problem(dtype) is None:
        return PrepackedConvolution
    if device.type == "cuda" and cudnn_problem(dtype, device) is None:
        return CudaConvolution
    return Convolution


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 faster than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: probed
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


class OptimizedModel(nn.Module):
    """What `optimize_for_inference` returns: inference alone, without gradients.

    State: `net`, the folded weights in one dtype on one device, and beside them what was made for
    sizes seen so far, which `deepcopy` and `state_dict` leave out. To save, move or convert it,
    save, move or convert the network it was made from, and optimise that.
    """

    def __init__(
        self, net: FoldedNet, dtype: torch.dtype, grayscale: bool, batch_size: int | None
    ) -> None:
        super().__init__()
        self.net, self.dtype, self.grayscale = net, dtype, grayscale
        self.graphs = None if batch_size is None else GraphedCalls(batch_size)
        self.train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), or (B, 1, H, W) if optimised for grey ones -> logits (B, classes).

        Raises ValueError: a colour image where grey ones were promised, or another shape.
        """
        images = self._prepare(images)
        with inference_settings(images.device):
            if self.graphs is not None and self.graphs.takes(images):
                return self.graphs(self.net, images)
            return joined([self.net(part) for part in in_parts(images)])

    @torch.no_grad()
    def activations(self, images: Tensor, layer: str) -> Tensor:
        """The output (B, C, H', W') of a stage: stem, layer1, ha1, layer2, ha2, layer3, ca23,
        layer4 or ca34, in the dtype of the computation, channels last.

        A block that is left out because its gamma is 0 gives what it would give. Raises ValueError:
        a stage that the network does not have, and as the call.
        """
        if layer not in self.net.names:
            raise ValueError(f"layer must be one of {', '.join(self.net.names)}, got {layer!r}")
        images = self._prepare(images)
        with inference_settings(images.device):
            return joined([self.net.map_of(part, layer) for part in in_parts(images)])

    def train(self, mode: bool = True) -> "OptimizedModel":
        if mode:
            raise ValueError("an optimised model cannot be trained: train the one it was made from")
        return super().train(False)

    def _apply(self, function: Any, recurse: bool = True) -> "OptimizedModel":
        weight = self.net.fc.weight
        moved = function(weight)
        if (moved.device, moved.dtype) == (weight.device, weight.dtype):
            return self
        raise ValueError(
            "an optimised model stays on its device and in its dtype: move or convert the model it "
            "was made from, and optimise that"
        )

    def _prepare(self, images: Tensor) -> Tensor:
        """images as the folded network takes them: one channel where they are grey."""
        channels = (1, self.net.channels) if self.grayscale else (self.net.channels,)
        if images.dim() != 4 or images.shape[1] not in channels or not images.is_floating_point():
            allowed = " or ".join(f"(B, {count}, H, W)" for count in sorted(set(channels)))
            raise ValueError(
                f"images must be {allowed} of a float dtype, got {tuple(images.shape)} of "
                f"{images.dtype}"
            )
        if self.grayscale:
            if not is_grey(images):
                raise ValueError(
                    "images must be grey, three equal channels, as promised by grayscale=True; the "
                    "channels of these differ"
                )
            images = images[:, :1]
        # empty and copied: the strides are then channels last even where there is one channel
        prepared = torch.empty(
            images.shape,
            dtype=self.dtype,
            device=images.device,
            memory_format=torch.channels_last,
        )
        return prepared.copy_(images)


def in_parts(images: Tensor) -> tuple[Tensor, ...]:
    """A batch as it is computed: on a CPU in parts of about CHUNK_PIXELS."""
    if images.device.type != "cpu":
        return (images,)
    return images.split(max(1, CHUNK_PIXELS // (images.shape[2] * images.shape[3])))


def joined(parts: list[Tensor]) -> Tensor:
    """The parts as one batch."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextlib.contextmanager
def inference_settings(device: torch.device) -> Iterator[None]:
    """No autocast: the dtypes are chosen. On a CPU denormal numbers are flushed: torch does it in
    the calling thread alone; kernels/chunked.py keeps them out of the large products in all."""
    flushed = device.type != "cpu" or sys.float_info.min / 2 == 0
    with torch.autocast(device.type, enabled=False):
        try:
            if not flushed:
                torch.set_flush_denormal(True)
            yield
        finally:
            if not flushed:
                torch.set_flush_denormal(False)


def _check_arguments(
    dtype: torch.dtype | None, device: torch.device, batch_size: int | None
) -> None:
    """The dtype must be fast on the device."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 or None, got {batch_size}")
    if dtype is not None and dtype not in DTYPES:
        names = ", ".join(str(known) for known in DTYPES)
        raise ValueError(f"dtype must be None or one of {names}, got {dtype}")
    if device.type == "cpu" and dtype == torch.float16:
        raise ValueError("torch.float16 is not fast on a CPU; use torch.bfloat16 or None")
    if device.type == "cpu" and dtype == torch.bfloat16 and not has_fast_bfloat16():
        raise ValueError(
            "this CPU has neither AVX512-BF16 nor AMX, so torch.bfloat16 would be slower; leave "
            "dtype out"
        )
