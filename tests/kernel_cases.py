"""What the kernel tests share: kernels run between guard bands, a record of every store, and broken
copies of the kernels.

Without a GPU the kernels run in Triton's interpreter (tests/conftest.py asks for it), which gets
bfloat16 products wrong: bfloat16 is for a GPU.
"""

import contextlib
import importlib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from kernel_inputs import NETWORK, Case, make_problem
from tolerances import Problem, assert_allowed

triton = pytest.importorskip("triton")

from hmc_fast.attention import device_problem  # noqa: E402
from hmc_fast.kernels import (  # noqa: E402
    attention_backward,
    attention_forward,
    configurations,
    tiles,
)
from hmc_fast.kernels.configurations import Target, Tile, target_of  # noqa: E402

INTERPRETED = triton.knobs.runtime.interpret
if INTERPRETED and (problem := device_problem(torch.device("cpu"))):
    pytest.skip(f"nothing can be interpreted: {problem}", allow_module_level=True)
DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])
network_shapes = pytest.mark.parametrize(  # of which the interpreter needs seconds each
    ("name", "dtype"),
    [
        pytest.param(
            name,
            dtype,
            marks=pytest.mark.slow
            if INTERPRETED and (dtype == torch.float32 or "reassociated" in name)
            else (),
            id=f"{name}-{dtype}",
        )
        for name in NETWORK
        for dtype in DTYPES
    ],
)
ROUTES = ("short keys", "streamed keys")
# Both kernels for both dtypes; half of the pairs are enough for every run in the interpreter. The
# fixture `route` of a test file calls `take_route`.
every_route = pytest.mark.parametrize(
    ("route", "dtype"),
    [
        pytest.param(
            route,
            dtype,
            marks=pytest.mark.slow if INTERPRETED and other else (),
            id=f"{route}-{dtype}",
        )
        for route, plain in zip(ROUTES, (torch.float16, torch.float32), strict=True)
        for dtype, other in [(dtype, dtype != plain) for dtype in DTYPES]
    ],
    indirect=["route"],
)
QUIET = (  # numpy warns where a GPU says nothing
    "ignore:(All-NaN slice|invalid value|overflow|divide by zero) encountered:RuntimeWarning"
)
BAND, SENTINEL = 64, 1234.0  # elements before and after a tensor, and what they hold
SOURCES = Path(tiles.__file__).parent
COPIED = ("tiles", "attention_forward", "attention_backward")
Results = dict[str, Tensor | None]
Start = Callable[[tiles.Launch], None]


class Kernels(NamedTuple):
    """The kernel files, or copies of them."""

    forward: ModuleType
    backward: ModuleType


ORIGINAL = Kernels(attention_forward, attention_backward)


def forward(
    problem: Problem,
    kernels: Kernels = ORIGINAL,
    *,
    keep: bool = True,
    precision: str = "ieee",
    target: Target | None = None,
    tile: Tile | None = None,
    start: Start = tiles.Launch.run,
) -> Results:
    """out, lse and attended, which is None where backward does not need it.

    keep: what backward needs; precision: of float32 products; target: whose tiles are taken; tile:
    instead of the target's; start: how a launch is run.
    """
    q, k, v, x, gamma, _, scale = problem
    target = target or target_of(q.device)
    out, attended, lse = kernels.forward._forward(
        q, k, v, x, gamma, scale, keep, target, tile, precision, start
    )
    return {"out": out, "lse": lse, "attended": attended if attended.numel() else None}


def backward(
    problem: Problem,
    kept: Results,
    kernels: Kernels = ORIGINAL,
    *,
    target: Target | None = None,
    tiles: Mapping[str, Tile] | None = None,
    atomics: bool = False,
    start: Start = tiles.Launch.run,
) -> Results:
    """dq, dk, dv and dgamma from what `forward` kept; tiles: by kernel, instead of the target's."""
    q, k, v, _, gamma, dout, scale = problem
    attended = kept["out"] if kept["attended"] is None else kept["attended"]
    target = target or target_of(q.device)
    gradients = kernels.backward._backward(
        dout, q, k, v, gamma, attended, kept["lse"], scale, atomics, "ieee", target, tiles or {},
        start,
    )  # fmt: skip
    return dict(zip(("dq", "dk", "dv", "dgamma"), gradients, strict=True))


