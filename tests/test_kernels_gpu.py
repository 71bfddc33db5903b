"""The kernels on a GPU: what the interpreter cannot tell. bfloat16, the network's shapes at full
size, every tile of the table for this GPU, 65 536 tokens, tensors beyond 2³¹ elements, order,
graphs, and the sanitizer.
"""

import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from hmc_fast.kernels.configurations import target_of
from kernel_cases import (
    check,
    check_tile,
    copy_kernels,
    forward,
    reversed_programs,
    run,
    table_tiles,
)
from kernel_inputs import DEVICE, NETWORK, TENSORS, Case, make_problem
from operator_steps import assert_same, attention, leaves, step
from tolerances import Problem, assert_allowed, bounds, excess

pytestmark = pytest.mark.gpu

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FULL = {name: case._replace(batch=2, tokens_q=case.tokens_k) for name, case in NETWORK.items()}
HA2 = FULL["ha2"]
TABLE = table_tiles(target_of(torch.device("cuda")).architecture) if DEVICE == "cuda" else []
REVERSED = ("ha1", "ha2", "ca34")
STREAMS = 2
REPEATS = 200


ODD = [  # the kernels of the other tests, at sizes that make no work
    Case(3, 300, 300, 32, 256),
    Case(1, 4096, 4096, 32, 256),
    *(Case(batch, 4096, keys, 8, 2048) for batch in (1, 2) for keys in (16, 300)),
]


def run_case(case, dtype):
    run(make_problem(case, dtype))


def run_reversed(case, folder):
    return run(make_problem(case, torch.bfloat16), copy_kernels(folder, reversed_programs()))


def run_table():
    """Every bfloat16 tile once, for the sanitizer."""
    for tile in TABLE:
        if torch.bfloat16 in tile.values:
            check_tile(*tile.values)
    torch.cuda.synchronize()


@pytest.fixture(scope="session", autouse=True)
def compiled(tmp_path_factory):
    """Everything compiled by several processes into Triton's cache: one alone takes minutes. What
    fails there fails again in its own test."""
    jobs = [(run_case, FULL[name], dtype) for name in FULL for dtype in DTYPES]
    jobs += [(run_case, case, torch.bfloat16) for case in ODD]
    jobs += [(run_reversed, FULL[name], tmp_path_factory.mktemp(name)) for name in REVERSED]
    jobs += [(check_tile, *tile.values) for tile in TABLE]
    workers = min(8, os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for future in [pool.submit(*job) for job in jobs]:
            future.exception()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FULL)
def test_the_shapes_of_the_network_give_the_truth_at_full_size(name, dtype):
    check(make_problem(FULL[name], dtype))


@pytest.mark.parametrize(("kernel", "tile", "widths", "dtype"), TABLE)
def test_every_tile_of_the_table_gives_the_truth(kernel, tile, widths, dtype):
    check_tile(kernel, tile, widths, dtype)


def test_the_public_operator_gives_the_truth_in_bfloat16():
    problem = make_problem(HA2, torch.bfloat16)
    assert_allowed(step(leaves(problem), problem.dout), problem)


def test_float32_products_are_exact_unless_less_is_asked_for():
    problem = make_problem(Case(1, 300, 300, 32, 256))
    allowed = bounds(problem)["out"]
    exact, tf32, three = (
        excess(forward(problem, precision=precision)["out"], allowed)
        for precision in ("ieee", "tf32", "tf32x3")
    )
    assert exact <= 1 < tf32
    assert three < tf32 / 10


def rows_of(problem: Problem, rows) -> Problem:
    """Queries are independent: some of them, with all keys."""
    some = {name: getattr(problem, name)[:, rows] for name in ("q", "x", "dout")}
    return problem._replace(**some)


def test_65536_tokens_give_the_truth():
    """dout is 0 but in 256 rows, so these alone give dk, dv and dgamma."""
    problem = make_problem(Case(1, 65536, 65536, 32, 256), torch.bfloat16)
    rows = torch.randperm(65536, generator=torch.Generator().manual_seed(0))[:256].to(DEVICE)
    dout = torch.zeros_like(problem.dout)
    dout[:, rows] = problem.dout[:, rows]
    problem = problem._replace(dout=dout)
    found = run(problem)
    part = {name: found[name][:, rows] for name in ("out", "attended", "lse", "dq")}
    assert_allowed(found | part, rows_of(problem, rows))
    assert found["dq"].count_nonzero() == part["dq"].count_nonzero()


def needs_memory(gib):
    here = torch.cuda.get_device_properties(0).total_memory / 2**30 if DEVICE == "cuda" else 0
    return pytest.mark.skipif(
        0 < here < gib, reason=f"needs {gib} GiB of GPU memory, has {here:.0f}"
    )


def large_problem(case):
    """Made on the GPU; dout is 0 but in the last 64 rows of the last sample."""
    torch.manual_seed(0)

    def normal(tokens, columns):
        shape = (case.batch, tokens, columns)
        return torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)

    q, k = normal(case.tokens_q, case.d_qk), normal(case.tokens_k, case.d_qk)
    v, x = normal(case.tokens_k, case.d_v), normal(case.tokens_q, case.d_v)
    dout = torch.zeros_like(x)
    dout[-1, -64:].normal_()
    return Problem(q, k, v, x, torch.tensor([0.7], device=DEVICE), dout, case.d_qk**-0.5)


