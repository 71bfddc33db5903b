"""bench/active_cells.py: which tokens see an active cell, and what follows."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))

import active_cells
from hmc_fast.data.preprocessing import Preprocessing
from random_network import small_network


def test_a_token_is_active_where_its_field_meets_the_mask():
    """Tokens lie 4 pixels apart and see 17 pixels to each side."""
    masks = torch.zeros(1, 1, 96, 96)
    masks[0, 0, 40, 60] = 0.1
    found = active_cells.active_tokens(masks)[0]
    rows, columns = found.nonzero().T
    assert found.shape == (24, 24)
    assert (4 * rows.min(), 4 * rows.max()) == (24, 56)  # 40 - 16, 40 + 16
    assert (4 * columns.min(), 4 * columns.max()) == (44, 76)
    assert found.sum() == 9 * 9


def test_the_field_is_that_of_the_network():
    """A changed pixel changes tokens of layer1 within 17 pixels, and one at that distance."""
    model, image = small_network(), torch.zeros(1, 3, 128, 128, dtype=torch.float64)
    whole = [type(model.layer1[0])(256, 64).double().eval() for _ in range(2)]
    model.layer1.extend(whole)  # three blocks, as in ResNet50

    def tokens(x):
        with torch.no_grad():
            return model.layer1(model.maxpool(model.relu(model.bn1(model.conv1(x)))))

    changed = image.clone()
    changed[..., 60, 60] = 3
    difference = (tokens(changed) - tokens(image)).abs().amax((0, 1))
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 60, 60] = 1
    assert not difference[active_cells.active_tokens(mask)[0] == 0].any()


def test_shares_by_hand():
    maps = torch.zeros(1, 3, 4, 4)  # of an image of 128 pixels: cells of 32
    maps[0, 0, 0, 0] = 2
    maps[0, 1] = 1  # constant: no mask
    maps[0, 2] = torch.arange(16.0).view(4, 4)
    found = active_cells.activity(maps, (128, 128))
    assert found.cells == pytest.approx((1 / 16 + 15 / 16) / 2)
    # the first mask ends at pixel 47: tokens up to 64 see it, 17 of 32 a side; the other leaves
    # out pixels up to 15, all of which see further
    share = (17 / 32) ** 2
    assert found.tokens == pytest.approx((share + 1) / 2, abs=1e-6)
    assert found.cost == pytest.approx(((share + 49 / 1024) ** 2 + 1) / 2, abs=1e-6)


@pytest.mark.parametrize(("cost", "word"), [(0.49, ": worth building"), (0.5, "not worth")])
def test_below_half_it_is_worth_it(cost, word):
    found = [active_cells.Activity(0.1, 0.6, cost)] * 2
    line = active_cells.sentence(found, "layer4")
    assert line.startswith("2 images, layer4: 10.0% of the cells are active, 60.0% of HA1's tokens")
    assert word in line


def test_images_go_through_the_runs_model(tmp_path, monkeypatch, capsys):
    model = small_network(torch.float32)
    model.preprocessing = Preprocessing(64)
    monkeypatch.setattr(active_cells, "load_model", lambda run, fold: model)
    pixels = np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    assert active_cells.main([str(tmp_path), str(tmp_path / "film.png")]) == 0
    assert "1 images, layer4:" in capsys.readouterr().out
    for words, message in (
        ([tmp_path, tmp_path / "none.png"], "none.png"),
        ([tmp_path, tmp_path / "film.png", "--layer", "layer5"], "close names are layer4"),
    ):
        with pytest.raises(SystemExit, match="2"):
            active_cells.main([str(word) for word in words])
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
