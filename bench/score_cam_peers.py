"""Score-CAM and Grad-CAM of grad-cam and torchcam, as they come, and ours, as calls to be timed.

Every call gives one map (1, h, w), 0 to 1, on the CPU: grad-cam's at the image's size, torchcam's
at the layer's.
"""

import contextlib
import io
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmc_fast.data.phantom import open_phantom
from hmc_fast.data.preprocessing import Preprocessing
from hmc_fast.explain import grad_cam, score_cam
from hmc_fast.explain.maps import normalise, upsample
from hmc_fast.explain.masked import fastest_form
from hmc_fast.models.optimized import inference_settings
from inference_cases import network

TOLERANCE = 1e-4  # of maps from 0 to 1 in float32
LOW = 0.2  # bfloat16 is reported, this refuses nonsense alone
BEST_BATCH = 8  # torchcam's fastest on a CPU; as it comes it takes 32
Call = Callable[[], Tensor]


class Case(NamedTuple):
    """What is explained: a network in eval mode, image (1, C, H, W), a layer's name, a class."""

    model: nn.Module
    image: Tensor
    layer: str
    target: int


def make_case(size: int, layer: str, device: str = "cpu") -> Case:
    """hmc and a grey phantom image of that size, explained for the predicted class."""
    model = network("hmc").to(device)
    image = Preprocessing(size)(open_phantom(1, size=size).read(0)).to(device)
    with torch.no_grad():
        return Case(model, image, layer, int(model(image).argmax()))


def grad_cam_package(case: Case, kind: str = "ScoreCAM") -> Call:
    """grad-cam's ScoreCAM, its batch of 16, or its GradCAM; hooks stand within a call only, as a
    network with hooks cannot be folded."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    layers, targets = [case.model.get_submodule(case.layer)], [ClassifierOutputTarget(case.target)]

    def call() -> Tensor:
        silent = contextlib.redirect_stderr(io.StringIO())  # its progress bar
        with silent, getattr(pytorch_grad_cam, kind)(case.model, layers) as cam:
            return torch.from_numpy(cam(case.image, targets=targets))

    return call


def torchcam_package(case: Case, batch_size: int = 32, layer: str | None = None) -> Call:
    """torchcam's ScoreCAM; hooks stand within a call only. layer: its name, where it differs."""
    from torchcam.methods import ScoreCAM

    @torch.no_grad()
    def call() -> Tensor:
        with ScoreCAM(case.model, layer or case.layer, batch_size=batch_size) as extractor:
            case.model(case.image)
            return extractor(case.target)[0].float().cpu()

    return call


def flushed(call: Call) -> Call:
    """With denormals flushed."""

    def run() -> Tensor:
        with inference_settings(torch.device("cpu")):
            return call()

    return run


def ours(case: Case, dtype: torch.dtype | None = None, recipe: str = "torchcam") -> Call:
    """`score_cam` of the plain network: folding it is part of a call."""
    return lambda: score_cam(
        case.model, case.image, case.target, layer=case.layer, recipe=recipe, dtype=dtype
    ).cpu()


def ours_kept(case: Case) -> Call:
    """`score_cam` of a network that was optimised before, as one does for many images."""
    fast = fastest_form(case.model, case.image, None)
    return lambda: score_cam(
        fast, case.image, case.target, layer=case.layer, recipe="torchcam"
    ).cpu()


def our_grad_cam(case: Case) -> Call:
    return lambda: grad_cam(case.model, case.image, case.target, layer=case.layer).cpu()


def difference(a: Tensor, b: Tensor) -> float:
    """max |Δ| of maps from 0 to 1; the smaller one, torchcam's, is upsampled as ours is."""
    size = max(a.shape[1:], b.shape[1:])
    a, b = (normalise(upsample(each.float(), size)) for each in (a, b))
    return float((a - b).abs().max())


def check(name: str, a: Tensor, b: Tensor, allowed: float) -> None:
    """Right, or no timing."""
    found = difference(a, b)
    print(f"{name}: max |Δ| of the map {found:.2g}", flush=True)
    assert found <= allowed, f"{name}: max |Δ| is {found:.2g}, more than {allowed:g}"
