"""Augmentation: torchvision's values image by image, parameters by (seed, variant, image) alone."""

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from hmc_fast.data.augment import augment, draw_parameters, normalise, rotate

SIZES = [(64, 64), (33, 48), (50, 31), (7, 7), (1, 5)]
CORNERS = torch.tensor(
    [
        [0, 0, 1, 1],
        [1, 0, 1, 1],
        [0, 15, 1.2, 0.8],
        [1, -15, 0.8, 1.2],
        [0, 7.3, 1.2, 1.2],
        [1, 1e-4, 0.8, 0.8],
    ]
)


def random_images(batch, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, 1, height, width), generator=generator, dtype=torch.uint8)


def discs(batch, size):
    """A bright disc off the centre on black, as image and as mask."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((row - size * 0.3) ** 2 + (column - size * 0.62) ** 2) < (size / 6) ** 2
    masks = inside.expand(batch, 1, size, size)
    return (masks * 255).to(torch.uint8), masks


def by_torchvision(images, parameters, dtype):
    """The chain image by image, every step torchvision's."""
    return torch.stack(
        [_one_by_torchvision(*pair, dtype) for pair in zip(images, parameters, strict=True)]
    )


def _one_by_torchvision(image, parameters, dtype):
    flip, degrees, brightness, contrast = parameters.tolist()
    image = tv.to_dtype(image, dtype, scale=True)
    image = tv.horizontal_flip(image) if flip else image
    image = tv.rotate(image, degrees, InterpolationMode.BILINEAR, expand=False, fill=0)
    image = tv.adjust_contrast(tv.adjust_brightness(image, brightness), contrast)
    return tv.normalize(image.expand(3, -1, -1), [0.5] * 3, [0.5] * 3)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_every_image_is_as_near_to_the_exact_values_as_torchvision_is(height, width):
    parameters = torch.cat((CORNERS, draw_parameters(3, range(10), range(10))))
    images = random_images(len(parameters), height, width)
    exact = by_torchvision(images, parameters, torch.float64)
    allowed = 2 * (by_torchvision(images, parameters, torch.float32) - exact).abs().max() + 1e-6
    assert (augment(images, parameters) - exact).abs().max() <= allowed
    assert allowed < 1e-4


