"""HMC-Net: torchvision's ResNet50 with two pairs of spatial attention blocks, each optional.

    x1 = Layer1(stem)    x1' = HA1(x1)                     hierarchical, 56 x 56 at 224 px
    x2 = Layer2(x1')     x2' = HA2(x2)                     hierarchical, 28 x 28
    x3 = Layer3(x2')     x3' = CA23(x3, match_ca23 x2')    cross-scale, 14 x 14
    x4 = Layer4(x3')     x4' = CA34(x4, match_ca34 x3')    cross-scale, 7 x 7
    logits = FC(average pool x4')                          Fatima et al. 2026, Eq. 1 to 19

`match` is a 1x1 convolution to the deeper map's channels, then bilinear interpolation to its size.
The two commute, and in training the smaller map is convolved, or the convolution is multiplied into
the attention block's own (models/forms.py).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from hmc_fast.models.spatial_attention import SpatialAttention2d

RESNET50_LAYERS = (3, 4, 6, 3)
STRIDES = {"ha1": 4, "ha2": 8, "ca23": 16, "ca34": 32}  # of each block's map in the image


class HMCNet(ResNet):
    """ResNet50 with hierarchical (HA1, HA2) and multi-scale cross (CA23, CA34) attention.

    num_classes: logits; hierarchical, multiscale: whether the two pairs of blocks exist; reduction,
    scale, backend, attention_form: of every block, see SpatialAttention2d; layers: bottleneck
    blocks of each stage.
    With neither pair it is torchvision's ResNet50: the same parameter names, so that its
    checkpoints load.
    """

    def __init__(
        self,
        num_classes: int = 3,
        *,
        hierarchical: bool = True,
        multiscale: bool = True,
        reduction: int = 8,
        scale: float | None = None,
        backend: str = "auto",
        attention_form: str = "auto",
        layers: Sequence[int] = RESNET50_LAYERS,
    ) -> None:
        super().__init__(Bottleneck, list(layers), num_classes=num_classes)
        block = {
            "reduction": reduction, "scale": scale, "backend": backend, "form": attention_form,
        }  # fmt: skip
        self.hierarchical, self.multiscale = hierarchical, multiscale
        if hierarchical:
            self.ha1 = SpatialAttention2d(256, **block)  # type: ignore[arg-type]
            self.ha2 = SpatialAttention2d(512, **block)  # type: ignore[arg-type]
        if multiscale:
            self.match_ca23 = nn.Conv2d(512, 1024, kernel_size=1)
            self.ca23 = SpatialAttention2d(1024, **block)  # type: ignore[arg-type]
            self.match_ca34 = nn.Conv2d(1024, 2048, kernel_size=1)
            self.ca34 = SpatialAttention2d(2048, **block)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W), H and W of at least 64 -> logits (B, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (B, 64, H/4, W/4)
        x1 = self.layer1(x)  # (B, 256, H/4, W/4)
        if self.hierarchical:
            x1 = self.ha1(x1)
        x2 = self.layer2(x1)  # (B, 512, H/8, W/8)
        if self.hierarchical:
            x2 = self.ha2(x2)
        x3 = self.layer3(x2)  # (B, 1024, H/16, W/16)
        if self.multiscale:
            x3 = _cross_scale(self.ca23, self.match_ca23, x3, x2)
        x4 = self.layer4(x3)  # (B, 2048, H/32, W/32)
        if self.multiscale:
            x4 = _cross_scale(self.ca34, self.match_ca34, x4, x3)
        return self.fc(self.avgpool(x4).flatten(1))

    def attention_blocks(self) -> dict[str, SpatialAttention2d]:
        """The blocks that exist, by name, in the order of the forward pass."""
        return {name: m for name, m in self.named_children() if isinstance(m, SpatialAttention2d)}

    def raw_channels(self) -> dict[str, int]:
        """Channels of the finer map that each cross-scale block attends to, before `match`."""
        if not self.multiscale:
            return {}
        return {"ca23": self.match_ca23.in_channels, "ca34": self.match_ca34.in_channels}


def _cross_scale(block: SpatialAttention2d, match: nn.Conv2d, x: Tensor, finer: Tensor) -> Tensor:
    """Attention from x to the matched finer map; as written in inference (and for a single image),
    interpolated before it is matched in training."""
    if block.form == "reassociated" or (block.form == "auto" and block.training and len(x) > 1):
        return block(x, _resize_to(x, finer), match)
    return block(x, _resize_to(x, match(finer)))


def _resize_to(target: Tensor, feature_map: Tensor) -> Tensor:
    """`feature_map` interpolated to the height and width of `target`."""
    return F.interpolate(feature_map, size=target.shape[2:], mode="bilinear", align_corners=False)
