"""Score-CAM of some of the masks: what the others are taken for, and what they could still change.

A mask that was not tried gets the mean weight of those that were: its channels' maps are known, and
leaving them out would miss what they have in common. The estimate of the change that is still to
come takes weights as independent, each off that mean by the standard deviation σ of those tried:
two such deviations at a pixel, and two at the ends of the range that it is divided by.

    remaining = 4 σ max_p sqrt(Σ_k A_k(p)²) / (max_p map - min_p map)    k: channels not tried

It is no bound: weights of similar maps are similar.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from hmc_fast.explain.distinct import LEFT_OUT, Jobs
from hmc_fast.explain.recipes import Recipe

DEVIATIONS = 4.0
FEWEST = 8  # channels tried before their deviation is worth something


class Scores(NamedTuple):
    """values (J,): of the masks, 0 where not tried; tried (J,) bool."""

    values: Tensor
    tried: Tensor

    @classmethod
    def none(cls, jobs: Jobs) -> "Scores":
        """Before the first is tried."""
        values = torch.zeros_like(jobs.slack)
        return cls(values, torch.zeros_like(values, dtype=torch.bool))


def channel_weights(jobs: Jobs, scores: Scores, recipe: Recipe) -> Tensor:
    """The weights (B, C) of all channels; 0 for those that the recipe leaves out."""
    values, tried, kept = _of_channels(jobs, scores)
    if recipe.softmax:
        highest = values.masked_fill(~tried, -torch.inf).amax(1, keepdim=True)
        values = torch.exp(values - highest)
    weights = torch.where(tried, values, _mean(values, tried)).masked_fill(~kept, 0)
    return weights / weights.sum(1, keepdim=True) if recipe.softmax else weights


def remaining_change(
    jobs: Jobs, scores: Scores, weights: Tensor, activations: Tensor, weighted: Tensor
) -> Tensor:
    """The estimate for each image, (B,); 0 where all masks were tried, infinite where too few were.

    weights (B, C) of activations (B, C, h, w), and their weighted sum (B, h, w).
    """
    _, tried, kept = _of_channels(jobs, scores)
    count = tried.sum(1)
    squares = torch.where(tried, weights - _mean(weights, tried), 0).square().sum(1)
    deviation = (squares / (count - 1).clamp_min(1)).sqrt()
    missing = (kept & ~tried)[:, :, None, None].to(activations.dtype)
    spread = (missing * activations.square()).sum(1).sqrt().amax((1, 2))
    shown = weighted.relu()
    span = shown.amax((1, 2)) - shown.amin((1, 2))
    estimate = DEVIATIONS * deviation * spread / span.clamp_min(torch.finfo(span.dtype).tiny)
    estimate = torch.where(count < FEWEST, torch.inf, estimate)
    return estimate.masked_fill((tried == kept).all(1), 0)


def _of_channels(jobs: Jobs, scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
    """(B, C) each: the value of a channel's mask, whether it was tried, whether there is one."""
    kept = jobs.job != LEFT_OUT
    if not len(scores.values):
        return scores.values.new_zeros(kept.shape), kept, kept
    place = jobs.job.clamp_min(0)
    return scores.values[place], kept & scores.tried[place], kept


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of the chosen values of each row, (B, 1)."""
    total = torch.where(chosen, values, 0).sum(1, keepdim=True)
    return total / chosen.sum(1, keepdim=True).clamp_min(1)
