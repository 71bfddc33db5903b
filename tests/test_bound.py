"""What IoU a coarse map can reach: nobody passes the bound, and the fitted figure is reached."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hmc_fast.data.images import downscale_mask
from hmc_fast.data.mias import open_mias
from hmc_fast.explain.bound import bilinear, fitted_iou, highest_iou, smallest_region
from hmc_fast.explain.localisation import iou
from hmc_fast.explain.table import bound_on


def discs(count=12, size=48, seed=0):
    """Masks of one disc each, of 1 to 200 pixels."""
    generator = np.random.default_rng(seed)
    rows, columns = np.ogrid[:size, :size]
    centres, radii = generator.uniform(0, size, (count, 2)), generator.uniform(0.8, 8, count)
    return [
        (rows - y.round()) ** 2 + (columns - x.round()) ** 2 < radius**2
        for (y, x), radius in zip(np.clip(centres, 0, size - 1), radii, strict=True)
    ]


def upsampled(cells, size=48):
    """Low-resolution values (n, h, w) as maps from 0 to 1, the way explainers make them."""
    maps = F.interpolate(cells[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low)).numpy()


@pytest.mark.parametrize("cells", [(3, 3), (6, 6), (4, 8)])
@pytest.mark.parametrize("kind", ["normal", "one", "sharp"])
def test_no_map_passes_the_bound(cells, kind):
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(300, *cells, generator=generator, dtype=torch.float64)
    if kind == "one":
        values = F.one_hot(torch.arange(cells[0] * cells[1])).view(-1, *cells).double()
    elif kind == "sharp":
        values = values.exp() ** 3
    masks = discs()
    highest = highest_iou(masks, cells)
    for cam in upsampled(values):
        for mask, bound in zip(masks, highest, strict=True):
            assert iou(cam, mask) <= bound + 1e-12


def test_a_region_that_a_map_makes_is_reached_exactly():
    one = torch.zeros(1, 6, 6, dtype=torch.float64)
    one[0, 2, 3] = 1
    mask = upsampled(one)[0] >= 0.5
    assert fitted_iou([mask], (6, 6)) == pytest.approx([1])
    assert highest_iou([mask], (6, 6)) == pytest.approx([1])


@pytest.mark.parametrize("cells", [(3, 3), (4, 8)])
def test_what_is_fitted_lies_below_the_bound_and_above_single_cells(cells):
    masks = discs()
    fitted, highest = fitted_iou(masks, cells), highest_iou(masks, cells)
    single = upsampled(F.one_hot(torch.arange(cells[0] * cells[1])).view(-1, *cells).double())
    best = [max(iou(cam, mask) for cam in single) for mask in masks]
    assert (fitted <= highest + 1e-12).all()
    assert fitted.mean() >= np.mean(best) - 0.02


def test_as_many_cells_as_pixels_can_be_anything():
    assert highest_iou(discs(), (48, 48)) == pytest.approx([1] * 12)


def test_the_smallest_region_is_that_of_one_cell():
    corners = [[1.0] + [0.0] * 48, *([0.0] * i + [1.0] + [0.0] * (48 - i) for i in (24, 3))]
    cells = torch.tensor(corners).view(-1, 7, 7)
    regions = [int((cam >= 0.5).sum()) for cam in upsampled(cells, 224)]
    assert smallest_region((224, 224), (7, 7)) == min(regions) == 680


@pytest.mark.parametrize(("pixels", "cells"), [(224, 7), (10, 3), (5, 5)])
def test_weights_are_those_of_interpolate(pixels, cells):
    values = torch.randn(1, 1, cells, cells, dtype=torch.float64)
    expected = F.interpolate(values, pixels, mode="bilinear", align_corners=False)[0, 0]
    weights = bilinear(pixels, cells)
    torch.testing.assert_close(weights @ values[0, 0] @ weights.T, expected)


@pytest.mark.parametrize(
    ("masks", "cells", "words"),
    [
        ([np.zeros((4, 4), bool)], (2, 2), "an empty mask has no IoU"),
        ([np.ones((4, 4), bool), np.ones((4, 5), bool)], (2, 2), "of one shape"),
        ([], (2, 2), "of one shape"),
        ([np.ones((4, 4), bool)], (5, 2), "cells must be from 1 x 1 to the 4 x 4"),
        ([np.ones((4, 4), bool)], (0, 2), "cells must be from 1 x 1"),
    ],
)
@pytest.mark.parametrize("function", [highest_iou, fitted_iou])
def test_bad_arguments_are_named(function, masks, cells, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        function(masks, cells)
    assert words in str(caught.value)


def mias_masks(directory, size=224):
    films = open_mias(directory)
    masks = (films.mask(i) for i in range(len(films)))
    return [downscale_mask(m, size) for m in masks if m is not None and m.any()]


def test_the_papers_iou_is_above_the_bound_on_its_images(mias_dir):
    masks = mias_masks(mias_dir)
    assert len(masks) == 109
    means = [highest_iou(masks, (side, side)).mean() for side in (7, 14, 28)]
    assert means == pytest.approx([0.460, 0.789, 0.965], abs=5e-4)
    # the largest share of a region of 680 pixels that a smaller mask can have, design 2: 0.51
    assert means[0] < np.mean([min(1, mask.sum() / 680) for mask in masks]) < 0.51


@pytest.mark.slow
def test_what_fitted_maps_reach_on_the_papers_images(mias_dir):
    bound = bound_on(mias_masks(mias_dir), (7, 7))
    assert (bound.cells, bound.masks, bound.smallest) == ((7, 7), 109, 680)
    assert 290 <= bound.median <= 295  # design 2: 292
    assert 0.37 < bound.fitted < bound.highest < 0.461
