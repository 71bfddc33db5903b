"""Do the kernel tests see a broken kernel? Copies of the kernels with one thing wrong, each a bug
that somebody published or that is easy to make, must fail the check that the kernels pass.
"""

import mmap
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from hmc_fast.kernels.configurations import Target, Tile
from kernel_cases import (
    INTERPRETED,
    QUIET,
    ROUTES,
    Replacement,
    check,
    check_forward,
    copy_kernels,
    take_route,
)
from kernel_inputs import Case, make_problem

FORWARD, BACKWARD, TILES = "attention_forward", "attention_backward", "tiles"
STREAMED = ROUTES[1:]
WIDE = {"tiles": {"backward_scores": Tile(32, 16, 16, 4, 1)}}  # values do not fit one tile
SPLIT = {"tile": Tile(32, 16, 16, 4, 1, share=4), "target": Target(90, 132)}

pytestmark = pytest.mark.filterwarnings(QUIET)


class Mutant(NamedTuple):
    """What is replaced, where the check must see it, and what it must say."""

    replacements: list[Replacement]
    says: str
    routes: tuple[str, ...] = ROUTES
    case: Case = Case(1, 33, 36, 16, 32)
    check: Callable[..., Any] = check
    how: dict[str, Any] = {}  # noqa: RUF012  a NamedTuple's default, never changed
    of_problem: Callable[..., Any] = lambda problem: problem


def far_below(problem):
    """All scores near -300: a key that does not exist, of score 0, is e^300 times as likely."""
    problem.q[..., 0], problem.k[..., 0] = 30, -40
    return problem


MUTANTS = {
    "tail mask dropped": Mutant(
        [(TILES, 'tl.where(exists[None, :], scores, float("-inf"))', "scores")], "'out'"
    ),
    "tail mask dropped in backward": Mutant(
        [(BACKWARD, "tl.where(exists[:, None], probabilities, 0.0)", "probabilities")],
        "'dq'",
        STREAMED,
        of_problem=far_below,
    ),
    "rescale forgotten": Mutant(
        [(FORWARD, "sums * rescale[:, None]", "sums")], "'out'", STREAMED, Case(1, 33, 100, 16, 32)
    ),
    "rescale forgotten where splits are joined": Mutant(
        [(FORWARD, "joined * before[:, None] + sums * here[:, None]", "joined + sums")],
        "'out'",
        STREAMED,
        Case(1, 33, 256, 16, 32),
        check_forward,
        SPLIT,
    ),
    # flash-linear-attention #1039: slices of the values cannot each have the delta of their columns
    "delta of a slice": Mutant(
        [(BACKWARD, "tl.range(0, D_V, BLOCK_DV)", "tl.range(0, BLOCK_DV, BLOCK_DV)")],
        "'dq'.*'dk'.*'dgamma'",
        STREAMED,
        Case(1, 33, 36, 16, 200),
    ),
    # nor may each subtract the whole (#1042): p (dp - slices * delta)
    "delta subtracted by each of two slices": Mutant(
        [
            (
                BACKWARD,
                "gamma * dprobabilities - delta[None, :]",
                "gamma * dprobabilities - 2 * delta[None, :]",
            )
        ],
        "'dq'.*'dk'",
        STREAMED,
    ),
    # native-sparse-attention-triton #27: values taken to be as wide as keys
    "dP over the first columns alone": Mutant(
        [
            (
                BACKWARD,
                "                D_V, BLOCK_N, BLOCK_M, BLOCK_DV, MASK_ROWS,",
                "                16, BLOCK_N, BLOCK_M, BLOCK_DV, MASK_ROWS,",
            )
        ],
        "'dq'.*'dk'",
        STREAMED,
        how=WIDE,
    ),
    "a partial of dq not opened": Mutant(
        [(BACKWARD, "mask=inside & later", "mask=inside")], "'dq'", STREAMED
    ),
    "a row too many": Mutant(
        [
            (
                TILES,
                "inside = (first_row + row < rows)[:, None] & (first_column",
                "inside = (first_row + row <= rows)[:, None] & (first_column",
            )
        ],
        "outside its tensor",
    ),
}
RACES = {  # which give the right numbers most of the time: only the record of stores sees them
    # flash-linear-attention #1030
    "LSE stored by every value program": Mutant(
        [(FORWARD, "KEEP_LSE and first_column == 0", "KEEP_LSE")],
        "forward_(stream|short) wrote 33 addresses twice",
        check=check_forward,
        how={"tile": Tile(32, 64, 16, 4, 1)},
    ),
    "statistics of a split stored by every value program": Mutant(
        [(FORWARD, "        if first_column == 0:", "        if first_column >= 0:")],
        "forward_stream wrote 264 addresses twice",
        STREAMED,
        Case(1, 33, 256, 16, 32),
        check_forward,
        SPLIT,
    ),
    # flash-linear-attention #941: on GPUs with little shared memory programs raced for dq
    "all runs add to one partial of dq": Mutant(
        [(BACKWARD, 'part = run if DQ == "partials" else 0', "part = 0")],
        "backward_scores wrote .* twice",
        STREAMED,
        how=WIDE,
    ),
}
IN_TURN = [
    pytest.param(
        mutant,
        route,
        id=f"{name}-{route}",
        marks=pytest.mark.skipif(
            name in RACES and not INTERPRETED, reason="only the interpreter records stores"
        ),
    )
    for name, mutant in (MUTANTS | RACES).items()
    for route in mutant.routes
]


