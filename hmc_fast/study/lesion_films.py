"""Which films of a run stand in the study's heatmaps and localisation table: some with a known
lesion, the same ones every time."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from hmc_fast.explain.selection import Film

SEED = 0


def lesion_films(films: Sequence[Film], classes: Sequence[str], count: int | None) -> list[Film]:
    """`count` of the films with a known lesion, all of them where count is None or too many.

    films: of a run's own data, of one class each; classes: in order of severity. They are taken
    class by class and fold by fold in turn, so that the first few are as unlike as can be; which
    film of a class and fold is taken is decided by a fixed seed. A mask is drawn only to see
    whether a film that may be taken has a lesion.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1 or None, got {count}")
    order = np.random.default_rng(SEED).permutation(len(films))
    shuffled = [films[i] for i in order]
    chosen: list[Film] = []
    for film in _in_turn(shuffled, classes):
        if len(chosen) == count:
            break
        chosen.append(film)
    return chosen


def _in_turn(films: Sequence[Film], classes: Sequence[str]) -> Iterator[Film]:
    """The films with a lesion, one of each class and fold before a second one of any."""
    folds = sorted({film.fold for film in films})

    @cache  # a phantom's mask takes as long as drawing the film
    def has_lesion(place: int) -> bool:
        mask = films[place].mask()
        return mask is not None and bool(mask.any())

    def of(name: str, fold: int | None = None) -> Iterator[int]:
        places = (i for i, f in enumerate(films) if f.label == name and fold in (None, f.fold))
        return (place for place in places if has_lesion(place))

    ill = [name for name in classes if next(of(name), None) is not None]
    turns = [
        of(ill[(number + shift) % len(ill)], fold)
        for shift in range(len(ill))
        for number, fold in enumerate(folds)
    ]
    while turns:
        places = [next(turn, None) for turn in turns]
        turns = [turn for turn, place in zip(turns, places, strict=True) if place is not None]
        yield from (films[place] for place in places if place is not None)
