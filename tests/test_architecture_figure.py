"""The drawing of a network has every part, its numbers and every way between parts."""

import pytest
import torch

from figure_checks import assert_legible, texts
from hmc_fast.evaluation.architecture_figure import architecture
from hmc_fast.evaluation.figures import png_data_uri
from hmc_fast.models import create_model
from hmc_fast.models.outline import outline


def part(name, kind="stage", inputs=(), **figures):
    default = {"detail": "", "channels": 8, "size": [4, 4], "parameters": 0, "gmac": 0.0}
    return {"name": name, "kind": kind, "inputs": list(inputs)} | default | figures


PARTS = [
    part("image", "image", channels=3, size=[8, 8]),
    part("conv", "convolution", ["image"], parameters=1000, gmac=0.25, detail="3x3", size=[8, 8]),
    part("norm", "norm", ["conv"], parameters=16, size=[8, 8]),
    part("pool", "pooling", ["norm"]),
    part("side", "convolution", ["pool"], parameters=500, gmac=0.0001),
    part("block", "cross-attention", ["pool", "side"], parameters=9, gmac=1.0, size=[4, 2]),
    part("mean", "pooling", ["block"], size=[1, 1]),
    part("fc", "linear", ["mean"], parameters=2, size=[], channels=3),
]


def test_table_has_a_row_a_part():
    drawn = architecture(PARTS)
    assert drawn.header == [
        "name", "kind", "detail", "channels", "size", "parameters", "gmac", "inputs"
    ]  # fmt: skip
    assert drawn.rows[1] == ["conv", "convolution", "3x3", 3 + 5, "8x8", 1000, 0.25, "image"]
    assert drawn.rows[5][-1] == "pool side"
    assert drawn.rows[7][4] == ""


def test_small_parts_are_drawn_with_their_convolution():
    words = texts(architecture(PARTS).figure.axes[0])
    assert "conv … pool" in words
    assert "1,016" in words  # its own and the norm's
    assert "8 × 4²" in words  # of the pooled map
    assert not {"conv", "norm", "pool"} & set(words)
    assert "mean" in words  # follows no convolution


def test_numbers_are_those_of_the_parts():
    words = texts(architecture(PARTS).figure.axes[0])
    assert {"0.250", "< 0.001", "1.000", "3 × 8²", "8 × 4 × 2", "3x3"} <= set(words)
    assert {"1,527", "1.250"} <= set(words)  # the sums


def test_every_way_is_an_arrow_and_what_runs_beside_stands_beside():
    axes = architecture(PARTS).figure.axes[0]
    arrows = [a for a in axes.texts if getattr(a, "arrow_patch", None) is not None]
    assert len(arrows) == 6  # eight inputs, two of them inside a box
    lefts = {round(patch.get_x(), 2) for patch in axes.patches if patch.get_width() > 0.5}
    assert len(lefts) == 2


@pytest.mark.parametrize("variant", ["hmc", "multiscale", "resnet50", "vgg16", "vit_b_16"])
def test_real_networks_are_legible(variant):
    with torch.device("meta"):
        model = create_model(variant)
    drawn = architecture(outline(model, 224))
    assert_legible(drawn.figure)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert f"{total:,}" in texts(drawn.figure.axes[0])


def test_any_name_is_drawn_as_it_is():
    names = ["$x^{$", "_hidden", "漢字" * 20]
    assert png_data_uri(architecture([part(name) for name in names]).figure)


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="got none"):
        architecture([])
