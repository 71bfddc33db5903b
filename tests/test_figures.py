"""The pictures show what they are given, whatever the names, and stay small."""

import base64
import io
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hmc_fast.evaluation import figures

HOSTILE = ("$x^{$", "_hidden", "漢字")


def rows(folds=2, epochs=4, every=1):
    return [
        {
            "fold": fold,
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "train_accuracy": 1 - 1 / (epoch + 1),
            "test_loss": 2 / epoch + fold if epoch % every == 0 else None,
            "test_accuracy": 0.5 if epoch % every == 0 else None,
        }
        for fold in range(folds)
        for epoch in range(1, epochs + 1)
    ]


def image_of(uri, kind="png"):
    start, _, data = uri.partition(",")
    assert start == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_curves_show_the_mean_of_the_folds_where_test_values_exist():
    loss, accuracy = figures.learning_curves(rows(epochs=4, every=2)).axes
    test = line(loss, "test (display only)")
    np.testing.assert_array_equal(test.get_xdata(), [2, 4])
    np.testing.assert_allclose(test.get_ydata(), [1.5, 1.0])
    np.testing.assert_allclose(line(accuracy, "training").get_ydata(), [0.5, 2 / 3, 0.75, 0.8])
    assert len(loss.lines) == 2 * 2 + 2


def test_curves_of_one_fold_are_that_fold():
    loss, _ = figures.learning_curves(rows(folds=1)).axes
    np.testing.assert_allclose(line(loss, "training").get_ydata(), [1, 1 / 2, 1 / 3, 1 / 4])
    assert len(loss.lines) == 2


@pytest.mark.parametrize("history", [[], rows(1, 1), rows(epochs=3, every=9)])
def test_curves_of_little_history_are_drawn(history):
    assert figures.png_data_uri(figures.learning_curves(history))


def test_confusion_matrix_writes_counts_and_the_share_of_the_true_class():
    figure = figures.confusion_matrix([[3, 1], [0, 0]], ("no", "yes"))
    assert texts(figure) == ["3\n75 %", "1\n25 %", "0\n\N{EN DASH}", "0\n\N{EN DASH}"]


def test_roc_legend_names_each_class_with_its_auc():
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
    figure = figures.roc_curves([0, 0, 1, 1], probabilities, ("no", "yes"))
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["no: AUC 0.750", "yes: AUC 0.750"]


def test_roc_says_where_there_is_no_curve():
    figure = figures.roc_curves([0, 0, 1], np.eye(3)[[0, 0, 1]], HOSTILE)
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["$x^{$: AUC 1.000", "_hidden: AUC 1.000", "漢字: no curve"]


def test_any_class_name_is_drawn_as_it_is():
    probabilities = np.random.default_rng(0).dirichlet([1, 1, 1], 9)
    images = np.zeros((3, 8, 8), np.uint8)
    for figure in (
        figures.confusion_matrix(np.eye(3, dtype=int), HOSTILE),
        figures.roc_curves(np.arange(9) % 3, probabilities, HOSTILE),
        figures.sample_sheet(images, HOSTILE),
    ):
        assert image_of(figures.png_data_uri(figure)).width > 100


def test_sheets_show_the_images_unaltered():
    random = np.random.default_rng(0)
    originals = random.integers(0, 256, (7, 8, 8), dtype=np.uint8)
    variants = random.integers(0, 256, (7, 2, 8, 8), dtype=np.uint8)
    titles = [f"image {index}" for index in range(7)]
    sheet = [
        axes.images[0].get_array() for axes in figures.sample_sheet(originals, titles).axes[:7]
    ]
    np.testing.assert_array_equal(sheet, originals)
    pairs = [
        axes.images[0] for axes in figures.augmentation_sheet(originals, variants, titles).axes
    ]
    shown = np.array([image.get_array() for image in pairs]).reshape(7, 3, 8, 8)
    np.testing.assert_array_equal(shown[:, 0], originals)
    np.testing.assert_array_equal(shown[:, 1:], variants)
    assert {image.get_clim() for image in pairs} == {(0, 255)}


def test_png_is_twice_as_sharp_as_the_page_and_small():
    smooth = np.add.outer(np.arange(224), np.arange(224)) / 2 % 256
    noisy = smooth + np.random.default_rng(0).normal(0, 3, (3, 5, 224, 224))
    films = noisy.clip(0, 255).astype(np.uint8)
    films[..., :112] = 0  # background, as on a film
    figure = figures.augmentation_sheet(films[:, 0], films[:, 1:], ["a", "b", "c"])
    uri = figures.png_data_uri(figure)
    image = image_of(uri)
    width, height = figures.css_size(figure)
    assert image.size == pytest.approx((2 * width, 2 * height), abs=2)
    assert len(base64.b64decode(uri.partition(",")[2])) < 150_000


def test_jpeg_keeps_the_tones_of_a_heatmap():
    tones = np.linspace(0, 255, 224 * 224).reshape(224, 224).astype(np.uint8)
    figure = figures.sample_sheet(tones[None], ["a"])
    figure.axes[0].images[0].set_cmap("inferno")
    uri = figures.jpeg_data_uri(figure)
    image, expected = image_of(uri, "jpeg"), image_of(figures.png_data_uri(figure))
    assert image.size == expected.size
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 500
    difference = np.asarray(image, float) - np.asarray(expected.convert("RGB"), float)
    assert np.abs(difference).mean() < 4


def test_what_was_drawn_before_changes_nothing():
    first, second = (figures.roc_curves([0, 1, 1], np.eye(2)[[0, 1, 0]], "ab") for _ in range(2))
    figures.jpeg_data_uri(second)
    assert figures.png_data_uri(first) == figures.png_data_uri(second)


@pytest.mark.parametrize(
    ("suffix", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")]
)
def test_save_writes_the_same_bytes_each_time(tmp_path, suffix, start):
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for path in paths:
        figures.save(figures.confusion_matrix([[3, 1], [0, 2]], ("no", "yes")), path)
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(start)
    assert first == second


def test_nothing_global_is_opened():
    assert isinstance(figures.learning_curves(rows()), Figure)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
