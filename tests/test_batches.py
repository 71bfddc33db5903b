"""The stream of training images: full batches, every image once a pass, pure functions of the
step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmc_fast.training.batches import BatchPlan

IMAGES = np.array([3, 5, 8, 13, 21, 34, 55])


def plan(indices=IMAGES, batch_size=4, total=21, seed=0, fold=0) -> BatchPlan:
    return BatchPlan(indices, batch_size, total, seed, fold)


def stream(of: BatchPlan) -> tuple[np.ndarray, np.ndarray]:
    """(images, variants) of all steps in a row."""
    batches = [of.batch(step) for step in range(of.steps)]
    return np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(1, 20), batch_size=st.integers(1, 30), total=st.integers(1, 70))
def test_every_batch_is_full_and_every_pass_has_every_image_once(n, batch_size, total):
    indices = np.arange(100, 100 + n)
    of = plan(indices, batch_size, total)
    images, variants = stream(of)
    assert len(images) == of.steps * batch_size
    assert total <= len(images) < total + batch_size
    assert variants.tolist() == [place // n for place in range(len(images))]
    for number in range(len(images) // n):
        assert sorted(images[variants == number]) == indices.tolist()
    last = images[variants == len(images) // n]
    assert len(set(last)) == len(last)  # the part of a pass at the end has no image twice


@settings(max_examples=60, deadline=None, derandomize=True)
@given(n=st.integers(1, 20), batch_size=st.integers(1, 30), total=st.integers(1, 70))
def test_passes_are_counted_when_they_are_complete(n, batch_size, total):
    of = plan(np.arange(n), batch_size, total)
    assert of.passes == (total + n - 1) // n
    done = [of.passes_done(step) for step in range(of.steps + 1)]
    assert done[0] == 0
    assert done[-1] == of.passes
    assert done == sorted(done)
    assert all(done[step] == step * batch_size // n for step in range(of.steps))


@pytest.mark.parametrize(
    ("total", "steps", "passes"),
    [(1, 1, 1), (4, 1, 1), (5, 2, 1), (7, 2, 1), (8, 2, 2), (21, 6, 3)],
)
def test_steps_and_passes_by_hand(total, steps, passes):
    of = plan(total=total)  # 7 images, batches of 4
    assert (of.steps, of.passes) == (steps, passes)


def test_a_batch_is_a_function_of_its_step():
    forwards = [plan().batch(step) for step in range(6)]
    other = plan()
    for step in (5, 0, 3, 3, 1, 4, 2):
        images, variants = other.batch(step)
        assert images.tolist() == forwards[step][0].tolist()
        assert variants.tolist() == forwards[step][1].tolist()


def test_images_and_variants_are_whole_numbers():
    images, variants = plan().batch(0)
    assert images.dtype == variants.dtype == np.int64
    assert images.shape == variants.shape == (4,)


def test_the_order_differs_between_passes_folds_and_seeds():
    indices, orders = np.arange(50), []
    for seed, fold in ((0, 0), (0, 1), (1, 0)):
        images, variants = stream(plan(indices, 10, 150, seed, fold))
        orders += [tuple(images[variants == number].tolist()) for number in range(3)]
    assert len(set(orders)) == len(orders)


def test_the_total_does_not_change_the_order():
    long, short = stream(plan(total=21)), stream(plan(total=9))
    assert long[0][: len(short[0])].tolist() == short[0].tolist()


def test_fewer_images_than_a_batch():
    images, variants = plan(IMAGES[:3], batch_size=8, total=3).batch(0)
    assert variants.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(images[:3]) == sorted(images[3:6]) == IMAGES[:3].tolist()


def test_a_long_run_can_begin_anywhere():
    of = plan(np.arange(258), 32, 200_000)  # the paper's number for MIAS
    assert (of.steps, of.passes) == (6250, 776)
    images, variants = of.batch(6249)
    assert set(variants.tolist()) == {775}
    assert len(set(images.tolist())) == 32


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_seed_that_a_configuration_allows_works(seed):
    assert len(plan(seed=seed).batch(0)[0]) == 4
