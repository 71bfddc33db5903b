"""The attention block of HMC-Net as a module: three 1x1 convolutions around `spatial_attention`."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmc_fast.attention import attend, check_backend, spatial_attention
from hmc_fast.models.forms import (
    BlockSizes,
    check_form,
    choose_form,
    composed,
    project,
)

# SAGAN's self-attention and DANet's position attention call the same convolutions by these names.
FOREIGN_NAMES = {"query_conv": "query", "key_conv": "key", "value_conv": "value"}


class SpatialAttention2d(nn.Module):
    """gamma * softmax(scale * Q Kᵀ) V + x over the positions of a map, queries from x, keys and
    values from context.

    channels: of x and of context; reduction: queries and keys have channels // reduction of them,
    values all; scale: None for 1 / sqrt(channels // reduction), 1.0 for SAGAN and DANet; backend:
    see `hmc_fast.spatial_attention`; form: "direct", "reassociated" or "auto", see
    models/forms.py. gamma starts at 0: the block starts as the identity.

    `load_state_dict` also takes the names of SAGAN and DANet blocks (query_conv, key_conv,
    value_conv, gamma). Raises ValueError where channels is not a multiple of reduction, or backend
    is unknown.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 8,
        scale: float | None = None,
        backend: str = "auto",
        form: str = "auto",
    ) -> None:
        super().__init__()
        if reduction < 1 or channels % reduction:
            raise ValueError(
                f"channels must be a multiple of reduction, got {channels} and {reduction}"
            )
        if scale is not None and not math.isfinite(scale):
            raise ValueError(f"scale must be a finite number or None, got {scale}")
        self.query = nn.Conv2d(channels, channels // reduction, kernel_size=1)
        self.key = nn.Conv2d(channels, channels // reduction, kernel_size=1)
        self.value = nn.Conv2d(channels, channels, kernel_size=1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.scale = scale
        self.backend = check_backend(backend)
        self.form = check_form(form)
        self.register_load_state_dict_pre_hook(_rename_foreign_keys)

    def forward(
        self, x: Tensor, context: Tensor | None = None, match: nn.Conv2d | None = None
    ) -> Tensor:
        """x (B, C, H, W), context (B, C, H', W') or None for x itself -> (B, C, H, W), channels
        last in memory.

        match: a 1x1 convolution to C channels that context still has to pass.
        """
        context = x if context is None else context
        if self.chosen_form(x, context, match) == "direct":
            out = self._direct(x, context if match is None else match(context))
        else:
            out = self._reassociated(x, context, match)
        return out.transpose(1, 2).unflatten(2, x.shape[2:])

    def chosen_form(self, x: Tensor, context: Tensor, match: nn.Conv2d | None) -> str:
        """ "direct" or "reassociated" for these maps."""
        raw_channels = 0 if match is None else context.shape[1]
        sizes = BlockSizes(
            x.shape[0], x.shape[2] * x.shape[3], context.shape[2] * context.shape[3],
            self.query.out_channels, self.value.out_channels, raw_channels,
        )  # fmt: skip
        return choose_form(self.form, self.training, sizes).form

    def _direct(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.query(x), self.key(context), self.value(context)
        return spatial_attention(
            _tokens(q), _tokens(k), _tokens(v), _tokens(x), self.gamma, self.scale, self.backend
        )  # (B, H * W, C)

    def _reassociated(self, x: Tensor, context: Tensor, match: nn.Conv2d | None) -> Tensor:
        q, tokens = _tokens(self.query(x)), _tokens(context)
        k = F.linear(tokens, *composed(self.key, match))
        attended = attend(q, k, tokens, self.scale, self.backend)  # (B, H * W, context's channels)
        return project(attended, _tokens(x), self.gamma, *composed(self.value, match))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, backend={self.backend!r}, form={self.form!r}"


def _tokens(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C), a view; contiguous where the map is channels last."""
    return feature_map.flatten(2).transpose(1, 2)


def _rename_foreign_keys(module, state_dict, prefix, *_):  # type: ignore[no-untyped-def]
    for foreign, ours in FOREIGN_NAMES.items():
        for kind in ("weight", "bias"):
            if (key := f"{prefix}{foreign}.{kind}") in state_dict:
                state_dict[f"{prefix}{ours}.{kind}"] = state_dict.pop(key)
