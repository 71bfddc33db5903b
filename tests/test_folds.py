"""Folds: whole patients, every stratum everywhere, leaks refused, folds.csv there and back."""

import numpy as np
import pytest

from hmc_fast.data.dataset import Dataset
from hmc_fast.data.folds import (
    check_folds,
    make_folds,
    read_folds,
    read_rows,
    split_validation,
    write_folds,
)
from hmc_fast.errors import InputError

CLASSES = ("normal", "benign", "malignant")
# pairs of films of the 161 MIAS patients by the worst class of each film
MIAS_PAIRS = {(0, 0): 53, (0, 1): 55, (0, 2): 46, (1, 2): 6, (1, 1): 1}


def make_dataset(films):
    """films: for every patient the labels of its images."""
    names = [f"p{patient:03d}" for patient in range(len(films))]
    return Dataset(
        name="films",
        classes=CLASSES,
        images=tuple(
            f"{n}_{i}" for n, labels in zip(names, films, strict=True) for i in range(len(labels))
        ),
        patients=tuple(n for n, labels in zip(names, films, strict=True) for _ in labels),
        labels=np.array([label for labels in films for label in labels], np.int64),
        strata=np.array([max(labels) for labels in films for _ in labels], np.int64),
        read=lambda i: np.full((4, 4), i, np.uint8),
        mask=lambda i: None,
        content=str,
    )


def mias_layout(seed):
    pairs = [pair for pair, count in MIAS_PAIRS.items() for _ in range(count)]
    rng = np.random.default_rng(seed)
    return make_dataset([rng.permutation(pairs[i]).tolist() for i in rng.permutation(len(pairs))])


def random_dataset(rng, folds):
    """Up to 200 patients with 1 to 8 images, at least `folds` patients of each of 2 or 3 strata."""
    worst = np.repeat(np.arange(rng.integers(2, 4)), folds).tolist()
    worst += rng.integers(0, max(worst) + 1, rng.integers(0, 200 - len(worst) + 1)).tolist()
    films = [[*rng.integers(0, w + 1, rng.integers(0, 8)).tolist(), w] for w in worst]
    return make_dataset([films[i] for i in rng.permutation(len(films))])


def assert_whole_patients_and_every_stratum(dataset, assignment, folds):
    patients, strata = np.array(dataset.patients), dataset.strata
    assert assignment.dtype == np.int64
    assert assignment.shape == (len(dataset),)
    assert set(assignment.tolist()) == set(range(folds))
    for fold in range(folds):
        test = assignment == fold
        assert not set(patients[test]) & set(patients[~test])
        assert set(strata[test]) == set(strata)


