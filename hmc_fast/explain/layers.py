"""Layers by name, and what they give in one forward pass of a network that is left as it was.

Hooks stand only within `recorded`. Of nested or simultaneous recordings each sees its own forward
passes alone.
"""

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

_recording: ContextVar[dict[str, Tensor] | None] = ContextVar("recording", default=None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, its layers under their own names: without what torch.compile or
    DataParallel put around it."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def layer_names(layer: str | Sequence[str]) -> list[str]:
    """One name or several, as a list; ValueError for none."""
    given = layer if isinstance(layer, list | tuple) else [layer]
    names = [name for name in given if isinstance(name, str)]
    if not names or len(names) < len(given):
        raise ValueError(f"layer must be the name of a layer or a list of names, got {layer!r}")
    return names


def find_layers(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules by their names in `model`; ValueError with close names for one that is not there."""
    known = {name: module for name, module in model.named_modules() if name}
    for name in names:
        if name not in known:
            raise ValueError(unknown_layer(name, list(known)))
    return {name: known[name] for name in names}


def unknown_layer(name: str, known: Sequence[str]) -> str:
    """A sentence that names the nearest layers, or the outermost ones."""
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
    near = close or [each for each in known if "." not in each]
    words = "close names are" if close else "its layers are"
    return f"the network has no layer {name!r}; {words} {', '.join(near)}"


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within; the flag of every module is then what it was before.

    The flags are set, not `model.eval()` called, which a network may have made do more.
    """
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Within, modules compiled in place (`module.compile()`) run as written, and call hooks."""
    compiled = [(m, m._compiled_call_impl) for m in model.modules() if m._compiled_call_impl]
    try:
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call


@contextlib.contextmanager
def recorded(
    layers: Mapping[str, nn.Module], *, differentiable: bool = False
) -> Iterator[dict[str, Tensor]]:
    """A dictionary that forward passes within fill with each layer's output, its first tensor where
    it has several, of the last call where there were several.

    What follows a layer gets a copy, so that nothing changes the recorded one in place.
    differentiable: gradients are recorded from the first of the layers on and not before it, also
    where no parameter wants one; the forward pass must run within torch.no_grad, which ends that.
    """
    outputs: dict[str, Tensor] = {}
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def keep(name: str, output: Any) -> Any:
        if _recording.get() is not outputs:
            return None
        tensor = first_tensor(output, f"layer {name!r}")
        if differentiable:
            torch.set_grad_enabled(True)
            tensor = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        outputs[name] = tensor
        return _with_first(output, tensor.clone())

    token = _recording.set(outputs)
    try:
        for name, module in layers.items():
            handles.append(
                module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            )
        yield outputs
    finally:
        _recording.reset(token)
        for handle in handles:
            handle.remove()


class _Complete(Exception):
    """All layers have given their outputs."""


@contextlib.contextmanager
def cut_short(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Within, and within `recorded`, a forward pass of `model` ends, without a result, where the
    outermost modules that hold `layers` have given theirs.

    For networks that call each of their outermost modules once, and do not catch exceptions. No
    layer inside of one ends it by itself: a ReLU there may be called several times.
    """
    own, wanted = _recording.get(), set(layers.values())
    names = model.named_modules(remove_duplicate=False)
    awaited = {name.partition(".")[0] for name, module in names if module in wanted}
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def returned(name: str) -> None:
        if _recording.get() is own:
            awaited.discard(name)
            if not awaited:
                raise _Complete

    try:
        for name in sorted(awaited):
            module = model.get_submodule(name)
            handles.append(module.register_forward_hook(lambda *_, name=name: returned(name)))
        with contextlib.suppress(_Complete):
            yield
    finally:
        for handle in handles:
            handle.remove()


def check_called(names: Sequence[str], outputs: Mapping[str, Tensor]) -> None:
    """ValueError for a layer that the forward pass did not use."""
    for name in names:
        if name not in outputs:
            raise ValueError(f"layer {name!r} was not called in the forward pass")


def first_tensor(output: Any, what: str) -> Tensor:
    """The output itself, its `logits`, or the first tensor of a tuple or list; ValueError where
    there is none."""
    output = getattr(output, "logits", output)
    parts = output if isinstance(output, tuple | list) else [output]
    for part in parts:
        if isinstance(part, Tensor):
            return part
    raise ValueError(f"{what} must give a tensor or a tuple with one, not {type(output).__name__}")


def _with_first(output: Any, tensor: Tensor) -> Any:
    """`output` with its first tensor replaced."""
    if isinstance(output, Tensor):
        return tensor
    if not isinstance(output, tuple | list):
        output.logits = tensor
        return output
    place = next(i for i, part in enumerate(output) if isinstance(part, Tensor))
    parts = [*output[:place], tensor, *output[place + 1 :]]
    make = getattr(output, "_make", type(output))  # a named tuple takes its fields one by one
    return make(parts)
