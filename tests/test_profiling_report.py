"""Tables, the paper's figures, rows of a result file, and bars: from numbers that are given."""

import csv
import math
import re

import pytest
import torch
from matplotlib.patches import Rectangle

from hmc_fast.profiling import rows
from hmc_fast.profiling.counts import Counts
from hmc_fast.profiling.figure import latency_bars
from hmc_fast.profiling.fold_times import FoldTimes, fold_table
from hmc_fast.profiling.latency import Latency
from hmc_fast.profiling.paper import size_sentence, table_two
from hmc_fast.profiling.report import counts_table, latency_table, medians_at_one
from hmc_fast.profiling.results import result_rows
from hmc_fast.profiling.settings import Settings
from hmc_fast.profiling.sides import COMPILED, EAGER, OPTIMISED, Name
from hmc_fast.profiling.tables import aligned, number, spread

CPU = torch.device("cpu")
COLUMNS = "op,provider,mode,batch,n,d_qk,d_v,dtype,metric,q50,q20,q80,gpu,torch,triton,commit,date"
SETTINGS = Settings(CPU, ("resnet50", "hmc"), (1, 4), (torch.float32,), 224, 3, 8, compiled=False)
COUNTS = {
    "resnet50": Counts(20_000_000, 4 * 10**9, 4 * 10**9, 4 * 10**9, 3 * 10**9),
    "hmc": Counts(30_000_000, 10 * 10**9, 10 * 10**9, None, None),
}


def latencies():
    """Sides of both networks at batch 1 and 4."""
    found = []
    for batch in (1, 4):
        for network, factor in (("resnet50", 1), ("hmc", 2)):
            for provider, ms in ((EAGER, 10.0), (OPTIMISED, 5.0)):
                name = Name(network, provider, torch.float32)
                times = [factor * ms * batch * k for k in (0.9, 1.0, 1.1)]
                found.append(Latency(name, batch, times, 12.5, 0.0))
    return found


