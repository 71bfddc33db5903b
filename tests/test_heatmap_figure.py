"""Heatmaps beside each other: the right map in the right place, and what the table says of it."""

import numpy as np
import pytest

from figure_checks import assert_legible
from hmc_fast.evaluation.heatmap_figure import OPACITY, heatmap_panels

SIZE = 8


def peak(*places):
    """A map that is 0 but at (row, column, value)."""
    cam = np.zeros((SIZE, SIZE), np.float32)
    for row, column, value in places:
        cam[row, column] = value
    return cam


def panel(film=True, mask=True, **changes):
    outline = np.zeros((SIZE, SIZE), bool)
    outline[2:4, 4:8] = True
    return {
        "image": "film.png",
        "label": "benign",
        "predicted": "normal",
        "film": np.full((SIZE, SIZE), 90, np.uint8) if film else None,
        "mask": outline if mask else None,
        "maps": {"grad-cam": peak((2, 5, 1.0), (7, 0, 0.25)), "score-cam": peak((6, 1, 1.0))},
    } | changes


def shown(figure):
    """Titles of the first row's pictures, and the last image in each of them."""
    axes = [a for a in figure.axes if a.images]
    return {a.get_title(): a.images[-1] for a in axes if a.get_title()}


def test_table_says_where_a_map_is_highest_and_what_lies_inside():
    drawn = heatmap_panels([panel()])
    names = [dict(zip(drawn.header, row, strict=True)) for row in drawn.rows]
    assert [row["method"] for row in names] == ["grad-cam", "score-cam"]
    first, second = names
    assert (first["image"], first["label"], first["predicted"]) == ("film.png", "benign", "normal")
    assert (first["highest_row"], first["highest_column"]) == (2, 5)
    assert (first["highest_is_inside"], second["highest_is_inside"]) == (True, False)
    assert (first["share_inside"], second["share_inside"]) == (0.8, 0.0)
    assert first["mask_share"] == 8 / 64
    assert first["mean"] == 1.25 / 64


def test_pictures_are_the_maps_over_the_film():
    pictures = shown(heatmap_panels([panel(), panel()]).figure)
    assert list(pictures) == ["image", "grad-cam", "score-cam"]
    np.testing.assert_array_equal(pictures["image"].get_array(), 90)
    np.testing.assert_array_equal(pictures["score-cam"].get_array(), panel()["maps"]["score-cam"])
    assert pictures["grad-cam"].get_alpha() == OPACITY
    assert pictures["grad-cam"].get_clim() == (0, 1)


def test_without_films_the_maps_stand_alone():
    pictures = shown(heatmap_panels([panel(film=False)]).figure)
    assert list(pictures) == ["grad-cam", "score-cam"]
    assert pictures["grad-cam"].get_alpha() == 1


def test_a_film_that_may_not_be_shown_leaves_its_place_empty():
    figure = heatmap_panels([panel(), panel(film=False)]).figure
    assert len([axes for axes in figure.axes if axes.images]) == 5
    assert "not shown" in [text.get_text() for axes in figure.axes for text in axes.texts]


def test_methods_are_those_asked_for_in_their_order():
    drawn = heatmap_panels([panel()], ["score-cam"])
    assert list(shown(drawn.figure)) == ["image", "score-cam"]
    assert [row[3] for row in drawn.rows] == ["score-cam"]


def test_a_constant_map_and_an_empty_mask_say_nothing_of_places():
    empty = np.zeros((SIZE, SIZE), bool)
    maps = {"grad-cam": peak(), "score-cam": peak((1, 1, 1.0))}
    drawn = heatmap_panels([panel(mask=False, maps=maps), panel(maps=maps) | {"mask": empty}])
    assert [row[7:] for row in drawn.rows] == [[None] * 5, [1, 1, None, None, None]] * 2
    words = [text.get_text() for axes in drawn.figure.axes for text in axes.texts]
    assert words.count("constant") == 2


@pytest.mark.parametrize(
    ("count", "name"), [(1, "film.png"), (3, "$x^{$"), (8, "a/very/long/name/of/a/film.png")]
)
def test_any_number_of_images_is_legible(count, name):
    assert_legible(heatmap_panels([panel(image=name, label="malignant")] * count).figure)


@pytest.mark.parametrize(
    ("panels", "methods", "message"),
    [
        ([], None, "got 0 and 0"),
        ([panel()], [], "got 1 and 0"),
        ([panel()], ["lime"], "film.png has no map by lime"),
        ([panel(maps={"x": peak((0, 0, 1.5))})], None, "x of film.png must be .* from 0 to 1"),
        ([panel(maps={"x": peak((0, 0, np.nan))})], None, "from 0 to 1"),
        ([panel() | {"mask": np.ones((4, 4), bool)}], None, r"mask of film.png .* got \(4, 4\)"),
        ([panel() | {"film": np.ones((4, 4))}], None, r"film of film.png .* got \(4, 4\)"),
    ],
)
def test_bad_input_names_what_it_got(panels, methods, message):
    with pytest.raises(ValueError, match=message):
        heatmap_panels(panels, methods)