def run(problem: Problem, kernels: Kernels = ORIGINAL, start: Start = tiles.Launch.run) -> Results:
    """Everything, by the tiles of DEVICE."""
    kept = forward(problem, kernels, start=start)
    return kept | backward(problem, kept, kernels, start=start)


def check_forward(problem: Problem, kernels: Kernels = ORIGINAL, **how: Any) -> Results:
    """`forward` between guard bands in NaN-filled memory, stores recorded where they can be, every
    result compared with the truth."""
    with guarded(), inputs_unchanged(problem):
        kept = forward(problem, kernels, start=run_recorded, **how)
    assert_allowed(kept, problem)
    return kept


def check(problem: Problem, kernels: Kernels = ORIGINAL, **how: Any) -> Results:
    """`check_forward`, and the same for `backward`, which takes `how`."""
    with guarded(), inputs_unchanged(problem):
        kept = forward(problem, kernels, start=run_recorded)
        found = kept | backward(problem, kept, kernels, start=run_recorded, **how)
    assert_allowed(found, problem)
    return found


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """`torch.empty` gives NaNs between two bands, which must be unchanged in the end."""
    bands: list[Tensor] = []
    plain = torch.empty

    def empty(*size: Any, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
        shape = torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        whole = plain(shape.numel() + 2 * BAND, dtype=dtype, device=device).fill_(SENTINEL)
        bands.extend((whole[:BAND], whole[BAND + shape.numel() :]))
        return whole[BAND : BAND + shape.numel()].fill_(float("nan")).view(shape)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        yield
    changed = [band for band in bands if (band != torch.full_like(band, SENTINEL)).any()]
    assert not changed, "a kernel wrote outside its tensor"


@contextlib.contextmanager
def inputs_unchanged(problem: Problem) -> Iterator[None]:
    """A kernel only reads what it is given."""
    before = [tensor.clone() for tensor in problem if isinstance(tensor, Tensor)]
    yield
    after = [tensor for tensor in problem if isinstance(tensor, Tensor)]
    for one, other in zip(before, after, strict=True):
        same = torch.equal(one.nan_to_num(nan=SENTINEL), other.nan_to_num(nan=SENTINEL))
        assert same, "a kernel wrote into an input"


class Store(NamedTuple):
    """One store of one program: the addresses it wrote."""

    program: int
    addresses: np.ndarray


@contextlib.contextmanager
def stores_recorded() -> Iterator[list[Store]]:
    """Every store of interpreted kernels, atomic ones excepted."""
    from triton.runtime.interpreter import InterpreterBuilder

    stores: list[Store] = []
    plain = InterpreterBuilder.create_masked_store  # create_store calls it

    def store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        addresses = np.broadcast_to(pointers.data, np.shape(mask.data))[mask.data]
        stores.append(Store(self.grid_idx[0], addresses))
        return plain(self, pointers, value, mask, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_masked_store", store)
        yield stores


def run_recorded(launch: tiles.Launch) -> None:
    """Run; where the kernels are interpreted, no address may be written twice.

    The one exception: a program of `backward_scores` adds to its own partial of dQ for each of its
    key blocks, in order.
    """
    if not INTERPRETED:
        return launch.run()
    with stores_recorded() as stores:
        launch.run()
    own = dq_addresses(launch) if launch.kernel.__name__ == "backward_scores" else range(0)
    written: list[np.ndarray] = []
    for _, of_program in itertools.groupby(stores, key=lambda store: store.program):
        addresses = np.concatenate([store.addresses.ravel() for store in of_program])
        added = (addresses >= own.start) & (addresses < own.stop)
        written += [addresses[~added], np.unique(addresses[added])]
    every = np.concatenate(written) if written else np.empty(0)
    twice = every.size - np.unique(every).size
    assert not twice, f"{launch.kernel.__name__} wrote {twice} addresses twice"


def dq_addresses(launch: tiles.Launch) -> range:
    """Where `backward_scores` keeps its partials of dQ."""
    dq = launch.arguments["dq_ptr"]
    return range(dq.data_ptr(), dq.data_ptr() + dq.numel() * dq.element_size())


Replacement = tuple[str, str, str]  # file, old text, new text
_COPIES = itertools.count()


def copy_kernels(folder: Path, replacements: Sequence[Replacement]) -> Kernels:
    """The kernel files with some text replaced, everywhere in a file, below `folder`, imported;
    what they import of one another is the copy too.

    Raises AssertionError where the text does not occur: a mutant must not be the original.
    """
    texts = {name: (SOURCES / f"{name}.py").read_text() for name in COPIED}
    for file, old, new in replacements:
        assert old in texts[file], f"{old!r} is not in kernels/{file}.py"
        texts[file] = texts[file].replace(old, new)
    package = f"copied_kernels_{next(_COPIES)}"
    (folder / package).mkdir()  # for good: triton reads a source when it first runs
    for file, text in texts.items():
        for name in COPIED:
            text = text.replace(f"hmc_fast.kernels.{name} ", f"{package}.{name} ")
        (folder / package / f"{file}.py").write_text(text)
    module = ModuleType(package)
    module.__path__ = [str(folder / package)]
    sys.modules[package] = module
    return Kernels(*(importlib.import_module(f"{package}.{name}") for name in COPIED[1:]))


def take_route(monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    """Which kernels take short keys: those made for them, or those that stream any number."""
    if route == "streamed keys":
        monkeypatch.setattr(configurations, "SHORT_KEYS", 0)


def reversed_programs() -> list[Replacement]:
    """The last program does the first one's work, and so on."""
    reverse = "(tl.num_programs(0) - 1 - tl.program_id(0))"
    return [(file, "tl.program_id(0)", reverse) for file in COPIED[1:]]


def table_tiles(architecture: int | None = None) -> list[Any]:
    """(kernel, tile, widths, dtype) of the table's rows for one architecture or all, once where the
    kernel's code is the same; in the interpreter float16 stands for bfloat16."""
    found = {}
    for row in configurations.rows():
        tile = Tile(*(row[field] for field in Tile._fields))
        dtype = getattr(torch, row["dtype"])
        if INTERPRETED:
            tile = tile._replace(num_warps=4, num_stages=1)
            dtype = torch.float16 if dtype == torch.bfloat16 else dtype
        if architecture in (None, row["architecture"]):
            key = row["kernel"], tile, (row["d_qk"], row["d_v"]), dtype
            sizes = "x".join(str(size) for size in (*tile[:3], *key[2]))
            found[key] = pytest.param(*key, id=f"{row['kernel']}-{sizes}-{row['dtype']}")
    return list(found.values())


def check_tile(kernel: str, tile: Tile, widths: tuple[int, int], dtype: torch.dtype) -> None:
    """`check` a few programs of one kernel with a tile of its own; the others have the table's."""
    short = kernel.endswith("short")
    blocks = 8 if kernel == "forward_stream_few" else 1  # enough of keys to split them
    tokens = tile.block_n - 7 if short else blocks * tile.block_n + 7
    problem = make_problem(Case(1, tile.block_m + 9, tokens, *widths), dtype)
    with pytest.MonkeyPatch.context() as patch:
        take_route(patch, ROUTES[0] if short else ROUTES[1])
        names = record_launches(patch)
        if kernel.startswith("forward"):
            check_forward(problem, tile=tile, target=Target(90, 132 if blocks > 1 else 1))
        else:
            mode = ("none", 2) if kernel == "backward_queries" else ("partials", 2)
            patch.setattr(attention_backward, "choose_runs", lambda *_: mode)
            check(problem, tiles={kernel: tile})
    assert kernel.removesuffix("_few") in names
    assert ("combine_splits" in names) == (blocks > 1)


def record_launches(patch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are started from now on."""
    names: list[str] = []
    plain = tiles.Launch.run

    def run(launch: tiles.Launch) -> None:
        names.append(launch.kernel.__name__)
        plain(launch)

    patch.setattr(tiles.Launch, "run", run)
    return names


def kinds(tensor: Tensor) -> Tensor:
    """0 where finite, else which of NaN, inf and -inf."""
    return tensor.isnan() + 2 * tensor.isposinf() + 3 * tensor.isneginf()
