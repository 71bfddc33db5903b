"""The attention blocks of the folded networks: HA1 and HA2 attend to their own map, CA23 and CA34
to a finer one, y.

    HA     q, k, gamma v by one convolution of x        out = softmax(q kᵀ) (gamma v) + x
    CA     k by the composed convolution of resized y   out = softmax(q kᵀ) y (gamma Wv Wm)ᵀ + x + b
                                                    or  out = softmax(q kᵀ) (gamma Wv Wm y + b) + x

The first form of CA, reassociated, is less arithmetic. The second, direct, is a launch less: keys
and values by one convolution, the sum in the attention kernel.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hmc_fast.attention import attend, spatial_attention
from hmc_fast.models.convolution import Convolution
from hmc_fast.models.folding import (
    Affine,
    Identities,
    affine,
    as_map,
    compose,
    compose_classifier,
    concatenated,
    mean_attended,
    resize_to,
    scaled,
    tokens,
)
from hmc_fast.models.spatial_attention import SpatialAttention2d


class Projections(NamedTuple):
    """A block's three 1x1 convolutions; gamma (1,) and scale where they are still to be applied."""

    query: Affine
    key: Affine
    value: Affine
    gamma: Tensor
    scale: float


def projections(block: SpatialAttention2d, use: Identities) -> Projections:
    """The block's own parameters, float64; with identity 5 gamma and scale are in the weights."""
    query, key, value = (affine(conv) for conv in (block.query, block.key, block.value))
    scale = block.query.out_channels**-0.5 if block.scale is None else block.scale
    gamma = block.gamma.detach().double()
    if not use.fold_constants:
        return Projections(query, key, value, gamma, scale)
    folded = scaled(query, scale), key, scaled(value, gamma)
    return Projections(*folded, gamma=torch.ones_like(gamma), scale=1.0)


class SelfAttention(nn.Module):
    """HA1, HA2; kind: the class of the convolutions."""

    def __init__(self, block: SpatialAttention2d, use: Identities, kind: type[Convolution]) -> None:
        super().__init__()
        parts = projections(block, use)
        self.widths = [len(conv.bias) for conv in parts[:3]]
        convs = [concatenated(*parts[:3])] if use.fold_constants else parts[:3]
        self.project = nn.ModuleList(kind(conv) for conv in convs)
        self.gamma = nn.Parameter(parts.gamma, requires_grad=False)
        self.scale, self.backend = parts.scale, block.backend

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """x (B, C, H, W) -> the same; finer is not used."""
        projected = [tokens(conv(x)) for conv in self.project]
        q, k, v = projected[0].split(self.widths, 2) if len(projected) == 1 else projected
        out = spatial_attention(q, k, v, tokens(x), self.gamma, self.scale, self.backend)
        return as_map(out, x)


class CrossAttention(nn.Module):
    """CA23, CA34, the match included.

    kind: the class of the convolutions, which says what form is the faster; classifier: for
    `added_logits`; logits_only: nothing else will be asked for, and in the reassociated form the
    values' convolution, the largest product of all folding, is not made.
    """

    def __init__(
        self,
        block: SpatialAttention2d,
        match: nn.Conv2d,
        use: Identities,
        kind: type[Convolution],
        classifier: nn.Linear | None = None,
        logits_only: bool = False,
    ) -> None:
        super().__init__()
        query, key, value, gamma, self.scale = projections(block, use)
        reassociate = use.reassociate and (kind.saves_arithmetic or classifier is not None)
        joined = use.fold_constants and not reassociate
        matches = [affine(match)] if use.compose_match else []
        if classifier is not None:
            before = [value, *matches] if reassociate else []
            self.to_logits = as_linear(compose_classifier(classifier, gamma, *before))
        without_values = logits_only and reassociate
        for inner in matches:
            key = compose(key, inner)
            value = value if without_values else compose(value, inner)
        self.match = None if use.compose_match else kind(affine(match))
        self.query = kind(query)
        self.key = kind(concatenated(key, value) if joined else key)
        self.value = None if joined or without_values else kind(value)
        self.widths = [len(key.bias), len(value.bias)] if joined else None
        self.gamma = nn.Parameter(gamma, requires_grad=False)
        self.pool_first = use.pool_first or use.compose_match
        self.reassociate, self.folded, self.backend = reassociate, use.fold_constants, block.backend

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """x (B, C, H, W), finer (B, Cy, H', W') -> (B, C, H, W)."""
        q, k, values = self._queries_keys_values(x, finer)
        if self.value is None or not self.reassociate:
            x_tokens = tokens(x)
            out = spatial_attention(q, k, values, x_tokens, self.gamma, self.scale, self.backend)
            return as_map(out, x)
        attended = as_map(attend(q, k, values, self.scale, self.backend), x)
        return self.value(attended, x) if self.folded else x + self.gamma * self.value(attended)

    def added_logits(self, x: Tensor, finer: Tensor) -> Tensor:
        """What the block adds to the logits of x (B, C, H, W) behind an average pool: (B,
        classes)."""
        attended = mean_attended(*self._queries_keys_values(x, finer), self.scale)
        return self.to_logits(attended.to(self.to_logits.weight.dtype))

    def _queries_keys_values(self, x: Tensor, finer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, D) each; reassociated, the values are the context itself."""
        y = resize_to(x, finer) if self.pool_first else finer
        y = y if self.match is None else self.match(y)
        y = y if self.pool_first else resize_to(x, y)
        q, k = tokens(self.query(x)), tokens(self.key(y))
        if self.widths is not None:
            k, v = k.split(self.widths, 2)
            return q, k, v
        return q, k, tokens(y if self.reassociate or self.value is None else self.value(y))


def as_linear(parts: Affine) -> nn.Linear:
    """A linear layer with this weight (out, in) and bias."""
    linear = nn.Linear(parts.weight.shape[1], parts.weight.shape[0], device="meta")
    linear.weight = nn.Parameter(parts.weight, requires_grad=False)
    linear.bias = nn.Parameter(parts.bias, requires_grad=False)
    return linear