@pytest.mark.parametrize("size", [64, 97])
def test_every_smooth_image_equals_torchvision(size):
    images, _ = discs(16, size)
    images = tv.gaussian_blur(images, [15, 15], [5.0, 5.0])
    parameters = draw_parameters(4, range(16), range(16))
    expected = by_torchvision(images, parameters, torch.float32)
    torch.testing.assert_close(augment(images, parameters), expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_rotation_in_float64_is_torchvisions(height, width):
    degrees = torch.linspace(-15, 15, 9)
    images = random_images(9, height, width).double()
    expected = torch.stack(
        [
            tv.rotate(i, d.item(), InterpolationMode.BILINEAR, fill=None)
            for i, d in zip(images, degrees, strict=True)
        ]
    )
    torch.testing.assert_close(rotate(images, degrees), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("degrees", [90.0, -90.0, 180.0])
def test_positive_angles_turn_counter_clockwise(degrees):
    image = random_images(1, 8, 8).float()
    expected = torch.rot90(image, int(degrees / 90), dims=(-2, -1))
    torch.testing.assert_close(rotate(image, torch.tensor([degrees])), expected, rtol=0, atol=1e-3)


def test_doing_nothing_is_normalise():
    images = random_images(2, 16, 20)
    nothing = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1)
    torch.testing.assert_close(augment(images, nothing), normalise(images), rtol=0, atol=1e-5)


def test_normalise_maps_0_255_to_minus_one_one_in_three_equal_channels():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    output = normalise(images)
    assert output.is_contiguous()
    torch.testing.assert_close(output, torch.tensor([-1.0, -0.6, 1.0]).expand(1, 3, 1, 3))


def test_output_is_in_range_with_equal_channels():
    output = augment(random_images(8, 24, 24), draw_parameters(0, range(8), range(8)))
    assert output.shape == (8, 3, 24, 24)
    assert output.dtype == torch.float32
    assert output.min() >= -1
    assert output.max() <= 1
    assert torch.equal(output[:, 0], output[:, 1])
    assert torch.equal(output[:, 0], output[:, 2])


def test_masks_move_as_the_image_does():
    parameters = draw_parameters(1, range(20), range(20))
    parameters[:, 2:] = 1
    images, masks = discs(20, 64)
    output, moved = augment(images, parameters, masks)
    assert moved.dtype == torch.bool
    assert torch.equal(moved, output[:, :1] >= 0)  # grey 0.5 is 0 after normalisation
    assert not torch.equal(moved, masks)


def test_masks_change_nothing_about_the_images():
    parameters = draw_parameters(1, range(3), range(3))
    images, masks = discs(3, 32)
    output, moved = augment(images, parameters, torch.zeros_like(masks))
    assert not moved.any()
    assert torch.equal(output, augment(images, parameters))


def test_batch_equals_one_by_one():
    images, parameters = random_images(6, 20, 30), draw_parameters(5, range(6), range(6))
    alone = torch.cat([augment(images[i : i + 1], parameters[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(augment(images, parameters), alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("with_masks", [False, True])
def test_compiles_as_one_graph_also_for_another_batch_size(with_masks):
    torch.compiler.reset()
    compiled = torch.compile(augment, fullgraph=True, backend="aot_eager", dynamic=True)
    for batch in (3, 5):
        images, masks = discs(batch, 24)
        arguments = (
            images,
            draw_parameters(0, range(batch), range(batch)),
            *([masks] if with_masks else []),
        )
        torch.testing.assert_close(compiled(*arguments), augment(*arguments), rtol=0, atol=1e-6)


def test_autocast_does_not_touch_the_geometry():
    images, parameters = random_images(4, 40, 40), draw_parameters(0, range(4), range(4))
    with torch.autocast("cpu", torch.bfloat16):
        output = augment(images, parameters)
    assert torch.equal(output, augment(images, parameters))


def test_parameters_depend_on_seed_variant_and_image_alone():
    variants, images = [0, 1, 2, 3, 0, 7], [0, 1, 2, 3, 4, 321]
    whole = draw_parameters(11, variants, images)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = draw_parameters(11, [variants[i] for i in order], [images[i] for i in order])
    assert torch.equal(shuffled, whole[order])
    alone = [
        draw_parameters(11, [variant], [image])
        for variant, image in zip(variants, images, strict=True)
    ]
    assert torch.equal(torch.cat(alone), whole)
    assert torch.equal(draw_parameters(11, np.array(variants), np.array(images)), whole)


def test_parameters_stay_what_they_were():
    """Runs of earlier versions are repeated: these numbers must never move."""
    expected = [[0, 5.15093565, 0.85121417, 0.86914432], [1, -9.99575901, 1.10897458, 0.93151224]]
    torch.testing.assert_close(draw_parameters(0, [0, 1], [0, 321]), torch.tensor(expected))


def test_parameters_differ_between_seeds_variants_and_images():
    numbers = [
        (seed, variant, image) for seed in range(4) for variant in range(4) for image in range(4)
    ]
    rows = torch.cat(
        [draw_parameters(seed, [variant], [image]) for seed, variant, image in numbers]
    )
    assert len(torch.unique(rows[:, 1:], dim=0)) == len(numbers)


def test_parameters_fill_their_ranges_evenly():
    count = 4000
    parameters = draw_parameters(
        0, [i // 100 for i in range(count)], [i % 100 for i in range(count)]
    ).double()
    low = torch.tensor([0, -15, 0.8, 0.8], dtype=torch.float64)
    high = torch.tensor([1, 15, 1.2, 1.2], dtype=torch.float64)
    unit = (parameters - low) / (high - low)
    assert set(parameters[:, 0].tolist()) == {0.0, 1.0}
    assert (unit.amin() >= -1e-6) & (unit.amax() <= 1 + 1e-6)
    standard_error = torch.tensor([0.25, 1 / 12, 1 / 12, 1 / 12]).sqrt() / count**0.5
    assert ((unit.mean(0) - 0.5).abs() < 4 * standard_error).all()
    assert ((unit[:, 1:].var(0) - 1 / 12).abs() < 0.005).all()
    correlation = torch.corrcoef(unit.T) - torch.eye(4)
    assert (correlation.abs() < 4 / count**0.5).all()


@pytest.mark.parametrize(
    ("images", "parameters", "masks", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 4), None, "images must be uint8"),
        (
            torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
            torch.zeros(2, 4),
            None,
            r"got torch.uint8 \(2, 3, 4, 4\)",
        ),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, 4), None, r"must be \(2, 4\)"),
        (
            torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
            torch.zeros(2, 4),
            torch.zeros(2, 1, 4, 4),
            "masks must be bool",
        ),
    ],
)
def test_wrong_inputs_are_named(images, parameters, masks, message):
    with pytest.raises(ValueError, match=message):
        augment(images, parameters, masks)


def test_a_variant_for_each_image_is_asked_for():
    with pytest.raises(ValueError, match="got 2 variants and 1 images"):
        draw_parameters(0, [0, 1], [0])


@pytest.mark.gpu
def test_no_host_synchronisation_and_the_same_values_on_a_gpu():
    images, parameters = random_images(8, 64, 64), draw_parameters(0, range(8), range(8))
    on_device = images.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        output = augment(on_device, parameters)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(output.cpu(), augment(images, parameters), rtol=0, atol=1e-5)