def test_columns_are_aligned_and_numbers_to_the_right():
    assert aligned(["", "ms"], [["a", "1.5"], ["long", "123"]]) == [
        "       ms",
        "a     1.5",
        "long  123",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (1234.6, "1235"),
        (99.96, "100."),
        (12.345, "12.3"),
        (1.0, "1.00"),
        (0.0456, "0.0456"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert number(value) == text.rstrip(".")


def test_spread_is_median_and_quantiles():
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == "3.50 (2.00 to 5.00)"


def test_the_table_of_counts_names_what_differs():
    wrong = COUNTS | {"hmc": COUNTS["hmc"]._replace(flop_counter=10 * 10**9 + 1)}
    _, resnet50, hmc = counts_table(COUNTS)
    assert resnet50.split()[:5] == ["resnet50", "20,000,000", "4.0000", "8.00", "3.0000"]
    assert resnet50.endswith("closed form, flop_counter, fvcore")
    assert hmc.split()[4:] == ["-", "closed", "form,", "flop_counter"]
    assert (
        "NOT ALIKE: closed form 10,000,000,000, flop_counter 10,000,000,001"
        in counts_table(wrong)[2]
    )


def test_the_table_of_latencies_has_a_row_a_side_and_columns_a_batch():
    header, *found = latency_table(latencies()[:-1])
    assert header.split("  ")[-1] == "max |Δp|"
    assert len(found) == 4
    assert "10.0 (9.40 to 10.6)" in found[0]
    assert found[0].split()[-1] == "-"
    assert found[3].split()[-3:] == ["-", "-", "0.0e+00"]  # not measured at batch 4


def test_table_two_keeps_the_papers_figures_apart_and_gives_ratios():
    header, resnet50, hmc, ratio = table_two(COUNTS, medians_at_one(latencies()))
    assert re.split("  +", header.strip()) == [
        "M parameters", "paper", "GFLOP", "paper", "ms eager float32", "ms optimised float32",
        "paper ms",
    ]  # fmt: skip
    assert resnet50.split() == ["resnet50", "20.0", "23", "8.00", "8", "10.0", "5.00", "7"]
    assert hmc.split() == ["hmc", "30.0", "45", "20.0", "25", "20.0", "10.0", "18"]
    assert ratio.split()[3:] == ["1.50x", "1.96x", "2.50x", "3.12x", "2.00x", "2.00x", "2.57x"]


def test_table_two_of_other_networks_has_no_figures_of_the_paper():
    lines = table_two({"vgg16": COUNTS["hmc"]}, {})
    assert lines[1].split() == ["vgg16", "30.0", "-", "20.0", "-", "-"]
    assert len(lines) == 2


def test_the_sentence_on_the_papers_size():
    assert size_sentence() == (
        "45 M / 25 G does not follow from the paper's equations: C/8 channels of queries and keys "
        "give 33.1 M, 18.3 GFLOP; reduction=1 comes closest: 42.9 M, 26.3 GFLOP"
    )


def test_times_of_folds_with_and_without_loading():
    name = Name("hmc", EAGER, torch.float32)
    folds = [
        FoldTimes(0, 64, [1.0, 1.0, 1.0], {name: [10.0, 10.0, 30.0]}),
        FoldTimes(2, 64, [2.0], {name: [40.0]}),
    ]
    header, *found = fold_table(folds)
    assert "eager float32" in header
    assert [line.split() for line in found] == [
        ["0", "3", "1.00", "10.0", "11.0"],
        ["2", "1", "2.00", "40.0", "42.0"],
        ["all", "4", "1.00", "20.0", "21.0"],
    ]


def test_rows_have_the_columns_of_the_benchmarks(tmp_path):
    folds = [FoldTimes(3, 64, [1.0], {Name("hmc", EAGER, torch.float32): [10.0]})]
    rows.write_rows(tmp_path / "r.csv", result_rows(SETTINGS, COUNTS, latencies(), folds))
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[0] == COLUMNS
    found = {
        (r["op"], r["provider"], r["mode"], r["batch"], r["metric"]): r
        for r in csv.DictReader(lines)
    }
    assert len(found) == len(lines) - 1
    assert found["resnet50", "textbook", "forward", "1", "parameters"]["q50"] == "20000000"
    assert found["resnet50", "optimised", "forward", "1", "gmac"]["q50"] == "3"
    assert ("hmc", "optimised", "forward", "1", "gmac") not in found
    ms = found["hmc", "eager", "forward", "4", "ms"]
    assert (ms["q50"], ms["q20"], ms["q80"], ms["n"]) == ("80", "75.2", "84.8", "224")
    assert found["hmc", "optimised", "forward", "1", "peak_mib"]["q50"] == "12.5"
    loading = found["hmc", "eager", "fold3-with-loading", "1", "ms"]
    assert (loading["q50"], loading["n"], loading["dtype"]) == ("11", "64", "float32")


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"metric is one of ms, .*, not 'seconds'"):
        rows.row(
            "hmc", "eager", "forward", "seconds", [1.0], batch=1, n=224, dtype=torch.float32,
            device=CPU,
        )  # fmt: skip


def test_bars_are_medians_with_whiskers_from_20_to_80_percent():
    figure = latency_bars(latencies(), "a machine")
    assert [axes.get_title() for axes in figure.axes] == ["batch 1", "batch 4"]
    axes = figure.axes[1]
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [bar.get_width() for bar in bars] == pytest.approx([10, 5, 20, 10])
    whiskers = [c.get_segments()[0][:, 0].tolist() for c in axes.collections]
    assert whiskers[2] == pytest.approx([18.8, 21.2])
    assert len({bar.get_facecolor() for bar in bars}) == len({b.get_hatch() for b in bars}) == 2
    assert axes.get_xlim()[1] > 21.2


def test_providers_differ_in_colour_and_hatching():
    one = [
        Latency(Name("hmc", p, torch.float32), 1, [1.0], 1.0, math.nan)
        for p in (EAGER, COMPILED, OPTIMISED)
    ]
    bars = latency_bars(one, "").axes[0].patches
    assert len({bar.get_facecolor() for bar in bars}) == 3
    assert len({bar.get_hatch() for bar in bars}) == 3
