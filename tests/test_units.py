"""Films joined to patients: labels by the worst, probabilities by the worst or the mean."""

import numpy as np
import pytest

from hmc_fast.evaluation.units import by_unit, check_one_row_a_patient

CLASSES = ("normal", "benign", "malignant")
LABELS = [0, 2, 1, 0]
PROBABILITIES = [[0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
PATIENTS = ["b", "a", "b", "c"]


def test_worst_takes_the_largest_chance_of_each_class_or_worse():
    found = by_unit(LABELS, PROBABILITIES, PATIENTS, CLASSES)
    assert found.names == ["a", "b", "c"]
    np.testing.assert_array_equal(found.labels, [2, 1, 0])
    np.testing.assert_array_equal(found.images, [1, 2, 1])
    np.testing.assert_array_equal(found.first, [1, 0, 3])
    # b: P(benign or worse) is 0.3 and 0.9, P(malignant) 0.1 and 0.1
    np.testing.assert_allclose(
        found.probabilities, [[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
    )


def test_mean_takes_the_mean():
    found = by_unit(LABELS, PROBABILITIES, PATIENTS, CLASSES, rule="mean")
    np.testing.assert_allclose(found.probabilities[1], [0.4, 0.5, 0.1])
    np.testing.assert_array_equal(found.labels, [2, 1, 0])


@pytest.mark.parametrize("rule", ["worst", "mean"])
def test_joined_rows_are_probabilities_and_the_order_of_films_does_not_matter(rule):
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 3, 60), random.dirichlet([1, 1, 1], 60)
    patients = [f"p{i}" for i in random.integers(0, 20, 60)]
    found = by_unit(labels, probabilities, patients, CLASSES, rule=rule)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1)
    assert (found.probabilities >= 0).all()
    order = random.permutation(60)
    shuffled = [patients[i] for i in order]
    again = by_unit(labels[order], probabilities[order], shuffled, CLASSES, rule=rule)
    np.testing.assert_allclose(again.probabilities, found.probabilities)


def test_one_film_a_unit_changes_nothing():
    found = by_unit(LABELS, PROBABILITIES, ["a", "b", "c", "d"], CLASSES)
    np.testing.assert_allclose(found.probabilities, PROBABILITIES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"units": ["a"]}, "got 1 for 4 films"), ({"rule": "max"}, "worst, mean: got 'max'")],
)
def test_bad_input_names_what_it_got(arguments, message):
    good = {"labels": LABELS, "probabilities": PROBABILITIES, "units": PATIENTS}
    with pytest.raises(ValueError, match=message):
        by_unit(**{**good, **arguments}, classes=CLASSES)


@pytest.mark.parametrize("patients", [["a", "b", "a", "c"], ["a", "b", "c"]])
def test_rows_that_are_no_patients_of_their_own_are_refused(patients):
    with pytest.raises(ValueError, match="4 rows of 3 patients; join their films by"):
        check_one_row_a_patient(LABELS, patients)
