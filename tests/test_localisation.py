"""How well a map finds a lesion: by hand, by plain loops, and what has no figure."""

import numpy as np
import pytest

from hmc_fast.explain.localisation import (
    energy_inside,
    iou,
    localise,
    mean_of,
    pointing_game,
)

FIGURES = (iou, pointing_game, energy_inside)
CAM = np.array([[1.0, 0.5, 0.0], [0.4, 0.6, 0.0], [0.0, 0.0, 0.5]])
MASK = np.array([[1, 1, 1], [0, 0, 0], [0, 0, 0]], bool)


def test_figures_by_hand():
    assert iou(CAM, MASK) == 2 / 5  # region: 1, 0.5, 0.6, 0.5; both: 1, 0.5
    assert iou(CAM, MASK, threshold=0.6) == 1 / 4
    assert pointing_game(CAM, MASK) == 1
    assert pointing_game(CAM, ~MASK) == 0
    assert energy_inside(CAM, MASK) == pytest.approx(1.5 / 3.0)


@pytest.mark.parametrize("seed", range(5))
def test_iou_and_energy_equal_plain_loops(seed):
    generator = np.random.default_rng(seed)
    cam, mask = generator.random((5, 7)), generator.random((5, 7)) < 0.3
    cells = [(r, c) for r in range(5) for c in range(7)]
    region = {cell for cell in cells if cam[cell] >= 0.5 * max(cam[each] for each in cells)}
    lesion = {cell for cell in cells if mask[cell]}
    assert iou(cam, mask) == pytest.approx(len(region & lesion) / len(region | lesion))
    inside = sum(cam[cell] for cell in lesion) / sum(cam[cell] for cell in cells)
    assert energy_inside(cam, mask) == pytest.approx(inside)


@pytest.mark.parametrize("figure", FIGURES)
def test_the_scale_of_a_map_changes_nothing(figure):
    assert figure(37.0 * CAM, MASK) == pytest.approx(figure(CAM, MASK))


def test_a_maximum_in_several_pixels_hits_by_their_share():
    cam = np.array([[1.0, 1.0, 1.0 - 1e-9], [0.0, 1.0, 0.9]])
    mask = np.array([[1, 1, 1], [0, 0, 0]], bool)
    assert pointing_game(cam, mask) == 3 / 4


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_constant_map_or_an_empty_mask_has_no_figure(figure, value):
    assert figure(np.full((3, 3), value), MASK) is None
    assert figure(CAM, np.zeros((3, 3), bool)) is None


def test_a_lesion_of_unknown_place_has_no_figure():
    assert localise(CAM, None) == (None, None, None)
    assert localise(CAM, MASK) == (2 / 5, 1, pytest.approx(0.5))


def test_what_is_undefined_is_counted_and_no_zero():
    assert mean_of([0.25, None, 0.75, float("nan")]) == (0.5, 2, 2)
    assert mean_of([None]) == (None, 0, 1)
    assert mean_of([]) == (None, 0, 0)


@pytest.mark.parametrize(
    ("cam", "mask", "words"),
    [
        (CAM[0], MASK[0], "must be (H, W) of one shape"),
        (CAM, MASK[:2], "must be (H, W) of one shape"),
        (CAM, MASK.astype(int), "the mask bool"),
        (CAM - 1, MASK, "not negative, got -1.0"),
        (CAM * np.nan, MASK, "finite"),
    ],
)
@pytest.mark.parametrize("figure", FIGURES)
def test_bad_arguments_are_named(figure, cam, mask, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        figure(cam, mask)
    assert words in str(caught.value)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1"):
        iou(CAM, MASK, threshold=threshold)
