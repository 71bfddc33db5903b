"""The phantom: pure films, a balanced plan, mirrored sides, masks that fit what is drawn."""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from hmc_fast.data import phantom as phantom_module
from hmc_fast.data import phantom_film
from hmc_fast.data.phantom import open_phantom
from hmc_fast.errors import InputError


@pytest.fixture(scope="module")
def phantom():
    return open_phantom(30, seed=3)


@pytest.fixture(scope="module")
def films(phantom):
    return [phantom.read(i) for i in range(len(phantom))]


@pytest.fixture(scope="module")
def masks(phantom):
    return [phantom.mask(i) for i in range(len(phantom))]


def compactness(mask: np.ndarray) -> float:
    """Perimeter squared over area, the perimeter counted in pixel edges: 16 for a square."""
    padded = np.pad(mask, 1).astype(int)
    perimeter = np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()
    return float(perimeter**2 / mask.sum())


def test_films_are_grey_bytes_of_the_asked_size(phantom, films, masks):
    assert {film.dtype for film in films} == {np.dtype(np.uint8)}
    assert {mask.dtype for mask in masks} == {np.dtype(bool)}
    assert {array.shape for array in films + masks} == {(256, 256)}
    assert open_phantom(1, size=65).read(1).shape == (65, 65)


@pytest.mark.parametrize("i", [0, 7, 11])
def test_a_film_depends_on_seed_patient_and_side_alone(phantom, films, i):
    alone = open_phantom(6, seed=3)
    np.testing.assert_array_equal(alone.read(i), films[i])
    np.testing.assert_array_equal(phantom.read(i), films[i])
    assert alone.content(i) == phantom.content(i)
    assert alone.images[i] == phantom.images[i]


def test_names_are_sorted_and_two_films_share_a_patient(phantom):
    assert phantom.images[:3] == ("p001L", "p001R", "p002L")
    assert list(phantom.images) == sorted(phantom.images)
    assert phantom.patients == tuple(image[:-1] for image in phantom.images)
    many = open_phantom(1000)
    assert (many.images[0], many.images[-1]) == ("p0001L", "p1000R")
    assert list(many.images) == sorted(many.images)


def test_left_films_have_the_chest_wall_left_and_right_films_right(films):
    left, right = np.stack(films[0::2]), np.stack(films[1::2])
    assert (left[:, 128, 0] > 50).all()
    assert (right[:, 128, -1] > 50).all()
    assert not left[:, :, -1].any()
    assert not right[:, :, 0].any()


def test_two_films_of_a_patient_share_their_outline(films):
    for left, right in zip(films[0::2], films[1::2], strict=True):
        np.testing.assert_array_equal(left > 0, right[:, ::-1] > 0)
        assert (left != right[:, ::-1]).mean() > 0.2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_plan_is_balanced(seed):
    data = open_phantom(90, seed=seed)
    assert np.bincount(data.strata).tolist() == [60, 60, 60]
    assert data.counts == {"normal": 70, "benign": 55, "malignant": 55}
    pairs = data.labels.reshape(-1, 2)
    np.testing.assert_array_equal(data.strata.reshape(-1, 2).max(axis=1), pairs.max(axis=1))
    assert set(pairs[pairs[:, 0] != pairs[:, 1]].min(axis=1)) == {0}


def test_masks_are_empty_exactly_on_normal_films(phantom, masks):
    np.testing.assert_array_equal([mask.any() for mask in masks], phantom.labels > 0)


def test_masks_lie_within_the_breast_and_are_brighter_than_around(phantom, films, masks):
    for i in np.flatnonzero(phantom.labels):
        film, mask = films[i].astype(float), masks[i]
        assert film[mask].min() > 0
        ring = binary_dilation(mask, iterations=14) & ~binary_dilation(mask, iterations=5)
        assert film[mask].mean() > film[ring & (film > 0)].mean() + 15
        assert 0.005 < mask.mean() < 0.12


def test_malignant_masks_are_less_round_than_benign_ones(phantom, masks):
    kinds = [[compactness(masks[i]) for i in np.flatnonzero(phantom.labels == k)] for k in (1, 2)]
    benign, malignant = kinds
    assert max(benign) < min(malignant)
    assert np.median(malignant) > 2 * np.median(benign)


@pytest.mark.parametrize("i", range(0, 12, 3))
def test_size_changes_the_resolution_and_not_the_geometry(phantom, films, masks, i):
    half = open_phantom(30, seed=3, size=128)
    large, small = masks[i], half.mask(i).repeat(2, axis=0).repeat(2, axis=1)
    if large.any():
        assert (large & small).sum() / (large | small).sum() > 0.85
    pooled = films[i].reshape(128, 2, 128, 2).mean(axis=(1, 3))
    assert np.abs(pooled - half.read(i)).mean() < 2


def test_other_seeds_sides_and_sizes_give_other_films(phantom, films):
    other = open_phantom(30, seed=4)
    assert not np.array_equal(other.read(0), films[0])
    contents = [data.content(i) for data in (phantom, other) for i in range(60)]
    contents.append(open_phantom(30, seed=3, size=128).content(0))
    assert len(set(contents)) == len(contents)


def test_content_changes_with_the_version(phantom, monkeypatch):
    before = phantom.content(0)
    monkeypatch.setattr(phantom_module, "VERSION", phantom_module.VERSION + 1)
    assert phantom.content(0) != before


def test_texture_follows_its_power_law():
    noise = phantom_film._power_noise(np.random.default_rng(0), 3.0, np.inf)
    power = np.abs(np.fft.fft2(noise)) ** 2
    rows = np.fft.fftfreq(len(noise), 1 / len(noise))
    frequency = np.hypot(rows[:, None], rows).round().astype(int)
    radial = np.bincount(frequency.ravel(), power.ravel()) / np.bincount(frequency.ravel())
    bins = np.arange(4, 100)
    slope, _ = np.polyfit(np.log(bins), np.log(radial[bins]), 1)
    assert slope == pytest.approx(-3.0, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 0}, "patients is 0; .* at least 1"),
        ({"seed": -1}, "seed is -1; .* at least 0"),
        ({"size": 63}, "size is 63; .* at least 64"),
    ],
)
def test_an_argument_out_of_range_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        open_phantom(**arguments)
