"""Spatial attention over blocks of query rows: O(N) memory, plain matrix products, any device.

    A = softmax(scale * Q Kᵀ) V,   out = gamma * A + X

A block of rows sees all keys, so its softmax is exact and needs no rescaling. Nothing but the
inputs is kept for the backward pass, which computes the scores again. With dP = dOut Vᵀ:

    delta = rowsum(dOut ∘ A) = rowsum(P ∘ dP),   dgamma = Σ delta,   dS = gamma * P ∘ (dP - delta)
    dV = gamma * Pᵀ dOut,   dQ = scale * dS K,   dK = scale * dSᵀ Q,   dX = dOut

No division by gamma, which starts at zero.
"""

import torch
from torch import Tensor

# Of scores; larger blocks are no faster on a CPU, smaller ones waste the matrix product.
BLOCK_BYTES = 8 << 20


def chunked_forward(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor, gamma: Tensor, scale: float
) -> Tensor:
    """q (B, Nq, Dk), k (B, Nk, Dk), v (B, Nk, Dv), x (B, Nq, Dv), gamma (1,) -> (B, Nq, Dv)."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    gamma = gamma.to(x.dtype)
    for sample in range(q.shape[0]):
        for rows in _blocks(q, k):
            probabilities = _probabilities(q[sample, rows] * scale, k[sample])  # (rows, Nk)
            attended = torch.mm(probabilities, v[sample])  # (rows, Dv)
            torch.addcmul(x[sample, rows], attended, gamma, out=out[sample, rows])
    return out


def chunked_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, gamma: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dout (B, Nq, Dv) and the forward's inputs -> dq, dk, dv like q, k, v and dgamma (1,); dx is
    dout itself."""
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (k, v))
    dgamma = torch.zeros(
        1, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32, device=q.device
    )
    for sample in range(q.shape[0]):
        for rows in _blocks(q, k):
            scaled_q, dout_rows = q[sample, rows] * scale, dout[sample, rows]
            probabilities = _probabilities(scaled_q, k[sample])  # (rows, Nk)
            dv[sample].addmm_(probabilities.t(), dout_rows)
            dscores = torch.mm(dout_rows, v[sample].t())  # dP, (rows, Nk)
            delta = torch.linalg.vecdot(probabilities, dscores).unsqueeze(1)  # (rows, 1)
            dgamma += delta.sum(dtype=dgamma.dtype)
            dscores.sub_(delta).mul_(probabilities)  # dS / gamma
            torch.mm(dscores, k[sample], out=dq[sample, rows])
            dk[sample].addmm_(dscores.t(), scaled_q)
    gamma_in_dtype = gamma.to(q.dtype)
    dq.mul_(gamma_in_dtype * scale)
    return dq, dk.mul_(gamma_in_dtype), dv.mul_(gamma_in_dtype), dgamma.to(gamma.dtype)


def _probabilities(scaled_q: Tensor, k: Tensor) -> Tensor:
    """softmax over keys of (rows, Dk) scaled queries and (Nk, Dk) keys: (rows, Nk)."""
    return torch.softmax(torch.mm(scaled_q, k.t()), dim=1)


def _blocks(q: Tensor, k: Tensor) -> list[slice]:
    """Equal blocks of query rows, the fewest whose scores fit BLOCK_BYTES each."""
    tokens = q.shape[1]
    most = max(1, BLOCK_BYTES // (k.shape[1] * k.element_size()))
    rows = -(-tokens // -(-tokens // most))
    return [slice(start, start + rows) for start in range(0, tokens, rows)]
