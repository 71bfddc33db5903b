"""The attention block of HMC-Net as a module: three 1x1 convolutions around `spatial_attention`."""

import math

import torch
from torch import Tensor, nn

from hmc_fast.attention import check_backend, spatial_attention

# SAGAN's self-attention and DANet's position attention call the same convolutions by these names.
FOREIGN_NAMES = {"query_conv": "query", "key_conv": "key", "value_conv": "value"}


class SpatialAttention2d(nn.Module):
    """gamma * softmax(scale * Q Kᵀ) V + x over the positions of a map, queries from x, keys and
    values from context.

    channels: of x and of context; reduction: queries and keys have channels // reduction of them,
    values all; scale: None for 1 / sqrt(channels // reduction), 1.0 for SAGAN and DANet; backend:
    see `hmc_fast.spatial_attention`. gamma starts at 0: the block starts as the identity.

    `load_state_dict` also takes the names of SAGAN and DANet blocks (query_conv, key_conv,
    value_conv, gamma). Raises ValueError where channels is not a multiple of reduction, or backend
    is unknown.
    """

    def __init__(
        self, channels: int, reduction: int = 8, scale: float | None = None, backend: str = "auto"
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
        self.register_load_state_dict_pre_hook(_rename_foreign_keys)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), context (B, C, H', W') or None for x itself -> (B, C, H, W), channels
        last in memory."""
        context = x if context is None else context
        height, width = x.shape[2:]
        q, k, v = self.query(x), self.key(context), self.value(context)
        out = spatial_attention(
            _tokens(q), _tokens(k), _tokens(v), _tokens(x), self.gamma, self.scale, self.backend
        )  # (B, H * W, C)
        return out.transpose(1, 2).unflatten(2, (height, width))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, backend={self.backend!r}"


def _tokens(feature_map: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C), a view; contiguous where the map is channels last."""
    return feature_map.flatten(2).transpose(1, 2)


def _rename_foreign_keys(module, state_dict, prefix, *_):  # type: ignore[no-untyped-def]
    for foreign, ours in FOREIGN_NAMES.items():
        for kind in ("weight", "bias"):
            if (key := f"{prefix}{foreign}.{kind}") in state_dict:
                state_dict[f"{prefix}{ours}.{kind}"] = state_dict.pop(key)
