"""The network's attention blocks as benchmark cases: sizes, seeded inputs, useful arithmetic."""

from typing import NamedTuple

import torch

from hmc_fast.kernels.configurations import dtype_name

BLOCKS = {  # tokens at 224 px, d_qk, d_v
    "ha1": (3136, 32, 256),
    "ha2": (784, 64, 512),
    "ca23": (196, 128, 1024),
    "ca34": (49, 256, 2048),
}
REASSOCIATED = {"ca23-reassociated": (196, 128, 512), "ca34-reassociated": (49, 256, 1024)}


class Case(NamedTuple):
    """One attention block of the network at one batch size."""

    name: str
    batch: int
    n: int
    d_qk: int
    d_v: int
    dtype: torch.dtype = torch.float32

    @property
    def gflop(self) -> float:
        """Of the forward pass: the two products."""
        return self.flop("forward") / 1e9

    def flop(self, mode: str) -> int:
        """The useful arithmetic of a mode: scores computed again for backward are not counted."""
        scores = 2 * self.batch * self.n**2
        forward = scores * (self.d_qk + self.d_v)
        backward = scores * (3 * self.d_qk + 2 * self.d_v)
        kind = mode.removesuffix("_graph")
        if kind == "step":
            return forward + backward
        return backward if kind.endswith("backward") else forward

    def __str__(self) -> str:
        return f"{self.name} batch {self.batch} n {self.n} {dtype_name(self.dtype)}"


def make_inputs(case: Case, device: str = "cpu") -> list[torch.Tensor]:
    """q, k, v, x and gamma, seeded, as leaves that want gradients."""
    generator = torch.Generator(device).manual_seed(0)
    widths = (case.d_qk, case.d_qk, case.d_v, case.d_v)
    tensors = [
        torch.randn(case.batch, case.n, width, generator=generator, device=device)
        for width in widths
    ]
    tensors = [tensor.to(case.dtype) for tensor in tensors]
    return [t.requires_grad_() for t in (*tensors, torch.full((1,), 0.5, device=device))]
