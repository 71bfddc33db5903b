"""All masks of all images as one stream of batches, without waiting for the device in between."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from hmc_fast.explain.approximate import Scores
from hmc_fast.explain.distinct import Jobs
from hmc_fast.explain.masked import MaskedImages
from hmc_fast.progress import progress

Enough = Callable[[Scores], bool]


def try_masks(
    masked: MaskedImages,
    jobs: Jobs,
    places: Tensor,
    targets: Tensor,
    scores: Scores,
    *,
    quiet: bool,
    enough: Enough | None = None,
) -> None:
    """Try the masks at `places` (n,) and enter their values in `scores`.

    targets (B,): of the images. enough: asked after every batch; True ends it. Where the device has
    no memory for a batch, half of it is taken, and so on.
    """
    steps = _steps(masked, jobs, places, targets, scores, enough)
    for _ in progress(steps, "score-cam", total=len(places), unit="mask", quiet=quiet):
        pass


def _steps(
    masked: MaskedImages,
    jobs: Jobs,
    places: Tensor,
    targets: Tensor,
    scores: Scores,
    enough: Enough | None,
) -> Iterator[int]:
    """A number for every mask that was tried."""
    done = 0
    while done < len(places):
        size = masked.size(len(places))
        batch = places[done : done + size]
        values = _try_batch(masked, jobs.chosen(batch), targets, size)
        if values is None:
            masked.halve()
            continue
        scores.values[batch] = values.to(scores.values.dtype)
        scores.tried[batch] = True
        yield from range(done, done + len(batch))
        done += len(batch)
        if enough is not None and enough(scores):
            return


def _try_batch(masked: MaskedImages, batch: Jobs, targets: Tensor, size: int) -> Tensor | None:
    """The scores of a batch; None where the device has no memory for it."""
    try:
        logits = masked(batch, size)
    except torch.OutOfMemoryError:
        if masked.batch == 1:
            raise
        return None  # outside, nothing of the failed attempt is alive
    return masked.recipe.scores(logits, targets[batch.image])
