"""cuDNN's attention through its own front end (package nvidia-cudnn-frontend), both passes.

torch's SDPA refuses d_qk ≠ d_v for cuDNN long before cuDNN does. Graphs are built for one shape.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attention_cases import Case

TYPES = {torch.bfloat16: "BFLOAT16", torch.float16: "HALF", torch.float32: "FLOAT"}


def cudnn() -> Any:
    """The front end, an optional package."""
    return importlib.import_module("cudnn")


def data_type(dtype: torch.dtype) -> Any:
    return getattr(cudnn().data_type, TYPES[dtype])


class Plan:
    """A built graph with its workspace; called with the tensors of its inputs and outputs."""

    def __init__(self, case: Case, handle: Any = None) -> None:
        self.handle, self.tensors = handle, {}
        self.graph = cudnn().pygraph(
            io_data_type=data_type(case.dtype),
            intermediate_data_type=data_type(torch.float32),
            compute_data_type=data_type(torch.float32),
            handle=handle,
        )

    def input(self, name: str, like: Tensor) -> Any:
        self.tensors[name] = self.graph.tensor_like(like)
        return self.tensors[name]

    def output(self, name: str, tensor: Any, like: Tensor) -> None:
        tensor.set_output(True).set_dim(list(like.shape)).set_stride(list(like.stride()))
        tensor.set_data_type(data_type(like.dtype))
        self.tensors[name] = tensor

    def build(self) -> None:
        modes = cudnn().heur_mode
        self.graph.build([modes.A, modes.FALLBACK])
        size = max(1, self.graph.get_workspace_size())
        self.workspace = torch.empty(size, dtype=torch.uint8, device="cuda")

    def __call__(self, **tensors: Tensor) -> None:
        cudnn().set_stream(self.handle, torch.cuda.current_stream().cuda_stream)
        pack = {self.tensors[name]: tensor for name, tensor in tensors.items()}
        self.graph.execute(pack, self.workspace, handle=self.handle)


def shapes(case: Case, device: str) -> dict[str, Tensor]:
    """Empty tensors (B, 1, N, D) as cuDNN sees them; stats is the logarithm of the sums."""

    def empty(width: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(case.batch, 1, case.n, width, dtype=dtype, device=device)

    widths = {"q": case.d_qk, "k": case.d_qk, "v": case.d_v, "out": case.d_v}
    tensors = {name: empty(width, case.dtype) for name, width in widths.items()}
    return tensors | {"stats": empty(1, torch.float32)}


def forward_plan(case: Case, scale: float, like: dict[str, Tensor], handle: Any = None) -> Plan:
    plan = Plan(case, handle)
    inputs = {name: plan.input(name, like[name]) for name in ("q", "k", "v")}
    out, stats = plan.graph.sdpa(**inputs, attn_scale=scale, generate_stats=True, name="forward")
    plan.output("out", out, like["out"])
    plan.output("stats", stats, like["stats"])
    return plan


def backward_plan(case: Case, scale: float, like: dict[str, Tensor], handle: Any = None) -> Plan:
    plan = Plan(case, handle)
    inputs = {name: plan.input(name, like[name]) for name in ("q", "k", "v", "stats")}
    o, dout = plan.input("out", like["out"]), plan.input("dout", like["out"])
    gradients = plan.graph.sdpa_backward(**inputs, o=o, dO=dout, attn_scale=scale, name="backward")
    for name, tensor in zip(("q", "k", "v"), gradients, strict=True):
        plan.output(f"d{name}", tensor, like[name])
    return plan


def make_attend(case: Case) -> Callable[[Tensor, Tensor, Tensor, float], Tensor]:
    """softmax(scale q kᵀ) v of tensors (B, N, D) of the case's shape, differentiable."""
    handle, like = cudnn().create_handle(), shapes(case, "cuda")
    plans: dict[str, Plan] = {}

    def plan(make: Callable[..., Plan], scale: float) -> Plan:
        if make.__name__ not in plans:
            plans[make.__name__] = make(case, scale, like, handle)
            plans[make.__name__].build()
        return plans[make.__name__]

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v, scale):
            out, stats = torch.empty_like(like["out"]), torch.empty_like(like["stats"])
            plan(forward_plan, scale)(
                q=q.detach(), k=k.detach(), v=v.detach(), out=out, stats=stats
            )
            ctx.save_for_backward(q, k, v, out, stats)
            ctx.scale = scale
            return out

        @staticmethod
        def backward(ctx, dout):
            q, k, v, out, stats = (tensor.detach() for tensor in ctx.saved_tensors)
            dq, dk, dv = (torch.empty_like(tensor) for tensor in (q, k, v))
            plan(backward_plan, ctx.scale)(
                q=q, k=k, v=v, out=out, stats=stats, dout=dout.contiguous(), dq=dq, dk=dk, dv=dv
            )
            return dq, dk, dv, None

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        one_head = (tensor.unsqueeze(1).contiguous() for tensor in (q, k, v))
        return Attention.apply(*one_head, scale).squeeze(1)

    return attend
