"""Pictures of maps: the right colours in the right place, whatever the image and the names."""

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from hmc_fast.evaluation import figures
from hmc_fast.evaluation.heatmap_figure import OPACITY, OUTLINE
from hmc_fast.explain.colormaps import COLORMAPS
from hmc_fast.explain.overlay import overlay, panel

SIZE = 16
GREY = np.full((SIZE, SIZE), 100, np.uint8)
LEFT = np.zeros((SIZE, SIZE), np.float32)
LEFT[:, :8] = 1
MASK = np.zeros((SIZE, SIZE), bool)
MASK[3:7, 9:13] = True


def rendered(figure):
    """The figure's pixels, float (h, w, 3)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return np.asarray(Image.open(buffer).convert("RGB"), float)


def colour_at(figure, axes, row, column):
    """The colour drawn at a pixel of the image."""
    pixels = rendered(figure)
    x, y = axes.transData.transform((column, row)) * 100 / figure.dpi
    return pixels[len(pixels) - 1 - int(y), int(x)]


def blended(grey, value, colormap):
    colour = 255 * np.array(matplotlib.colormaps[colormap](value)[:3])
    return (1 - OPACITY) * grey + OPACITY * colour


def outlines(axes):
    return [c for c in axes.collections if type(c).__name__ == "QuadContourSet"]


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_the_map_lies_over_the_image_in_the_colours_asked_for(colormap):
    figure = overlay(GREY, LEFT, colormap=colormap)
    axes, bar = figure.axes
    for column, value in ((3, 1.0), (12, 0.0)):
        found = colour_at(figure, axes, 8, column)
        np.testing.assert_allclose(found, blended(100, value, colormap), atol=4)
    assert bar.get_ylim() == (0, 1)
    assert bar.get_ylabel() == "importance"


def test_the_default_colours_rise_in_lightness_and_jets_do_not():
    def lightness(name):
        return matplotlib.colormaps[name](np.linspace(0, 1, 64))[:, :3] @ (0.2126, 0.7152, 0.0722)

    rises = {name: bool((np.diff(lightness(name)) > 0).all()) for name in COLORMAPS}
    assert rises[COLORMAPS[0]]
    assert [name for name, rising in rises.items() if not rising] == ["jet"]


def test_a_coarse_map_is_stretched_over_the_whole_image():
    figure = overlay(GREY, np.array([[1.0, 0.0]]))
    found = [colour_at(figure, figure.axes[0], 8, column) for column in (0, 15)]
    for colour, value in zip(found, (1.0, 0.0), strict=True):
        np.testing.assert_allclose(colour, blended(100, value, "inferno"), atol=4)


def test_colour_images_are_shown_in_colour():
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[..., 1] = 200
    figure = panel(image, {"grad-cam": LEFT})
    np.testing.assert_allclose(colour_at(figure, figure.axes[0], 8, 8), (0, 200, 0), atol=4)


def test_the_outline_stands_around_the_lesion():
    figure = overlay(GREY, LEFT, mask=MASK)
    (contour,) = outlines(figure.axes[0])
    points = np.concatenate([path.vertices for path in contour.get_paths()])
    np.testing.assert_allclose(points.min(0), (8.5, 2.5))  # x, y
    np.testing.assert_allclose(points.max(0), (12.5, 6.5))
    assert matplotlib.colors.to_hex(contour.get_edgecolor()[0]) == OUTLINE.lower()


@pytest.mark.parametrize("mask", [None, np.zeros_like(MASK), np.ones_like(MASK)])
def test_without_an_edge_there_is_no_outline(mask):
    assert outlines(overlay(GREY, LEFT, mask=mask).axes[0]) == []


def test_a_panel_shows_the_image_and_each_method():
    cams = {"grad-cam": LEFT, "grad-cam++": 1 - LEFT, "score-cam": np.zeros_like(LEFT)}
    figure = panel(GREY, cams, mask=MASK, title="mdb001: benign")
    *pictures, _ = figure.axes
    titles = [axes.get_title() for axes in pictures]
    assert titles == ["image", "grad-cam", "grad-cam++", "score-cam (constant)"]
    assert [len(outlines(axes)) for axes in pictures] == [1] * 4
    assert [len(axes.images) for axes in pictures] == [1, 2, 2, 2]
    assert figure.get_suptitle() == "mdb001: benign"
    np.testing.assert_allclose(colour_at(figure, pictures[0], 12, 3), (100, 100, 100), atol=2)


@pytest.mark.parametrize("name", ["$x^{$", "_hidden", "漢字", "x" * 500])
def test_any_name_can_be_written(name, tmp_path):
    for figure in (overlay(GREY, LEFT, title=name), panel(GREY, {name: LEFT}, title=name)):
        figures.save(figure, tmp_path / "x.png")
        with Image.open(tmp_path / "x.png") as picture:
            assert picture.width > 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": GREY.astype(float)}, "image must be uint8"),
        ({"image": np.zeros((4, 4, 2), np.uint8)}, "image must be uint8"),
        ({"cam": LEFT[0]}, r"cam must be \(h, w\) from 0 to 1"),
        ({"cam": LEFT * 1.5}, r"cam must be \(h, w\) from 0 to 1"),
        ({"cam": LEFT * np.nan}, r"cam must be \(h, w\) from 0 to 1"),
        ({"mask": MASK[:8]}, r"mask must be bool \(16, 16\)"),
        ({"mask": MASK.astype(int)}, r"mask must be bool \(16, 16\)"),
        ({"colormap": "rainbow"}, "colormap must be one of inferno, .* got 'rainbow'"),
    ],
)
def test_bad_arguments_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        overlay(**({"image": GREY, "cam": LEFT} | changes))


def test_a_panel_needs_a_map():
    with pytest.raises(ValueError, match="one map or more"):
        panel(GREY, {})