@needs_memory(60)
@pytest.mark.parametrize(
    "case",
    [
        Case(17, 1 << 16, 16, 8, 2048),
        Case(17, 1 << 16, 300, 8, 2048),
        Case(1, (1 << 20) + 64, 16, 8, 2048),
        Case(1, (1 << 20) + 64, 300, 8, 2048),
    ],
    ids=str,
)
def test_tensors_beyond_2_to_the_31_elements_give_the_truth(case):
    problem = large_problem(case)
    assert problem.x.numel() > 1 << 31
    found = run(problem)
    last = Problem(*(t[-1:] for t in problem[:4]), problem.gamma, problem.dout[-1:], problem.scale)
    part = {n: t if n == "dgamma" or t is None else t[-1:] for n, t in found.items()}
    part |= {n: part[n][:, -64:] for n in ("out", "attended", "lse", "dq") if part[n] is not None}
    assert_allowed(part, rows_of(last, slice(-64, None)))
    assert not any(found[name][:-1].any() for name in ("dq", "dk", "dv"))


@needs_memory(30)
@pytest.mark.parametrize("name", ["q", "k", "v", "x", "dout"])
def test_samples_2_to_the_30_elements_apart_give_the_truth(name):
    """A stride that fits int32, whose multiple does not."""
    problem = make_problem(Case(3, 300, 300, 32, 256), torch.bfloat16)
    tensor = getattr(problem, name)
    memory = torch.zeros((1 << 31) + tensor[0].numel(), device=DEVICE, dtype=tensor.dtype)
    far = memory.as_strided(tensor.shape, (1 << 30, *tensor.stride()[1:])).copy_(tensor)
    check(problem._replace(**{name: far}))


@pytest.mark.parametrize("name", ["ha2", "ca34"])
def test_hundreds_of_runs_are_equal_to_the_bit(name):
    problem = make_problem(FULL[name], torch.bfloat16)
    first = run(problem)
    for _ in range(REPEATS):
        assert_same(run(problem), first)


def test_two_streams_at_once_beside_another_kernel_give_the_same_bits():
    problem = make_problem(HA2, torch.bfloat16)
    first, square = run(problem), torch.randn(4096, 4096, device=DEVICE)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(STREAMS + 1)]
    found = []
    for _ in range(20):
        with torch.cuda.stream(streams[-1]):
            square = (square @ square).clamp(-1, 1)
        for stream in streams[:STREAMS]:
            with torch.cuda.stream(stream):
                found.append(run(problem))
    torch.cuda.synchronize()
    for results in found:
        assert_same(results, first)


@pytest.mark.parametrize("name", REVERSED)
def test_programs_in_reverse_order_give_the_same_bits(name, tmp_path):
    found = run_reversed(FULL[name], tmp_path)
    assert_same(found, run(make_problem(FULL[name], torch.bfloat16)))


@pytest.mark.parametrize("name", ["ha2", "ca34"])
def test_the_place_in_the_batch_does_not_change_a_sample(name):
    problem = make_problem(FULL[name]._replace(batch=3), torch.bfloat16)
    moved = problem._replace(**{n: getattr(problem, n).roll(1, 0) for n in TENSORS})
    found, other = run(problem), run(moved)
    for result in ("out", "lse", "dq", "dk", "dv"):
        assert torch.equal(other[result], found[result].roll(1, 0)), result


@pytest.mark.parametrize("name", ["ha2", "ca34"])
def test_a_cuda_graph_replays_with_changed_inputs(name):
    problem = make_problem(FULL[name], torch.bfloat16)
    inputs, stream = leaves(problem), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(inputs, problem.dout)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step(inputs, problem.dout)
    for seed in (1, 2):
        other = make_problem(FULL[name], torch.bfloat16, seed=seed)
        with torch.no_grad():
            for tensor, new in zip(
                (*inputs, problem.dout), (*leaves(other), other.dout), strict=True
            ):
                tensor.copy_(new)
        graph.replay()
        assert_same(found, step(leaves(other), other.dout))


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
def test_compiled_whole_it_gives_the_same_bits():
    problem = make_problem(HA2, torch.bfloat16)
    compiled = torch.compile(attention, fullgraph=True)
    found = step(leaves(problem), problem.dout, compiled)
    assert_same(found, step(leaves(problem), problem.dout))


def test_gradients_reach_inputs_of_an_autocast_region():
    problem = make_problem(Case(2, 300, 300, 32, 256))
    inputs = leaves(problem)
    with torch.autocast("cuda", torch.bfloat16):
        out = attention(*inputs)
    out.backward(problem.dout.bfloat16())
    assert out.dtype == torch.bfloat16
    assert all(tensor.grad.dtype == torch.float32 for tensor in inputs)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck"])
def test_the_sanitizer_finds_nothing(tool):
    if shutil.which("compute-sanitizer") is None:
        pytest.skip("there is no compute-sanitizer on PATH")
    script = "import test_kernels_gpu; test_kernels_gpu.run_table()"
    environment = os.environ | {
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",  # an allocation a tensor, whose ends are known
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "3", sys.executable, "-c"]
    done = subprocess.run(
        [*command, script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