def check_random_datasets(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        folds = int(rng.integers(2, 11))
        dataset = random_dataset(rng, folds)
        assignment = make_folds(dataset, folds, int(rng.integers(0, 2**32)))
        assert_whole_patients_and_every_stratum(dataset, assignment, folds)
        check_folds(dataset, assignment, dataset.images)


def test_no_fold_shares_a_patient_and_each_has_every_stratum():
    check_random_datasets(8, seed=0)


@pytest.mark.slow
def test_no_fold_shares_a_patient_in_200_random_datasets():
    check_random_datasets(200, seed=1)


@pytest.mark.parametrize("seed", range(6))
def test_folds_of_the_mias_layout_have_62_to_66_images_and_every_class(seed):
    dataset = mias_layout(seed)
    assert np.bincount(dataset.labels).tolist() == [207, 63, 52]
    assignment = make_folds(dataset, 5, seed)
    assert_whole_patients_and_every_stratum(dataset, assignment, 5)
    for fold in range(5):
        counts = np.bincount(dataset.labels[assignment == fold], minlength=3)
        assert 62 <= counts.sum() <= 66
        assert counts.sum() % 2 == 0
        assert (counts >= [38, 10, 9]).all()


def test_folds_depend_on_the_seed_alone():
    dataset = mias_layout(0)
    assert np.array_equal(make_folds(dataset, 5, 3), make_folds(dataset, 5, 3))
    assert not np.array_equal(make_folds(dataset, 5, 3), make_folds(dataset, 5, 4))


def test_a_stratum_that_no_patient_has_is_no_obstacle():
    dataset = make_dataset([(0, 1), (0, 1), (0, 2), (0, 2)])
    assert_whole_patients_and_every_stratum(dataset, make_folds(dataset, 2, 0), 2)


@pytest.mark.parametrize(
    ("films", "folds", "message"),
    [
        ([(0,), (1,)], 1, "needs 2 folds or more, got 1"),
        (
            [(0,)] * 5 + [(0, 2)] * 3,
            5,
            "malignant has 3 patients .* too few for 5 folds: use --folds 3 or add",
        ),
        (
            [(0,)] * 5 + [(0, 1)],
            2,
            "benign has 1 patient .* too few for 2 folds: add patients of that class",
        ),
    ],
)
def test_too_few_folds_or_patients_are_refused(films, folds, message):
    with pytest.raises(InputError, match=message):
        make_folds(make_dataset(films), folds, 0)


def test_a_patient_in_two_folds_is_refused():
    dataset = make_dataset([(0, 0), (0, 1), (2, 2)])
    with pytest.raises(
        InputError, match=r"patient p001 is in two folds \(p001_0 in fold 0, p001_1 in fold 1\)"
    ):
        check_folds(dataset, np.array([0, 0, 0, 1, 1, 1]), dataset.images)


def test_an_identical_image_in_two_folds_is_refused():
    dataset = make_dataset([(0, 0), (0, 1), (2, 2)])
    hashes = ["a", "b", "c", "a", "d", "e"]
    check_folds(dataset, np.array([0, 0, 0, 0, 1, 1]), hashes)
    with pytest.raises(
        InputError, match=r"two folds \(p000_0 in fold 0, p001_1 in fold 1\).*patients.csv"
    ):
        check_folds(dataset, np.array([0, 0, 1, 1, 1, 1]), hashes)


def test_written_folds_are_read_back(tmp_path):
    dataset = mias_layout(0)
    assignment = make_folds(dataset, 5, 0)
    write_folds(tmp_path / "folds.csv", dataset, assignment)
    read = read_folds(tmp_path / "folds.csv", dataset)
    assert read.dtype == np.int64
    assert np.array_equal(read, assignment)


def test_the_table_has_the_promised_columns(tmp_path):
    write_folds(tmp_path / "folds.csv", make_dataset([(0, 2), (1,)]), np.array([1, 1, 0]))
    assert (tmp_path / "folds.csv").read_text() == (
        "image,patient,label,fold\np000_0,p000,normal,1\np000_1,p000,malignant,1\np001_0,p001,benign,0\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "must start with image,patient,label,fold, not with ''"),
        (lambda text: text.replace("image", "file"), "not with 'file,patient"),
        (
            lambda text: text.replace("p000_1,", "p000_9,"),
            "row 2: image is p000_9, in films it is p000_1",
        ),
        (
            lambda text: text.replace("1,p000", "1,p007"),
            "row 2: patient of p000_1 is p007, in films it is p000",
        ),
        (
            lambda text: text.replace("benign", "normal"),
            "row 3: label of p001_0 is normal, in films it is benign",
        ),
        (lambda text: text.replace("p001_0,p001,benign,0\n", ""), "has 2 images, films has 3"),
        (lambda text: text + "p002_0,p002,benign,0\n", "has 4 images, films has 3"),
        (lambda text: text.replace(",malignant", ""), "row 2: 3 fields instead of 4"),
        (lambda text: text.replace("benign,0", "benign,-1"), "row 3: fold is '-1'"),
        (lambda text: text.replace("benign,0", "benign,²"), "row 3: fold is '²'"),
        (lambda text: text.replace("benign,0", "benign,2"), r"has folds \[1, 2\]"),
        (lambda text: text.replace("benign,0", "benign,1"), r"has folds \[1\]"),
        (lambda text: text.replace("p000_1,", "p000_0,"), "row 2: p000_0 stands there twice"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_its_first_difference(tmp_path, change, message):
    dataset = make_dataset([(0, 2), (1,)])
    path = tmp_path / "folds.csv"
    write_folds(path, dataset, np.array([1, 1, 0]))
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=message):
        read_folds(path, dataset)


def test_rows_are_read_without_the_data(tmp_path):
    write_folds(tmp_path / "folds.csv", make_dataset([(0, 2), (1,)]), np.array([1, 1, 0]))
    rows = read_rows(tmp_path / "folds.csv")
    assert list(rows) == ["p000_0", "p000_1", "p001_0"]
    assert rows["p000_1"] == ("p000", "malignant", 1)
    last = rows["p001_0"]
    assert (last.patient, last.label, last.fold) == ("p001", "benign", 0)


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path):
    dataset = make_dataset([(0, 2), (1,)])
    path = tmp_path / "folds.csv"
    write_folds(path, dataset, np.array([1, 1, 0]))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read_folds(path, dataset).tolist() == [1, 1, 0]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", b"image,patient,label,fold\n\x00\n"])
def test_a_missing_or_binary_table_is_named(tmp_path, content):
    path = tmp_path / "folds.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"folds\.csv"):
        read_folds(path, make_dataset([(0, 2), (1,)]))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_validation_takes_whole_patients_of_every_stratum(fraction):
    dataset = mias_layout(0)
    patients = np.array(dataset.patients)
    train = np.flatnonzero(make_folds(dataset, 5, 0) != 0)
    kept, held_out = split_validation(dataset, train, fraction, 0)
    assert sorted([*kept, *held_out]) == train.tolist()
    assert not set(patients[kept]) & set(patients[held_out])
    for stratum in range(3):
        mine = dataset.strata == stratum
        whole = len(set(patients[train][mine[train]]))
        taken = len(set(patients[held_out][mine[held_out]]))
        assert abs(taken - fraction * whole) <= 0.5


def test_validation_is_seeded_and_blind_to_the_order():
    dataset = mias_layout(0)
    train = np.arange(len(dataset))
    held_out = split_validation(dataset, train, 0.2, 1)[1]
    assert np.array_equal(split_validation(dataset, train, 0.2, 1)[1], held_out)
    assert set(split_validation(dataset, train[::-1], 0.2, 1)[1]) == set(held_out)
    assert set(split_validation(dataset, train, 0.2, 2)[1]) != set(held_out)


def test_no_fraction_gives_no_validation_images():
    dataset = make_dataset([(0,), (2,)])
    kept, held_out = split_validation(dataset, np.arange(2), 0, 0)
    assert kept.tolist() == [0, 1]
    assert held_out.size == 0


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_validation_takes_one_patient_and_leaves_one(fraction):
    dataset = make_dataset([(0,), (0,), (2,), (2,)])
    kept, held_out = split_validation(dataset, np.arange(4), fraction, 0)
    assert sorted(dataset.strata[kept]) == sorted(dataset.strata[held_out]) == [0, 2]


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(InputError, match="0 or more and below 1"):
        split_validation(mias_layout(0), np.arange(322), fraction, 0)


def test_validation_of_a_class_with_one_patient_is_refused():
    with pytest.raises(InputError, match="malignant has one patient"):
        split_validation(make_dataset([(0,), (0,), (2, 2)]), np.arange(4), 0.5, 0)


def test_a_fold_left_without_a_stratum_is_refused():
    """Beside 2000 images of one patient the splitter cannot tell 0 from 1 image of that class."""
    films = [(0,) * 2000, *[(0,)] * 4, *[(2,) * count for count in (900, 800, 700, 600, 5)]]
    with pytest.raises(InputError, match="no patient of class normal falls into fold"):
        make_folds(make_dataset(films), 5, 0)
