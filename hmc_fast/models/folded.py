"""The network of inference: HMC-Net or ResNet50 with the identities of folding.py applied.

A plain module: any device and dtype, torch.compile and the exports take it. `fold` builds it from a
trained network, computing all folded weights in float64; `optimize_for_inference` (optimized.py)
builds it with faster convolutions.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from hmc_fast.models.attended_bottleneck import AttendedBottleneck
from hmc_fast.models.convolution import Convolution, parts_of
from hmc_fast.models.foldable import check_foldable
from hmc_fast.models.folded_attention import CrossAttention, SelfAttention, as_linear
from hmc_fast.models.folding import Identities, affine, grey, without_bias

BLOCKS = {"layer1": "ha1", "layer2": "ha2", "layer3": "ca23", "layer4": "ca34"}  # after each stage
ALL = Identities()
Part = TypeVar("Part", bound=nn.Module | None)


def fold(
    model: nn.Module,
    identities: Identities = ALL,
    *,
    dtype: torch.dtype | None = None,
    grayscale: bool = False,
    kind: type[Convolution] = Convolution,
    logits_only: bool = False,
) -> "FoldedNet":
    """The folded form of a network in eval mode; shares no memory with it.

    dtype: of weights and maps, None for the model's own; the classifier keeps the model's own.
    grayscale: images have one channel, or equal ones, which is for the caller to know. kind: of the
    convolutions. logits_only: the map of the block that identity 8 leaves out is no stage.

    Raises ValueError where something cannot be folded exactly (foldable.py).
    """
    model = check_foldable(model)
    own = next(model.parameters()).dtype
    with torch.no_grad():
        settings = (identities, kind, grayscale, dtype or own, logits_only)
        net = FoldedNet(model, *settings).requires_grad_(False)
        net = net.to(dtype or own).to(memory_format=torch.channels_last)
        for linear in net.linears():
            linear.to(own)
    return net.eval()


class FoldedNet(nn.Module):
    """What `fold` makes; images -> logits, as the network it came from.

    No parameter wants a gradient. `names` are the stages of `maps`, in order.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    ha1: SelfAttention | None
    ha2: SelfAttention | None
    ca23: CrossAttention | None
    ca34: CrossAttention | None

    def __init__(
        self,
        model: ResNet,
        use: Identities,
        kind: type[Convolution],
        grayscale: bool,
        dtype: torch.dtype,
        logits_only: bool,
    ) -> None:
        super().__init__()
        self.channels = model.conv1.in_channels
        self.grey = grayscale and use.grey_stem
        parts = parts_of(model.conv1, model.bn1, use)
        parts = parts._replace(conv=grey(parts.conv)) if self.grey else parts
        self.stem = rounded(kind.pooled(parts, model.maxpool), dtype)
        self.names = ["stem"]
        for layer, block in BLOCKS.items():
            stages = (_Bottleneck(part, use, kind) for part in getattr(model, layer))
            setattr(self, layer, nn.Sequential(*(rounded(stage, dtype) for stage in stages)))
            attention = _attention(model, block, use, kind, logits_only)
            setattr(self, block, rounded(attention, dtype))
            self.names += [layer, block] if hasattr(model, block) else [layer]
        self.entered: AttendedBottleneck | None = None  # ha1 and layer2[0] at once
        if self.ha1 is not None and AttendedBottleneck.pays(use, kind):
            first, folded = model.layer2[0], self.layer2[0]
            self.entered = rounded(AttendedBottleneck(model.ha1, first, folded, use, kind), dtype)
        self.pool_attention = use.pool_attention
        if self.pool_attention and logits_only and self.ca34 is not None:
            self.names.remove("ca34")
        self.fc = as_linear(affine(model.fc))

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), or (B, 1, H, W) where they are grey -> logits (B, classes)."""
        return self.behind_stem(self.stem(self._stem_input(images)))

    def behind_stem(self, x: Tensor) -> Tensor:
        """The stem's output (B, 64, H / 4, W / 4) -> logits (B, classes)."""
        x = self.layer1(x)
        if self.entered is None:
            x = self._through(("ha1", "layer2"), x, x)[1]
        else:
            x = self.layer2[1:](self.entered(x))
        rest = ("ha2", "layer3", "ca23", "layer4")
        finer, x = self._through(rest, x, x)
        if not self.pool_attention:
            finer, x = self._through(("ca34",), finer, x)
        logits = self.fc(x.mean((2, 3), dtype=self.fc.weight.dtype))
        if self.pool_attention and self.ca34 is not None:
            logits = logits + self.ca34.added_logits(x, finer)
        return logits

    def maps(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Each stage's name and output (B, C, H', W'), in the order of `names`."""
        finer = x = self.stem(self._stem_input(images))
        yield "stem", x
        for name in self.names[1:]:
            finer, x = self._through((name,), finer, x)
            yield name, x

    def map_of(self, images: Tensor, stage: str) -> Tensor:
        """The output of one stage."""
        return next(x for name, x in self.maps(images) if name == stage)

    def _stem_input(self, images: Tensor) -> Tensor:
        """Grey images as the stem takes them: with one channel, or all."""
        return images[:, :1] if self.grey else images.expand(-1, self.channels, -1, -1)

    def linears(self) -> list[nn.Linear]:
        """The layers behind the average pool."""
        return [module for module in self.modules() if isinstance(module, nn.Linear)]

    def _through(self, names: Sequence[str], finer: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the last layer got and what these stages make of it, from those before them."""
        for name in names:
            module = getattr(self, name)
            if name in BLOCKS:
                finer, x = x, module(x)
            elif module is not None:
                x = module(x, finer)
        return finer, x


def rounded(part: Part, dtype: torch.dtype) -> Part:
    """The part, its convolutions in `dtype`: at once, for float64 weights of a whole network take
    264 MB. What makes logits is rounded later, to the network's own dtype."""
    for module in () if part is None else part.modules():
        if isinstance(module, Convolution):
            module.to(dtype)
    return part


class _Bottleneck(nn.Module):
    """Three convolutions and a shortcut; the last one adds it, and takes its bias over."""

    def __init__(self, block: Bottleneck, use: Identities, kind: type[Convolution]) -> None:
        super().__init__()
        self.conv1 = kind(*parts_of(block.conv1, block.bn1, use), relu=True)
        self.conv2 = kind(*parts_of(block.conv2, block.bn2, use), relu=True)
        last, geometry, norm = parts_of(block.conv3, block.bn3, use)
        self.downsample: Convolution | None = None
        if block.downsample is not None:
            shortcut = parts_of(block.downsample[0], block.downsample[1], use)
            last = last._replace(bias=last.bias + shortcut.conv.bias)
            self.downsample = kind(*shortcut._replace(conv=without_bias(shortcut.conv)))
        # the shortcut is this block's own, or the result of the one before, which is used up
        self.conv3 = kind(last, geometry, norm, relu=True, overwrite=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.conv3(self.conv2(self.conv1(x)), shortcut)


def _attention(
    model: ResNet, name: str, use: Identities, kind: type[Convolution], logits_only: bool
) -> SelfAttention | CrossAttention | None:
    """The block of that name; None where there is none, or where it is the identity."""
    block = getattr(model, name, None)
    if block is None or (use.drop_zero_gamma and not block.gamma.any()):
        return None
    match = getattr(model, f"match_{name}", None)
    if match is None:
        return SelfAttention(block, use, kind)
    if name != "ca34" or not use.pool_attention:
        return CrossAttention(block, match, use, kind)
    return CrossAttention(block, match, use, kind, model.fc, logits_only)
