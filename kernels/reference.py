"""Spatial attention as the paper writes it: the specification that every other backend is tested
against.

    A = softmax(scale * Q Kᵀ, over keys)          Fatima et al. 2026, Eq. 11 and 14
    out = gamma * A V + X                         Eq. 7 and 15

All N x N scores are stored; autograd keeps them for the backward pass. Any floating dtype, any
device.
"""

import torch
from torch import Tensor


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor | None, gamma: Tensor | None, scale: float
) -> Tensor:
    """q (B, Nq, Dk), k (B, Nk, Dk), v (B, Nk, Dv), x (B, Nq, Dv), gamma (1,) -> (B, Nq, Dv).

    x = gamma = None: A V alone.
    """
    scores = torch.bmm(q * scale, k.transpose(1, 2))  # (B, Nq, Nk); float16 may overflow unscaled
    probabilities = torch.softmax(scores, dim=-1)
    attended = torch.bmm(probabilities, v)  # (B, Nq, Dv)
    return attended if x is None or gamma is None else gamma.to(x.dtype) * attended + x
