"""bench/tune.py: candidates, the choice among times, the table; kernels run where they can."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import gpu_timing  # noqa: E402
import tune  # noqa: E402
import tune_search  # noqa: E402
import tune_worker  # noqa: E402
from attention_cases import Case  # noqa: E402
from hmc_fast.kernels import configurations  # noqa: E402
from hmc_fast.kernels.configurations import KERNELS, SHARED_MEMORY, Target, Tile  # noqa: E402
from supervise import Culprit  # noqa: E402
from tune import choose, replace_rows, row_of, table_text  # noqa: E402
from tune_candidates import Job, candidates, distance, jobs  # noqa: E402
from tune_search import finalists  # noqa: E402
from tune_worker import Plan, Worker  # noqa: E402

sys.modules.pop("common", None)  # tests of pytest's options import one of their own
HA1 = Case("ha1", 32, 3136, 32, 256, torch.bfloat16)
WIDE = Tile(128, 64, 256, 8, 2, rotated=True)


@pytest.mark.parametrize(
    ("times", "tile", "gain"),
    [
        ({0: 1.00, 1: 0.99}, 0, 1.0),  # within 2 %
        ({0: 1.00, 1: 0.50, 2: 0.80}, 1, 2.0),
        ({0: 1.00, 1: 1.00}, 0, 1.0),
        ({0: 0.90, 1: 1.00}, 0, 1.0),
        ({1: 0.75, 2: 0.75, 3: 0.80}, 1, None),  # the tile in use could not be timed
    ],
)
def test_the_tile_in_use_stays_unless_another_is_faster_by_2_percent(times, tile, gain):
    choice = choose(times)
    assert choice.tile == tile
    assert choice.ms == times[tile]
    assert choice.gain == (
        pytest.approx(gain) if gain else pytest.approx(float("nan"), nan_ok=True)
    )


def test_without_times_there_is_no_choice():
    assert choose({}) is None


def test_finalists_are_the_fastest_and_the_tile_in_use():
    times = {0: 9.0, 1: 5.0, 2: 4.0, 3: 3.0, 4: 2.0}
    assert finalists(times, most=2) == [0, 3, 4]
    assert finalists({3: 1.0, 1: 1.0}, most=1) == [1]
    assert finalists({}) == []


@pytest.mark.parametrize("architecture", SHARED_MEMORY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_candidates_fit_the_gpu_and_the_first_is_in_use(architecture, dtype):
    target = Target(architecture, 100)
    for job in jobs(dtype):
        tiles = candidates(job, target)
        in_use = configurations.tile_for(job.kernel, job.sizes, dtype, target)
        assert tiles[0] == in_use
        assert 8 <= len(tiles) <= 48
        assert len(set(tiles)) == len(tiles)
        case = job.case
        for tile in tiles[2:]:  # after the table's and the rule's
            needed = configurations.shared_memory(
                job.kernel, tile, case.d_qk, case.d_v, job.sizes, dtype
            )
            assert needed <= SHARED_MEMORY[architecture]


def test_values_of_a_program_do_not_exceed_its_rows_on_mma_sync_gpus():
    tiles = candidates(Job("forward_stream", HA1), Target(86, 48), most=500)
    assert all(tile.block_dv <= tile.block_m for tile in tiles)
    tiles = candidates(Job("backward_values", HA1), Target(89, 128), most=500)
    assert all(tile.block_dv <= tile.block_n for tile in tiles)


def test_candidates_come_nearest_first():
    target = Target(90, 132)
    tiles = candidates(Job("forward_stream", HA1), target)
    rule = configurations.rule("forward_stream", tiles_sizes(), HA1.dtype, target)
    bases = (tiles[0], rule)
    far = [min(distance(tile, base) for base in bases) for tile in tiles]
    assert far == sorted(far)


def tiles_sizes():
    return Job("forward_stream", HA1).sizes


def test_distance_counts_halvings_stages_and_rotation():
    other = Tile(64, 128, 256, 8, 3, rotated=False)
    assert distance(other, WIDE) == 1 + 1 + 1 + 1


def test_every_kernel_of_the_table_has_a_job():
    found = jobs(torch.bfloat16)
    assert {job.kernel for job in found} == set(KERNELS)
    assert len({(j.kernel, j.case.d_qk, j.case.d_v) for j in found}) == len(found)
    assert found[0].case.name == "ha1"


def row(kernel="forward_stream", architecture=90, block_m=64, **changes):
    base = row_of(Job(kernel, HA1), WIDE._replace(block_m=block_m), architecture)
    return base | changes


def test_rows_of_this_architecture_are_replaced_and_others_stay():
    old = [row(), row(architecture=86), row("backward_values"), row(dtype="float16")]
    found = replace_rows(old, [row(block_m=128)])
    assert len(found) == 4
    assert [r["block_m"] for r in found if r == row(block_m=128)] == [128]
    assert row() not in found
    assert found == sorted(found, key=lambda r: (r["architecture"], r["kernel"]))


def test_the_table_is_one_row_a_line_and_reads_back():
    rows = [row(), row(architecture=86)]
    text = table_text(rows)
    assert json.loads(text) == rows
    assert len(text.splitlines()) == 4
    assert json.loads(table_text([])) == []


def test_a_row_says_when_and_with_which_triton_it_was_measured():
    found = row()
    assert (found["d_qk"], found["d_v"], found["dtype"]) == (32, 256, "bfloat16")
    assert (found["triton"], found["evidence"]) == (triton.__version__, "measured")
    assert found["date"].startswith("20")


def test_tile_for_takes_a_row_that_was_written(tmp_path, monkeypatch):
    table = tmp_path / "configurations.json"
    table.write_text(table_text(replace_rows([], [row(block_m=16)])))
    monkeypatch.setattr(configurations, "TABLE", table)
    for cached in (configurations._table, configurations.tile_for):
        cached.cache_clear()
    found = configurations.tile_for("forward_stream", tiles_sizes(), HA1.dtype, Target(90, 132))
    for cached in (configurations._table, configurations.tile_for):
        cached.cache_clear()
    assert found == WIDE._replace(block_m=16)


@pytest.fixture
def worker(tmp_path, monkeypatch):
    """A worker of one small job with two tiles; a burst takes as many ms as the tile has warps."""
    monkeypatch.setattr(tune_worker, "SEARCH_ROUNDS", 2)
    monkeypatch.setattr(tune_worker, "FINAL_ROUNDS", 2)
    timer = partial(gpu_timing.bursts_in_turn, timer=lambda call, calls: call() or 3.0)
    monkeypatch.setattr(tune_worker, "bursts_in_turn", timer)
    job = Job("backward_values", Case("ha1", 1, 300, 16, 16, torch.float32))
    plans = [Plan(job, [Tile(64, 64, 16, 4, 1), Tile(32, 32, 16, 4, 1)])]
    notes = []
    made = Worker(plans, tmp_path / "results", notes.append)
    made.notes = notes
    return made


def results(worker):
    return [json.loads(text) for text in worker.results.read_text().splitlines()]


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_a_search_runs_and_compares_every_candidate(worker):
    worker.search([(0, 0), (0, 1)], device=DEVICE)
    assert results(worker) == [
        {"stage": "search", "job": 0, "tile": tile, "ms": 3.0} for tile in (0, 1)
    ]
    assert worker.notes == ["0 0 0", "1 0 1"]


def test_a_candidate_with_a_wrong_result_is_not_timed(worker):
    bench = worker.bench_of(0, DEVICE)
    bench.truth["dv"] = bench.truth["dv"] * 1.01
    worker.final([(0, (0, 1))], device=DEVICE)
    assert all("dv is wrong by" in line["error"] for line in results(worker))


def test_what_was_fatal_or_comes_too_late_is_left_out(worker):
    worker.fatal = {(0, 0)}
    assert [task for _, task in worker.in_time([(0, 0), (0, 1)], 0)] == [(0, 1)]
    assert [task for _, task in worker.in_time([(0, 1), (0, 1)], 1)] == [(0, 1)]
    worker.deadline = 0.0
    assert list(worker.in_time([(0, 1)], 0)) == []


def test_a_stage_goes_on_behind_what_brought_it_down(tmp_path, monkeypatch):
    commands = []

    def outlive(command, journal, patience):
        commands.append(command([]))
        commands.append(command([Culprit("4 2 7", "died of signal 6")]))

    monkeypatch.setattr(tune_search, "outlive", outlive)
    search = tune_search.Search([], tmp_path, 8.0, 60.0)
    search.stage("search", [(0, 0)])
    search.stage("final", [(0, [0])])
    first, second, _, fourth = (" ".join(words) for words in commands)
    assert "--first 0" in first
    assert "--fatal []" in first
    assert "--first 5" in second  # the candidate after it
    assert "--fatal [[2, 7]]" in second
    assert "--first 4" in fourth  # the job again, without the candidate


def test_plans_pass_between_processes_unchanged():
    plans = [Plan(job, candidates(job, Target(90, 132), 3)) for job in jobs(torch.bfloat16)]
    assert tune_worker.plans_from_json(tune_worker.plans_as_json(plans)) == plans


def tuned(monkeypatch, tmp_path, times):
    """Exit code and table after a run that found `times` for its first job."""
    table = tmp_path / "table.json"
    table.write_text(table_text([row(), row(architecture=86)]))
    monkeypatch.setattr(tune.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(tune.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(tune, "target_of", lambda device: Target(90, 132))
    monkeypatch.setattr(tune_search.Search, "run", lambda self, processes: {0: times})
    words = ["--kernel", "forward_stream", "--shape", "ha1", "--out", str(table)]
    return tune.main(words), json.loads(table.read_text())


def test_a_run_writes_the_best_tile_into_its_row_alone(monkeypatch, tmp_path):
    code, table = tuned(monkeypatch, tmp_path, {0: 1.0, 3: 0.5})
    best = candidates(Job("forward_stream", HA1), Target(90, 132))[3]
    assert code == 0
    assert len(table) == 2
    assert table[0] == row(architecture=86)
    assert {name: table[1][name] for name in Tile._fields} == best._asdict()


def test_a_run_without_times_changes_nothing(monkeypatch, tmp_path):
    code, table = tuned(monkeypatch, tmp_path, {})
    assert code == 1
    assert table == [row(architecture=86), row()]


def test_a_dry_run_needs_no_gpu(capsys):
    assert tune.main(["--dry-run", "--architecture", "86", "--kernel", "forward_short"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("candidates, the first is in use") == 4
    assert "block_m 64 block_n 256 block_dv 64" in listed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "words", [[], ["--minutes", "0"], ["--kernel", "forward"], ["--architecture", "90"]]
)
def test_bad_use_is_one_sentence_and_exit_code_2(capsys, words):
    with pytest.raises(SystemExit) as stop:
        tune.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


COMPILES = """
import sys
sys.path.append(sys.argv[1])
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
class Driver:
    def get_current_device(self): return 0
    def get_current_stream(self, device=None): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
driver.set_active(Driver())
import tune_worker
from hmc_fast.kernels.configurations import Target, tile_for
from tune_candidates import jobs
target = Target(90, 132)
tune_worker.target_of = lambda device: target
for job in jobs(torch.bfloat16):
    tile = tile_for(job.kernel, job.sizes, torch.bfloat16, target)
    tune_worker.Bench(job, "meta").compile(tile)
    print("compiled", job.kernel)
"""


@pytest.mark.slow
def test_every_job_compiles_ahead_of_its_timing(tmp_path):
    """For sm_90, with a driver that only names it; not interpreted, so in a process of its own."""
    changes = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILES, str(ROOT / "bench")],
        env=os.environ | changes, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("compiled") == len(jobs(torch.bfloat16))
