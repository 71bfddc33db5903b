"""Spatial attention over blocks of query rows: O(N) memory, plain matrix products, any device.

    A = softmax(scale * Q Kᵀ) V,   out = gamma * A + X

A block of rows sees all keys, so its softmax is exact and needs no rescaling. Nothing but the
inputs is kept for the backward pass, which computes the scores again. With dP = dOut Vᵀ:

    delta = rowsum(dOut ∘ A) = rowsum(P ∘ dP),   dgamma = Σ delta,   dS = gamma (P ∘ dP - delta P)
    dV = gamma * Pᵀ dOut,   dQ = scale * dS K,   dK = scale * dSᵀ Q,   dX = dOut

No division by gamma, which starts at zero.

A CPU takes 30 times as long over float32 products of denormal numbers, and a peaked softmax is full
of them: where a look at every SAMPLEDth row finds any, probabilities below WEIGHTLESS become zero.
`torch.set_flush_denormal` would do for the calling thread alone. Instructions for bfloat16 products
take them for zero.
"""

import torch
from torch import Tensor

# Of scores: the fastest of 4 to 40 MiB at HA1 on a CPU; small blocks waste the matrix product.
BLOCK_BYTES = 20 << 20
WEIGHTLESS = 1e-30  # far below the rounding of a sum of probabilities, far above denormal numbers
SAMPLED = 16
WIDE = (torch.float32, torch.float64)


def chunked_forward(
    q: Tensor, k: Tensor, v: Tensor, x: Tensor | None, gamma: Tensor | None, scale: float
) -> Tensor:
    """q (B, Nq, Dk), k (B, Nk, Dk), v (B, Nk, Dv), x (B, Nq, Dv), gamma (1,) -> (B, Nq, Dv).

    x = gamma = None: A alone.
    """
    out = torch.empty((*q.shape[:2], v.shape[2]), dtype=q.dtype, device=q.device)
    gamma_in_dtype = None if gamma is None else gamma.to(q.dtype)
    blocks = _blocks(q, k)
    buffer = _scores_buffer(blocks, q, k)
    for sample in range(q.shape[0]):
        for rows in blocks:
            scaled_q = _scaled(q[sample, rows], scale)
            probabilities = _probabilities(scaled_q, k[sample], buffer)  # (rows, Nk)
            out_rows = out[sample, rows]  # (rows, Dv)
            torch.mm(probabilities, v[sample], out=out_rows)
            if x is not None and gamma_in_dtype is not None:
                torch.addcmul(x[sample, rows], out_rows, gamma_in_dtype, out=out_rows)
    return out


def chunked_backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, gamma: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dout (B, Nq, Dv) and the forward's inputs -> dq, dk, dv like q, k, v and dgamma (1,), empty
    where gamma is None.

    dx is dout itself.
    """
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    dk, dv = (torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in (k, v))
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    dgamma = torch.zeros(1, dtype=wide, device=q.device)
    blocks = _blocks(q, k)
    buffer, gradient_buffer = _scores_buffer(blocks, q, k), _scores_buffer(blocks, q, k)
    for sample in range(q.shape[0]):
        for rows in blocks:
            scaled_q, dout_rows = _scaled(q[sample, rows], scale), dout[sample, rows]
            probabilities = _probabilities(scaled_q, k[sample], buffer)  # (rows, Nk)
            dv[sample].addmm_(probabilities.t(), dout_rows)
            dscores = gradient_buffer[: len(dout_rows)]
            torch.mm(dout_rows, v[sample].t(), out=dscores)  # dP, (rows, Nk)
            dscores.mul_(probabilities)
            delta = dscores.sum(dim=1, keepdim=True, dtype=wide)  # (rows, 1)
            dgamma += delta.sum()
            dscores.addcmul_(probabilities, delta.to(q.dtype), value=-1)  # dS / gamma
            torch.mm(dscores, k[sample], out=dq[sample, rows])
            dk[sample].addmm_(dscores.t(), scaled_q)
    if gamma is None:
        return dq.mul_(scale), dk, dv, q.new_empty(0)
    gamma_in_dtype = gamma.to(q.dtype)
    dq.mul_(gamma_in_dtype * scale)
    return dq, dk.mul_(gamma_in_dtype), dv.mul_(gamma_in_dtype), dgamma.to(gamma.dtype)


def _blocks(q: Tensor, k: Tensor) -> list[slice]:
    """Equal blocks of query rows, the fewest whose scores fit BLOCK_BYTES each."""
    tokens = q.shape[1]
    most = max(1, BLOCK_BYTES // (k.shape[1] * k.element_size()))
    rows = -(-tokens // max(1, -(-tokens // most)))
    return [slice(start, start + rows) for start in range(0, tokens, max(1, rows))]


def _scores_buffer(blocks: list[slice], q: Tensor, k: Tensor) -> Tensor:
    """Room for the scores of one block, used for all: fresh memory costs as much as the softmax."""
    rows = blocks[0].stop if blocks else 0
    return torch.empty(rows, k.shape[1], dtype=q.dtype, device=q.device)


def _scaled(q: Tensor, scale: float) -> Tensor:
    """Folded networks have the scale in their weights."""
    return q if scale == 1.0 else q * scale


def _probabilities(scaled_q: Tensor, k: Tensor, buffer: Tensor) -> Tensor:
    """softmax over keys of scaled queries (rows, Dk) and keys (Nk, Dk): (rows, Nk), in `buffer`."""
    scores = buffer[: scaled_q.shape[0]]
    torch.mm(scaled_q, k.t(), out=scores)
    torch.softmax(scores, dim=1, out=scores)
    return torch.threshold_(scores, WEIGHTLESS, 0.0) if _is_peaked(scores) else scores


def _is_peaked(probabilities: Tensor) -> bool:
    """Whether some of (rows, Nk) are likely denormal, where it matters; NaN are not."""
    slow = probabilities.device.type == "cpu" and probabilities.dtype in WIDE
    if not slow or not probabilities.numel():
        return False
    return bool(probabilities[::SAMPLED].amin() < torch.finfo(probabilities.dtype).tiny)
