"""What a network is made of and what feeds what, read off the network itself.

A copy without weights runs once on the meta device, where nothing is computed: hooks see each part
called and what it returns, the autograd graph between two parts says which of them feeds the other,
and torch's counter sees every product.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.flop_counter import FlopCounterMode

from hmc_fast.models.spatial_attention import SpatialAttention2d

IMAGE = "image"
KINDS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("convolution", (nn.Conv2d,)),
    ("norm", (nn.BatchNorm2d, nn.LayerNorm)),
    ("activation", (nn.ReLU,)),
    ("pooling", (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)),
    ("linear", (nn.Linear,)),
    ("stage", (nn.Sequential,)),
)


def outline(model: nn.Module, image_size: int) -> list[dict[str, Any]]:
    """The parts of a network in the order of the forward pass: the children that it calls, before
    them the image and parameters of its own.

    model: takes (1, 3, S, S), has no hooks, and is left as it is; image_size: S, pixels.

    Returns a dict a part: "name"; "kind": image, parameter, convolution, norm, activation, pooling,
    linear, stage, self-attention, cross-attention, or the part's class in small letters; "detail":
    kernel, contents, or channels of the queries, "" for nothing; "channels"; "size": positions in
    each direction, [] for a vector; "parameters"; "gmac" of one image (1 MAC = 2 FLOP); "inputs":
    names of the parts that feed it, in the order of the call.
    Raises ValueError: an image_size that the network cannot take.
    """
    network = _without_weights(model)
    images = torch.zeros(1, 3, image_size, image_size, device="meta", requires_grad=True)
    calls = _Calls(network, images)
    try:
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            network(images)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the network cannot take images of {image_size} px: {error}") from error
    flops = {
        path.partition(".")[2]: sum(found.values())
        for path, found in counter.get_flop_counts().items()
    }
    parts = [calls.part(name, flops.get(name, 0)) for name in calls.order]
    own = [_own_part(name, weight) for name, weight in network.named_parameters(recurse=False)]
    return [_image_part(images), *own, *parts]


class _Calls:
    """What was seen of each child of `network`: its inputs' sources and its output.

    Hooks stay on the network, which is the copy. A child that is called more than once has its last
    output, and the inputs of all calls.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.children = dict(network.named_children())
        self.order: list[str] = []
        self.outputs: dict[str, Tensor] = {}
        self.inputs: dict[str, list[str]] = {}
        self._made_by: dict[Node, str] = {}
        self._leaves = {images: IMAGE} | {
            weight: name for name, weight in network.named_parameters(recurse=False)
        }
        for name, child in self.children.items():
            child.register_forward_pre_hook(self._before(name), with_kwargs=True)
            child.register_forward_hook(self._after(name))

    def part(self, name: str, flops: int) -> dict[str, Any]:
        child, out = self.children[name], self.outputs[name]
        inputs = self.inputs[name]
        return {
            "name": name,
            "kind": _kind(child, inputs),
            "detail": _detail(child),
            **_extent(out),
            "parameters": sum(p.numel() for p in child.parameters()),
            "gmac": flops / 2e9,
            "inputs": inputs,
        }

    def _before(self, name: str) -> Any:
        def seen(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            sources = self.inputs.setdefault(name, [])
            for tensor in given:
                sources += [s for s in self._sources(tensor) if s not in sources]

        return seen

    def _after(self, name: str) -> Any:
        def seen(_: nn.Module, __: tuple[Any, ...], out: Any) -> None:
            if not isinstance(out, Tensor):
                raise ValueError(f"{name} returns {type(out).__name__}, not one tensor")
            if name not in self.order:
                self.order.append(name)
            self.outputs[name] = out
            if out.grad_fn is not None:
                self._made_by[out.grad_fn] = name

        return seen

    def _sources(self, tensor: Tensor) -> Iterator[str]:
        """Names of the parts whose outputs a tensor was made from, with nothing but plain functions
        between."""
        if tensor in self._leaves:
            yield self._leaves[tensor]
        pending, met = [tensor.grad_fn], set()
        while pending:
            node = pending.pop(0)
            if node is None or node in met:
                continue
            met.add(node)
            leaf = getattr(node, "variable", None)
            if node in self._made_by:
                yield self._made_by[node]
            elif leaf is not None and leaf in self._leaves:
                yield self._leaves[leaf]
            else:
                pending += [before for before, _ in node.next_functions]


def _without_weights(model: nn.Module) -> nn.Module:
    """A copy in eval mode on the meta device, in float32; no weight is copied."""
    memo: dict[int, Any] = {}
    for weight in model.parameters():
        memo[id(weight)] = nn.Parameter(torch.empty_like(weight, device="meta"))
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    network = copy.deepcopy(model, memo).float().eval()
    for module in network.modules():
        if isinstance(module, SpatialAttention2d):
            module.backend, module.form = "chunked", "direct"  # as the paper writes it
    return network


def _kind(module: nn.Module, inputs: Sequence[str]) -> str:
    if isinstance(module, SpatialAttention2d):
        return "self-attention" if len(inputs) == 1 else "cross-attention"
    known = (kind for kind, classes in KINDS if isinstance(module, classes))
    return next(known, type(module).__name__.lower())


def _detail(module: nn.Module) -> str:
    if isinstance(module, SpatialAttention2d):
        return f"d_qk {module.query.out_channels}"
    if isinstance(module, nn.Conv2d):
        kernel, steps = "x".join(map(str, module.kernel_size)), sorted(set(module.stride))
        return kernel if steps == [1] else f"{kernel}, stride {', '.join(map(str, steps))}"
    if isinstance(module, nn.Sequential):
        return _contents(module)
    return ""


def _contents(modules: Iterable[nn.Module]) -> str:
    """'3 Bottleneck': the classes with matrices or kernels of weights, and how many of each."""
    names = [
        type(module).__name__
        for module in modules
        if any(weight.dim() > 1 for weight in module.parameters())
    ]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _extent(out: Tensor) -> dict[str, Any]:
    """Channels and positions of (1, C), (1, C, H, W) or tokens (1, N, C)."""
    if out.dim() == 3:
        return {"channels": out.shape[2], "size": [out.shape[1]]}
    return {"channels": out.shape[1], "size": list(out.shape[2:])}


def _image_part(images: Tensor) -> dict[str, Any]:
    nothing = {"detail": "", "parameters": 0, "gmac": 0.0, "inputs": []}
    return {"name": IMAGE, "kind": IMAGE, **_extent(images), **nothing}


def _own_part(name: str, weight: Tensor) -> dict[str, Any]:
    nothing = {"detail": "", "size": [], "gmac": 0.0, "inputs": []}
    sizes = {"channels": weight.shape[-1], "parameters": weight.numel()}
    return {"name": name, "kind": "parameter", **sizes, **nothing}
