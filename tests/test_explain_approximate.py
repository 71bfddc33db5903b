"""Score-CAM of fewer masks: which ones, what the others are taken for, and the estimate."""

import pytest
import torch

from cam_examples import LAYER, random_images, tiny_cam
from hmc_fast.explain import score_cam, score_cam_details
from hmc_fast.explain.approximate import DEVIATIONS
from hmc_fast.explain.recipes import RECIPES

every_recipe = pytest.mark.parametrize("recipe", list(RECIPES))


def wide_cam():
    return tiny_cam(width=64), random_images(2)


def layer_of(model, images, **settings):
    return score_cam_details(model, images, 1, layer=LAYER, **settings).layers[0]


@every_recipe
def test_all_channels_are_no_approximation(recipe):
    model, images = wide_cam()
    exact = score_cam(model, images, 1, layer=LAYER, recipe=recipe)
    for limit in ({"max_channels": 64}, {"max_channels": 1000}, {"tolerance": 1e-9}):
        details = score_cam_details(model, images, 1, layer=LAYER, recipe=recipe, **limit)
        torch.testing.assert_close(details.maps, exact)
        assert details.layers[0].tried == details.layers[0].distinct
        assert details.layers[0].remaining.tolist() == [0, 0]


def test_the_largest_energy_comes_first_and_the_others_get_the_mean():
    model, images = wide_cam()
    exact = layer_of(model, images).weights
    layer = layer_of(model, images, max_channels=20)
    assert layer.tried == [20, 20]
    with torch.no_grad():
        energy = model.body(images).square().sum((2, 3))
    for image in range(2):
        first = energy[image].argsort(descending=True)[:20]
        others = torch.ones(64, dtype=torch.bool).index_fill(0, first, False)
        got = layer.weights[image]
        torch.testing.assert_close(got[first], exact[image][first])
        kept = others & (exact[image] != 0)  # constant channels are left out
        torch.testing.assert_close(got[kept], exact[image][first].mean().expand(int(kept.sum())))


@every_recipe
def test_more_channels_come_nearer(recipe):
    model, images = wide_cam()
    exact = score_cam(model, images, 1, layer=LAYER, recipe=recipe)
    errors = [
        (score_cam(model, images, 1, layer=LAYER, recipe=recipe, max_channels=k) - exact).norm()
        for k in (10, 30, 60)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


@every_recipe
def test_tolerance_stops_each_image_where_the_estimate_falls_below_it(recipe):
    model, images = wide_cam()
    layer = layer_of(model, images, recipe=recipe, tolerance=0.3, batch_size=4)
    assert all(8 <= tried < 64 for tried in layer.tried)
    assert (layer.remaining < 0.3).all()
    for image in range(2):
        fewer = layer.tried[image] - 4
        before = layer_of(model, images[image][None], recipe=recipe, max_channels=fewer)
        assert before.remaining.item() >= 0.3


def test_the_estimate_is_the_formula():
    model, images = wide_cam()
    layer = layer_of(model, images[:1], max_channels=30)
    with torch.no_grad():
        maps = model.body(images[:1])[0]
    place = maps.square().sum((1, 2)).argsort(descending=True)
    tried, missing = place[:30], place[30:]
    weighted = (layer.weights[0][:, None, None] * maps).sum(0).relu()
    deviation = layer.weights[0][tried].std()
    spread = maps[missing].square().sum(0).sqrt().max()
    expected = DEVIATIONS * deviation * spread / (weighted.max() - weighted.min())
    torch.testing.assert_close(layer.remaining, expected[None])


def test_a_handful_of_masks_says_nothing_about_the_others():
    model, images = wide_cam()
    assert layer_of(model, images, max_channels=7).remaining.tolist() == [torch.inf] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_channels": 0}, "max_channels must be at least 1 or None, got 0"),
        ({"batch_size": -1}, "batch_size must be at least 1 or None, got -1"),
        ({"tolerance": 0.0}, r"tolerance must be between 0 and 1 or None, got 0\.0"),
        ({"dtype": "bf16"}, "dtype must be a torch dtype of floats or None, got 'bf16'"),
        ({"recipe": "paler"}, "recipe must be one of paper, official, torchcam, grad-cam, got"),
        ({"layer": ["body.2", "body.4"], "raw": True}, "raw=True gives the map of one layer"),
    ],
)
def test_bad_settings_are_named_before_anything_is_computed(settings, message):
    with pytest.raises(ValueError, match=message):
        score_cam(None, None, **settings)


def test_what_was_tried_is_shown_where_progress_is(capsys):
    model, images = wide_cam()
    score_cam(model, images, 1, layer=LAYER, max_channels=20, progress=True)
    printed = capsys.readouterr().out
    assert "score-cam of body.4: 40 of 1" in printed
    assert "could still change" in printed
    score_cam(model, images, 1, layer=LAYER, max_channels=20)
    assert capsys.readouterr().out == ""
