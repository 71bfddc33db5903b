"""One training step and one evaluation, in the precision and with the compilation that fit the
device."""

import contextlib
import logging
import os
import shutil
import statistics
import sysconfig
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmc_fast.data.augment import augment, normalise
from hmc_fast.environment import cpu
from hmc_fast.models.network import HMCNet

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
TRIAL_BATCH, TRIAL_STEPS = 8, 3  # images at the most, and rounds
COMPILE_BACKEND = "inductor"  # of torch.compile; tests take one that only traces


class Precision(NamedTuple):
    """amp: bf16, fp16 or off; reason: for the user."""

    amp: str
    reason: str

    def autocast(self, device: torch.device) -> AbstractContextManager:
        """The context that forward passes run in."""
        if self.amp == "off":
            return contextlib.nullcontext()
        return torch.autocast(device.type, AMP_DTYPES[self.amp])


class Trainer:
    """A model with its optimizer, loss weights and precision, and the step that may be compiled.

    The model object stays the same for all folds, so that it is compiled once; `reset` gives it
    fresh weights and a fresh optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        precision: Precision,
        lr: float,
        compiled: bool,
    ) -> None:
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.device, self.precision, self.lr = device, precision, lr
        self.class_weights: Tensor | None = None
        self.forward = self._forward
        if compiled and device.type == "cuda":
            self.compile_whole_step()
        elif compiled and isinstance(model, HMCNet):
            # it warns of a CUDA toolkit without a GPU, which is no news here
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
            for block in model.attention_blocks().values():
                block.compile(dynamic=False, backend=COMPILE_BACKEND)
        self._new_optimizer()

    def compile_whole_step(self) -> None:
        """Augmentation, network and loss as one graph; a break in it is an error."""
        self.forward = torch.compile(
            self._forward, fullgraph=True, dynamic=False, backend=COMPILE_BACKEND
        )

    def reset(self, weights: dict[str, Tensor], class_weights: Tensor | None) -> None:
        """Begin a fold: these weights, no optimizer state, this weighting of the loss."""
        self.model.load_state_dict(weights)
        self.class_weights = None if class_weights is None else class_weights.to(self.device)
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.lr, fused=True)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.amp == "fp16")

    def step(self, images: Tensor, parameters: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One update: uint8 images (B, 1, S, S), augmentation parameters (B, 4), labels (B,).

        Returns the mean loss and the number of right predictions, both on the device: nothing waits
        for the GPU. A step that the gradient scaler skips, because fp16 overflowed, counts as 0.
        """
        self.model.train()
        loss, correct = self.forward(images, parameters, labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss.detach()
        return loss.nan_to_num(0, 0, 0) if self.scaler.is_enabled() else loss, correct

    def _forward(self, images: Tensor, parameters: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inputs = augment(images, parameters).contiguous(memory_format=torch.channels_last)
        with self.precision.autocast(self.device):
            logits = self.model(inputs)
        logits = logits.float()
        loss = F.cross_entropy(logits, labels, weight=self.class_weights)
        return loss, (logits.argmax(1) == labels).sum()

    @torch.no_grad()
    def predict(self, images: Tensor, batch_size: int) -> Tensor:
        """Logits (n, C) of uint8 images (n, 1, S, S): normalised only, eval mode, float32.

        Never in low precision: what is tested is what `load_model` gives. Eager, since the batches
        differ in size.
        """
        self.model.eval()
        logits = []
        with torch.compiler.set_stance("force_eager"):
            for batch in images.split(batch_size):
                inputs = normalise(batch).contiguous(memory_format=torch.channels_last)
                logits.append(self.model(inputs))
        return torch.cat(logits)


def choose_precision(
    amp: str,
    model: nn.Module,
    device: torch.device,
    shape: tuple[int, int],
    *,
    deterministic: bool,
    steps: int,
) -> Precision:
    """bf16, fp16 or off for this device; on a CPU `auto` measures.

    shape: (images in a batch, pixels of a side). Not measured: `deterministic` and short runs.
    """
    if amp != "auto":
        return Precision(amp, "asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision("bf16", "the GPU has it")
        return Precision("fp16", "the GPU has no bf16; with a gradient scaler")
    if not cpu()["bf16"]:
        return Precision("off", "the CPU has no bf16 products")
    if deterministic:
        return Precision("off", "no choice by timing under --deterministic")
    if steps < 10 * TRIAL_STEPS:
        return Precision("off", "the run is too short to measure on a CPU")
    return _faster_on_cpu(model, device, *shape)


def _faster_on_cpu(model: nn.Module, device: torch.device, batch: int, pixels: int) -> Precision:
    """Time a few steps in both precisions, in turn; BatchNorm's statistics are changed."""
    batch = min(batch, TRIAL_BATCH)
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (batch, 1, pixels, pixels), generator=random, dtype=torch.uint8)
    parameters = torch.ones(batch, 4)
    labels = torch.zeros(batch, dtype=torch.int64)
    trainers = {
        amp: Trainer(model, device, Precision(amp, ""), 0.0, False) for amp in ("off", "bf16")
    }
    seconds: dict[str, list[float]] = {amp: [] for amp in trainers}
    for _ in range(TRIAL_STEPS + 1):
        for amp, trainer in trainers.items():
            start = time.perf_counter()
            trainer.step(images, parameters, labels)
            seconds[amp].append(time.perf_counter() - start)
    ratio = statistics.median(seconds["off"][1:]) / statistics.median(seconds["bf16"][1:])
    measured = f"measured here: a step in bf16 is {ratio:.2f}x as fast as in float32"
    return Precision("bf16" if ratio > 1.05 else "off", measured)


def compile_plan(compiled: bool, model: nn.Module, device: torch.device) -> tuple[bool, str]:
    """Whether --compile compiles something here, and a sentence for the user."""
    if not compiled:
        return False, "not compiled (--compile)"
    if device.type == "cuda":
        return True, "torch.compile of the whole step; every batch is full, so it compiles once"
    if not isinstance(model, HMCNet) or not model.attention_blocks():
        return False, "not compiled: on a CPU only attention blocks are, and this network has none"
    if lacking := compiler_lacks():
        return (
            False,
            f"not compiled: torch.compile needs {lacking} (Debian: apt install g++ python3-dev)",
        )
    return True, (
        "torch.compile of the attention blocks only, about 40 s once: on a CPU compiling the whole "
        "step takes longer and gains nothing; evaluation is eager; every batch is full, so nothing "
        "is compiled twice"
    )


def compiler_lacks() -> str | None:
    """What torch.compile misses on this machine for the CPU, or None."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "a C++ compiler, g++"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's header files"
    return None


@contextlib.contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """torch's deterministic kernels inside the context, where asked for."""
    before = torch.are_deterministic_algorithms_enabled()
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def balanced_class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (classes * images of the class), as scikit-learn's `balanced`; (classes,) float32."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return labels.numel() / (classes * counts.float())
