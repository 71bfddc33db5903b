"""Which films stand for a study: with a lesion, spread over classes and folds, the same every
time."""

from collections import Counter

import numpy as np
import pytest

from hmc_fast.explain.selection import Film
from hmc_fast.study.lesion_films import lesion_films

CLASSES = ("normal", "benign", "malignant")
LESION, HEALTHY = np.eye(4, dtype=bool), np.zeros((4, 4), bool)


def film(name, fold, label, mask):
    return Film(name, name, fold, label, name, True, lambda: HEALTHY, lambda: mask)


def films(each: int = 4, folds: int = 5) -> list[Film]:
    """`each` of every class and fold: normal ones healthy, of the first ill one the place is not
    known."""
    made = []
    for fold in range(folds):
        for label in CLASSES:
            for number in range(each):
                mask = HEALTHY if label == "normal" else LESION if number else None
                made.append(film(f"{label}{fold}{number}", fold, label, mask))
    return made


@pytest.mark.parametrize("count", [1, 3, 6, 10, 25])
def test_folds_and_classes_are_spread(count):
    chosen = lesion_films(films(), CLASSES, count)
    assert len(chosen) == len({f.name for f in chosen}) == count
    folds = [sum(f.fold == fold for f in chosen) for fold in range(5)]
    labels = [sum(f.label == label for f in chosen) for label in CLASSES[1:]]
    for counts in (folds, labels):
        assert sum(counts) == count
        assert max(counts) - min(counts) <= 1


def test_only_films_with_a_known_lesion_are_chosen():
    made = films()
    every = lesion_films(made, CLASSES, None)
    assert len({f.name for f in every}) == len(every) == 5 * 2 * 3
    assert all(f.label != "normal" and not f.name.endswith("0") for f in every)
    assert lesion_films(made, CLASSES, 99) == every


def test_the_first_few_do_not_depend_on_how_many_are_asked_for():
    every = [f.name for f in lesion_films(films(), CLASSES, None)]
    assert every[:7] == [f.name for f in lesion_films(films(), CLASSES, 7)]
    assert every != sorted(every)


def test_a_fold_or_class_that_is_used_up_leaves_its_turn_to_the_others():
    made = [f for f in films() if f.fold or f.label == "benign"]
    chosen = lesion_films(made, CLASSES, None)
    assert Counter(f.fold for f in chosen) == {0: 3, 1: 6, 2: 6, 3: 6, 4: 6}
    assert {f.fold for f in chosen[:5]} == {1, 2, 3, 4, 0}


def test_no_lesion_is_no_film():
    assert lesion_films([f for f in films() if f.label == "normal"], CLASSES, 3) == []
    assert lesion_films([], CLASSES, None) == []


def test_fewer_than_one_is_refused():
    with pytest.raises(ValueError, match="count must be at least 1 or None, got 0"):
        lesion_films(films(), CLASSES, 0)
