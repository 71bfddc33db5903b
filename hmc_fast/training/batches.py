"""Which image in which variant stands in which batch: pure functions, so that a run can go on at
any step."""

from functools import lru_cache

import numpy as np


class BatchPlan:
    """The stream of training images of one fold: pass after pass, each in its own order, cut into
    full batches.

    indices: (n,) the training images' numbers in the data set; total: images to be seen in all. A
    batch may hold the end of one pass and the start of the next, so every batch is full and
    BatchNorm never sees a remainder of one or two; the last batch of all is filled up with the
    images that would come next.
    """

    def __init__(
        self, indices: np.ndarray, batch_size: int, total: int, seed: int, fold: int
    ) -> None:
        self.indices, self.batch_size, self.total = indices, batch_size, total
        self.steps = -(-total // batch_size)
        self._order = lru_cache(maxsize=4)(
            lambda variant: np.random.default_rng([seed, fold, variant]).permutation(len(indices))
        )

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(images, variants) of a step, each (batch_size,) int64: image numbers in the data set and
        passes."""
        stream = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        variants, places = np.divmod(stream, len(self.indices))
        positions = [self._order(int(v))[place] for v, place in zip(variants, places, strict=True)]
        return self.indices[positions], variants

    def passes_done(self, step: int) -> int:
        """Passes that are complete after `steps` many steps; the run's end counts as the end of a
        pass."""
        seen = step * self.batch_size
        return self.passes if step >= self.steps else seen // len(self.indices)

    @property
    def passes(self) -> int:
        """Passes in all, the last one perhaps in part."""
        return -(-self.total // len(self.indices))
