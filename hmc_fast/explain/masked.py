"""The network as Score-CAM calls it, a few thousand times: images under masks -> logits.

A network that can be folded is (models/optimized.py), with the grey stem where the images are grey;
any other runs as it is. On a GPU the grey stem makes its output of images and masks directly, so
that masked images never exist (kernels/masked_images.py).
"""

import copy
import logging
import math

import torch
from torch import Tensor, nn

from hmc_fast.explain.calls import as_input, first_parameter, logits_of
from hmc_fast.explain.distinct import Jobs
from hmc_fast.explain.layers import unwrapped
from hmc_fast.explain.recipes import Recipe
from hmc_fast.models.foldable import check_foldable
from hmc_fast.models.folding import is_grey
from hmc_fast.models.gpu_convolution import CudaStem
from hmc_fast.models.optimized import (
    CHUNK_PIXELS,
    OptimizedModel,
    inference_settings,
    optimize_for_inference,
)

logger = logging.getLogger(__name__)

GPU_PIXELS = 256 * 224 * 224  # of a batch, where memory allows
VALUES_PER_PIXEL = 1000  # of maps that are alive at once, a generous guess for any CNN
SHARE_OF_MEMORY = 0.5


class MaskedImages:
    """Jobs -> logits: masks upsampled, multiplied with their images, and through the network.

    State: the network and the images, in its dtype and channels. batch: the most images at once;
    padded: whether fewer are filled up, because for another number the network would be compiled,
    recorded or have its weights laid out anew; equal: whether any number will do, if it is the same
    for all.
    """

    def __init__(
        self, forward: nn.Module, images: Tensor, recipe: Recipe, batch_size: int | None
    ) -> None:
        self.forward, self.recipe = forward, recipe
        self.images = _in_its_form(forward, images)
        self.equal = isinstance(forward, OptimizedModel) and not images.is_cuda
        self.padded = self.equal or images.is_cuda or unwrapped(forward) is not forward
        self.batch = batch_size or _fitting_batch(forward, self.images)
        self.stem = _fused_stem(forward, recipe)

    def size(self, count: int) -> int:
        """How many of `count` jobs at once."""
        return math.ceil(count / math.ceil(count / self.batch)) if self.equal else self.batch

    def __call__(self, jobs: Jobs, size: int) -> Tensor:
        """The logits (n, classes) of at most `size` jobs."""
        count = len(jobs)
        if self.padded and count < size:
            places = torch.arange(size, device=jobs.image.device).clamp_max(count - 1)
            jobs = jobs.chosen(places)
        if self.stem is not None:
            return self._fused_logits(self.stem, jobs)[:count]
        shown = (self.images.shape[2], self.images.shape[3])
        masks = self.recipe.masks(jobs.maps, jobs.slack, shown)  # (n, 1, H, W)
        images = self.images if len(self.images) == 1 else self.images[jobs.image]
        return self.logits(images * masks)[:count]

    def _fused_logits(self, stem: CudaStem, jobs: Jobs) -> Tensor:
        """Masks, product, convolution, ReLU and pool in one kernel."""
        assert isinstance(self.forward, OptimizedModel)
        masks = jobs.maps / (1 + jobs.slack[:, None, None])
        index = None if len(self.images) == 1 else jobs.image
        with inference_settings(masks.device):
            return self.forward.net.behind_stem(stem(self.images, masks, index))

    def logits(self, masked: Tensor) -> Tensor:
        """masked (n, C, H, W), float32 or float64 -> (n, classes)."""
        if isinstance(self.forward, OptimizedModel):
            return self.forward(masked)
        with inference_settings(masked.device):
            return logits_of(self.forward(as_input(self.forward, masked)), masked)

    def halve(self) -> None:
        """After an out-of-memory error."""
        self.batch = self.batch // 2
        if self.images.is_cuda:
            torch.cuda.empty_cache()


def fastest_form(
    model: nn.Module, images: Tensor, dtype: torch.dtype | None, *, logits_only: bool = False
) -> nn.Module:
    """What computes the logits of masked images: an optimised model as it is, the folded network
    where `model` can be folded, else `model`, a copy of it where another dtype is asked for.
    logits_only: the folded network is for nothing else.

    Raises ValueError: a dtype that an optimised model does not have, or that is slow on the device.
    """
    if isinstance(model, OptimizedModel):
        if dtype not in (None, model.dtype):
            raise ValueError(f"this optimised model computes in {model.dtype}, not {dtype}")
        return model
    inner = unwrapped(model)
    problem = _why_not_foldable(inner)
    if problem is None:
        return optimize_for_inference(
            inner, dtype=dtype, grayscale=is_grey(images), logits_only=logits_only
        )
    logger.info("score_cam runs the network as it is: %s", problem)
    own = first_parameter(inner)
    if own is None or dtype in (None, own.dtype):
        return model
    return copy.deepcopy(inner).to(dtype)


def known_classes(model: nn.Module) -> int | None:
    """How many a network has that can be folded, or is; None where only its logits would tell."""
    if isinstance(model, OptimizedModel):
        return model.net.fc.out_features
    network = unwrapped(model)
    if _why_not_foldable(network) is not None:
        return None
    return getattr(network.fc, "out_features", None)


def _why_not_foldable(model: nn.Module) -> str | None:
    try:
        check_foldable(model)
    except ValueError as error:
        return str(error)
    return None


def _fused_stem(forward: nn.Module, recipe: Recipe) -> CudaStem | None:
    """The stem that takes masks, where there is one and the recipe's are upsampled last."""
    stem = forward.net.stem if isinstance(forward, OptimizedModel) else None
    return stem if isinstance(stem, CudaStem) and not recipe.upsample_first else None


def _in_its_form(forward: nn.Module, images: Tensor) -> Tensor:
    """float32 or float64, for the product with masks; one channel for a grey network."""
    wide = images if images.dtype == torch.float64 else images.float()
    grey = isinstance(forward, OptimizedModel) and forward.grayscale
    return wide[:, :1] if grey else wide


def _fitting_batch(forward: nn.Module, images: Tensor) -> int:
    """How many images at once: a graph's own number; on a CPU what stays in its caches; on a GPU
    as many as keep it busy and fit its free memory."""
    graphs = forward.graphs if isinstance(forward, OptimizedModel) else None
    if graphs is not None:
        return graphs.batch_size
    pixels = images.shape[2] * images.shape[3]
    if not images.is_cuda:
        return max(1, CHUNK_PIXELS // pixels)
    free, _ = torch.cuda.mem_get_info(images.device)
    own = first_parameter(forward)
    size = images.element_size() if own is None else own.element_size()
    affordable = int(SHARE_OF_MEMORY * free) // (VALUES_PER_PIXEL * size * pixels)
    most = max(1, min(GPU_PIXELS // pixels, affordable))
    return 1 << (most.bit_length() - 1)  # a power of two
