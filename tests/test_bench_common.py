"""bench/common.py and the option `pytest --benchmark`."""

import csv
import importlib.util
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("bench_common", ROOT / "bench" / "common.py")
common = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(common)
pytest_plugins = "pytester"
COLUMNS = "op,provider,mode,batch,n,d_qk,d_v,dtype,metric,q50,q20,q80,gpu,torch,triton,commit,date"


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when a side runs."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(common.timing.time, "perf_counter", lambda: now.seconds)

    def side(name, seconds, log):
        def run():
            log.append(name)
            now.seconds += seconds

        return run

    return side


def test_pairs_run_in_turn_and_the_first_changes(clock):
    log = []
    a, b = clock("a", 0.001, log), clock("b", 0.004, log)
    times_a, times_b = common.interleave(a, b, rounds=3, warmup=1)
    assert "".join(log) == "ab" + "ab" + "ba" + "ab"
    assert times_a == pytest.approx([1.0] * 3)
    assert times_b == pytest.approx([4.0] * 3)


def test_quantiles_are_median_and_20_and_80_percent():
    found = common.quantiles(iter([5.0, 1.0, 3.0, 2.0, 4.0, 0.0]))
    assert found == pytest.approx({"q50": 2.5, "q20": 1.0, "q80": 4.0})


class Fixture(SimpleNamespace):
    """What record_pair needs of pytest-benchmark."""

    def pedantic(self, function, rounds, warmup_rounds):
        self.calls = [function() for _ in range(rounds + warmup_rounds)]


def test_a_recorded_pair_carries_medians_and_ratio(clock):
    benchmark = Fixture(extra_info={})
    a, b = clock("a", 0.002, []), clock("b", 0.006, [])
    ratio = common.record_pair(benchmark, "fast", a, "slow", b, rounds=4, warmup=1)
    assert ratio == pytest.approx(3.0)
    info = benchmark.extra_info
    assert info["fast_ms_q50"] == pytest.approx(2.0)
    assert info["slow_ms_q80"] == pytest.approx(6.0)
    assert info["ratio"] == ratio
    assert info["pair"] == "fast 2 ms (2 to 2), slow 6 ms (6 to 6): 3.00x"
    assert len(benchmark.calls) == 5


def test_matmul_rate_is_flops_over_the_median_time(monkeypatch):
    monkeypatch.setattr(common, "milliseconds", lambda function: 0.5)
    assert common.matmul_rate(torch.float32, "cpu", size=100) == pytest.approx(2e6 / 0.5e-3 / 1e12)


def test_matmul_rate_really_multiplies():
    assert common.matmul_rate(torch.bfloat16, "cpu", size=32, rounds=2) > 0


def test_rows_are_written_as_the_agreed_columns(tmp_path):
    sizes = {"batch": 1, "n": 3136, "d_qk": 32, "d_v": 256, "dtype": torch.bfloat16}
    line = common.row("attention", "chunked", "forward", "ms", [3.0, 1.0, 2.0], **sizes)
    path = common.write_rows("attention", [line], tmp_path / "results")
    assert path.read_text().splitlines()[0] == COLUMNS
    (found,) = csv.DictReader(path.read_text().splitlines())
    assert found["dtype"] == "bfloat16"
    assert (found["q50"], found["q20"], found["q80"]) == ("2", "1.4", "2.6")
    assert found["torch"] == torch.__version__
    assert found["gpu"]


def test_unknown_metric_is_refused():
    sizes = {"batch": 1, "n": 1, "d_qk": 1, "d_v": 1, "dtype": torch.float32}
    with pytest.raises(
        ValueError, match="ms, tflops, gbps, peak_mib, error, parameters, gmac, not 'seconds'"
    ):
        common.row("attention", "chunked", "forward", "seconds", [1.0], **sizes)


@pytest.fixture
def project(pytester):
    """A repository of three tests and two timings under this one's pytest rules."""
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, pytester.path)
    (pytester.mkdir("tests") / "test_plain.py").write_text(
        "import pytest\ndef test_plain(): pass\n"
        "@pytest.mark.slow\ndef test_slow(): pass\n"
        "@pytest.mark.gpu\ndef test_gpu(): pass\n"
    )
    shutil.copy(ROOT / "bench" / "common.py", pytester.mkdir("bench"))
    (pytester.path / "bench" / "attention.py").write_text(
        "from common import record_pair\n"
        "def test_pair(benchmark):\n"
        "    record_pair(benchmark, 'one', lambda: sum(range(9)), 'two', lambda: None, rounds=3)\n"
        "def test_other(benchmark): benchmark.pedantic(lambda: None)\n"
    )
    return pytester


def run_pytest(project, *arguments):
    return project.runpytest_inprocess("-v", "-rs", "-p", "no:cacheprovider", *arguments)


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        ([], ["tests/test_plain.py::test_plain"]),
        (["."], ["tests/test_plain.py::test_plain"]),
        (["-m", "slow"], ["tests/test_plain.py::test_slow"]),
        (["--benchmark"], ["bench/attention.py::test_pair", "bench/attention.py::test_other"]),
        (["--benchmark", "-k", "pair"], ["bench/attention.py::test_pair"]),
        (["--benchmark", "."], ["bench/attention.py::test_pair", "bench/attention.py::test_other"]),
    ],
)
def test_benchmark_option_chooses_between_tests_and_timings(project, arguments, ran):
    result = run_pytest(project, *arguments)
    assert [line.split()[0] for line in result.outlines if " PASSED" in line] == ran
    assert result.ret == 0


def test_timings_print_the_table_and_the_pairs(project):
    result = run_pytest(project, "--benchmark")
    result.stdout.fnmatch_lines(["Name (time in *", "*test_pair: one * ms (*), two * ms (*): *x"])


def test_benchmark_option_says_what_is_missing(project):
    result = run_pytest(project, "--benchmark", "-p", "no:benchmark")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs pytest-benchmark; install it with: pip install -e *test*"])


def test_gpu_tests_skip_with_the_reason(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = run_pytest(project, "-m", "gpu")
    result.assert_outcomes(skipped=1, deselected=2)
    result.stdout.fnmatch_lines(["*needs a CUDA device, and there is none"])
