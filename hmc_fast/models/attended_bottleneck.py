"""HA1 and the first block of layer2 at once, without HA1's own map (identity 9).

HA1's map x + P x Wᵀ + b, with P = softmax(q kᵀ), is read by two 1x1 convolutions and nothing else:
the block's first, to half the channels, and its shortcut, of stride 2. Both are linear:

    first     Wf (x + P x Wᵀ + b) = Wf x + P (x (Wf W)ᵀ) + Wf b       at every position
    shortcut  Ws (x + P x Wᵀ + b) = Ws x + (P x) (Ws W)ᵀ + Ws b       at one position in four

So three positions in four attend over half the channels, and the fourth over x itself, from which a
small product gives its part of the first convolution. At 224 x 224 HA1 and the two convolutions
take 2.38 instead of 3.29 GMAC.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from hmc_fast.attention import attend
from hmc_fast.models.convolution import Convolution, parts_of
from hmc_fast.models.folded_attention import projections
from hmc_fast.models.folding import (
    Affine,
    Identities,
    as_map,
    compose,
    concatenated,
    tokens,
    without_bias,
)
from hmc_fast.models.spatial_attention import SpatialAttention2d


class AttendedBottleneck(nn.Module):
    """The map before HA1 -> the map after the first block of layer2.

    block: HA1; first: that block, batch_norm and fold_constants among the identities in use;
    folded: its folded form, which all but the first convolution is used of; kind: of the others.
    """

    def __init__(
        self,
        block: SpatialAttention2d,
        first: Bottleneck,
        folded: Any,
        use: Identities,
        kind: type[Convolution],
    ) -> None:
        super().__init__()
        query, key, value, *_ = projections(block, use)
        assert first.downsample is not None
        entry, *_ = parts_of(first.conv1, first.bn1, use)
        shortcut, geometry, _ = parts_of(first.downsample[0], first.downsample[1], use)
        shortcut = without_bias(shortcut)  # it is in the last convolution
        composed = compose(entry, value)
        narrow = without_bias(composed)
        self.widths = [len(conv.bias) for conv in (query, key, narrow)]
        self.project = kind(concatenated(query, key, narrow))
        self.entry, self.narrow = kind(Affine(entry.weight, composed.bias)), kind(narrow)
        self.widen = kind(compose(shortcut, value), overwrite=True)
        self.stride, self.folded, self.backend = geometry.stride, folded, block.backend

    @staticmethod
    def pays(use: Identities, kind: type[Convolution]) -> bool:
        """Whether the identities in use allow it, and the device gains by it."""
        return use.skip_map and use.batch_norm and use.fold_constants and kind.saves_arithmetic

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, 2 C, H / 2, W / 2), rounded up."""
        q, k, v = self.project(x).split(self.widths, 1)
        k, v, (q, *others) = tokens(k), tokens(v), self._phases(q)
        attended = as_map(attend(tokens(q), k, tokens(x), 1.0, self.backend), q)
        out = self.entry(x)  # (B, C / 2, H, W)
        first, *rest = self._phases(out)
        first += self.narrow(attended)
        q = torch.cat([tokens(phase) for phase in others], 1)
        sizes = [phase.shape[2] * phase.shape[3] for phase in rest]
        parts = attend(q, k, v, 1.0, self.backend).split(sizes, 1)
        for phase, part in zip(rest, parts, strict=True):
            phase += as_map(part, phase)
        shortcut = self.widen(attended, self.folded.downsample(x))
        return self.folded.conv3(self.folded.conv2(out.relu_()), shortcut)

    def _phases(self, feature_map: Tensor) -> list[Tensor]:
        """Views of the positions that a convolution of this stride sees, and of the others."""
        rows, columns = self.stride
        starts = [(i, j) for i in range(rows) for j in range(columns)]
        return [feature_map[:, :, i::rows, j::columns] for i, j in starts]