@pytest.mark.parametrize(("mutant", "route"), IN_TURN)
def test_the_check_that_the_kernels_pass_fails_a_mutant(mutant, route, tmp_path, monkeypatch):
    take_route(monkeypatch, route)
    problem = mutant.of_problem(make_problem(mutant.case, torch.float16))
    mutant.check(problem, **mutant.how)
    broken = copy_kernels(tmp_path, mutant.replacements)
    with pytest.raises(AssertionError, match=mutant.says):
        mutant.check(problem, broken, **mutant.how)


READERS = {  # the files whose kernels compute addresses in a tensor
    "q": (FORWARD, BACKWARD),
    "k": (FORWARD, BACKWARD),
    "v": (FORWARD, BACKWARD),
    "x": (FORWARD,),
    "dout": (BACKWARD,),
}
FAR = 1 << 31


@pytest.fixture
def far_memory(monkeypatch):
    """2³² float16 zeros and some more, of which only touched pages exist."""
    if not INTERPRETED:
        pytest.skip("a wrong address ends a GPU context; the kernels themselves: test_kernels_gpu")
    from triton.runtime.interpreter import GridExecutor

    # which copies each tensor's whole storage back, here onto itself
    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_: None)
    no_reserve = 0x4000
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
    return torch.frombuffer(mmap.mmap(-1, 4 * FAR + (1 << 28), flags=flags), dtype=torch.float16)


def far_apart(tensor, memory, batch_stride, row_stride):
    """The same values 2³¹ elements into `memory`, so that an address that wraps is in it too."""
    return memory.as_strided(tensor.shape, (batch_stride, row_stride, 1), FAR).copy_(tensor)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("name", READERS)
def test_an_offset_of_a_sample_in_int32_is_seen(name, route, far_memory, tmp_path, monkeypatch):
    take_route(monkeypatch, route)
    problem = make_problem(Case(3, 5, 5, 8, 8), torch.float16)
    tensor = far_apart(getattr(problem, name), far_memory, FAR // 2, 8)
    problem = problem._replace(**{name: tensor})
    check(problem)
    for file in READERS[name]:
        broken = copy_kernels(
            tmp_path, [(file, "tl.program_id(0).to(tl.int64)", "tl.program_id(0)")]
        )
        with pytest.raises(AssertionError, match="multiples of the allowed"):
            check(problem, broken)


def test_an_offset_of_a_row_in_int32_is_seen(far_memory, tmp_path, monkeypatch):
    take_route(monkeypatch, "streamed keys")
    problem = make_problem(Case(1, 5, 530, 8, 8), torch.float16)
    problem = problem._replace(k=far_apart(problem.k, far_memory, 0, FAR >> 9))
    check(problem)
    with pytest.raises(AssertionError, match="multiples of the allowed"):
        check(
            problem, copy_kernels(tmp_path, [(TILES, "tl.cast(first_row, tl.int64)", "first_row")])
        )


def test_a_mutant_that_is_none_is_refused(tmp_path):
    with pytest.raises(AssertionError, match=r"is not in kernels/tiles\.py"):
        copy_kernels(tmp_path, [(TILES, "tl.program_id(7)", "0")])
