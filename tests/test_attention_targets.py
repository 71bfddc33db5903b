"""bench/attention_targets.py: targets beside rows written by hand."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import attention_targets  # noqa: E402
from attention_targets import TARGETS, Results, memory, table  # noqa: E402

TOKENS = {"ha1": 3136, "ha2": 784, "ca23-block": 196}


def line(op, provider, mode, metric, value, batch=32, n=None, dtype="bfloat16"):
    sizes = {"batch": str(batch), "n": str(n or TOKENS[op]), "dtype": dtype}
    values = {"q50": str(value), "q20": "", "q80": ""}
    if metric == "error":
        values = {"q50": "", "q20": value, "q80": ""}
    named = {"op": op, "provider": provider, "mode": mode, "metric": metric}
    return named | sizes | values


def found(rows, what):
    """The line of one target."""
    (one,) = [text for text in table(rows) if text.startswith(what)]
    return one


M = line("ha1", "matmul", "forward", "tflops", 800, 1, 8192)


@pytest.mark.parametrize(
    ("tflops", "words"), [(400, " 0.50  missed"), (500, "met"), (600, " 0.75  met, stretch too")]
)
def test_shares_of_the_matrix_rate(tflops, words):
    rows = [M, line("ha1", "triton", "forward", "tflops", tflops)]
    assert found(rows, "HA1 forward, share of M").endswith(words)


def test_the_fastest_sdpa_backend_is_the_one_to_beat():
    rows = [
        line("ha1", "sdpa-efficient", "attention", "ms", 2.0),
        line("ha1", "sdpa-math", "attention", "ms", 9.0),
        line("ha1", "sdpa-flash", "forward", "error", "RuntimeError: No available kernel"),
        line("ha1", "triton", "attention", "ms", 0.4),
    ]
    assert found(rows, "HA1 forward, x SDPA").endswith("5.00  met")


def test_a_missing_peer_is_not_measured_and_says_why():
    rows = [
        line("ha1", "triton", "attention", "ms", 0.4),
        line("ha1", "fa3", "forward", "error", "ModuleNotFoundError: No module named 'fa3_fwd'"),
    ]
    text = found(rows, "HA1 forward, x FlashAttention-3")
    assert "not measured (fa3: ModuleNotFoundError: No module named 'fa3_fwd')" in text


def test_the_faster_of_our_two_forms_counts_for_a_block():
    block = "ca23-block"
    rows = [
        line(block, "reference", "forward_graph", "ms", 0.09, 8),
        line(block, "triton", "forward_graph", "ms", 0.05, 8),
        line(block, "triton-reassociated", "forward_graph", "ms", 0.03, 8),
    ]
    text = found(rows, "CA23 block, batch 8, graphs, x eager")
    assert text.endswith("3.00  met, stretch too")


def test_memory_counts_inputs_on_both_sides():
    # one token of HA1: q k v x dout of 2 (32 + 32 + 3 256) bytes; dq dk dv out; A; lse of 4 bytes
    inputs, results, kept = 2 * 832, 2 * (64 + 512), 2 * 256 + 4
    tokens = 32 * 3136
    peak = (results + kept) * tokens / 2**20
    rows = [line("ha1", "triton", "step", "peak_mib", peak)]
    assert memory("ha1")(Results(rows)) == pytest.approx(1.0)
    rows = [line("ha1", "triton", "step", "peak_mib", peak + 0.3 * inputs * tokens / 2**20)]
    assert found(rows, "HA1 step, memory").endswith("missed")


def test_other_dtypes_do_not_count():
    rows = [M, line("ha1", "triton", "forward", "tflops", 700, dtype="float16")]
    assert "not measured" in found(rows, "HA1 forward, share of M")


def test_the_last_line_counts():
    assert table([])[-1] == f"targets: 0 met, 0 missed, {len(TARGETS)} not measured"
    rows = [M, line("ha1", "triton", "forward", "tflops", 500)]
    assert table(rows)[-1].startswith("targets: 1 met, 0 missed")


def test_the_limits_are_the_designs():
    limits = {t.what: (t.limit, t.stretch) for t in attention_targets.TARGETS}
    assert limits["HA1 forward, share of M"] == (0.60, 0.70)
    assert limits["HA1 backward, share of M"] == (0.45, 0.55)
    assert limits["HA1 backward with atomics, share of M"] == (0.50, 0.60)
    assert limits["HA2 backward, share of M"] == (0.36, 0.45)
    assert limits["HA1 forward, x SDPA"] == (4, None)
    assert limits["HA2 forward, batch 1, graphs, x SDPA"] == (1.2, None)
    assert limits["CA34 block, batch 32, graphs, x torch.compile"] == (1.2, None)
