"""bench/attention.py and what it is made of, without a GPU: peers, refusals, rows, targets."""

import csv
import importlib.util
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import attention_blocks  # noqa: E402
import attention_gpu  # noqa: E402
import attention_worker  # noqa: E402
import gpu_timing  # noqa: E402
import peers  # noqa: E402
import problem  # noqa: E402
from attention_cases import Case  # noqa: E402
from attention_gpu import Work  # noqa: E402
from peers import Peer  # noqa: E402
from supervise import Culprit  # noqa: E402

# tests of pytest's options import an attention.py and a common.py of their own
SPEC = importlib.util.spec_from_file_location("bench_attention", ROOT / "bench" / "attention.py")
attention = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(attention)
sys.modules.pop("common", None)
CASE = Case("ha1", 2, 7, 4, 16)


@pytest.fixture
def on_cpu(monkeypatch):
    """Cases on the CPU; every call takes 0.5 ms, a graph calls once."""

    def timer(call, calls):
        call()
        return 0.5

    turn = partial(gpu_timing.bursts_in_turn, timer=timer)
    monkeypatch.setattr(attention_gpu, "bursts_in_turn", turn)
    monkeypatch.setattr(attention_gpu, "captured", lambda side: side)
    monkeypatch.setattr(attention_gpu, "peak_mib", lambda side: 12.5)
    for name in ("attention_problem", "block_problem"):
        make = partial(getattr(attention_gpu, name), device="cpu")
        monkeypatch.setattr(attention_gpu, name, make)


def measured(rows):
    """provider, mode and metric of each row."""
    return {(row["provider"], row["mode"], row["metric"]) for row in rows}


def run(work, rounds=3, skip=()):
    return attention_gpu.run(work, rounds, lambda task: None, dict(skip))


def test_the_cpu_backends_leave_out_the_interpreted_kernels():
    assert attention.PLAIN == ["chunked", "sdpa"]


@pytest.mark.parametrize(
    ("mode", "gflop"), [("forward", 181.3), ("backward", 382.7), ("step_graph", 564.0)]
)
def test_useful_arithmetic_of_ha1_at_batch_32(mode, gflop):
    case = Case("ha1", 32, 3136, 32, 256)
    assert case.flop(mode) / 1e9 == pytest.approx(gflop, abs=0.06)


def test_the_truth_is_the_textbooks(on_cpu):
    found = attention_gpu.attention_problem(CASE._replace(dtype=torch.float64))
    *tensors, scale = found.arguments["operator"]
    q, k, v, x, gamma = tensors
    assert scale == 0.5  # 1 / sqrt(4)
    weights = torch.exp(torch.einsum("bic,bjc->bij", q, k) / 2)
    attended = torch.einsum("bij,bjc->bic", weights / weights.sum(-1, keepdim=True), v)
    out = gamma * attended + x
    gradients = torch.autograd.grad(out, tensors, found.dout)
    for one, other in zip(found.truth["step"], gradients, strict=True):
        torch.testing.assert_close(one, other.double())
    torch.testing.assert_close(found.truth["forward"][0], out.detach())


def test_a_peer_that_is_missing_has_its_error_as_the_row(on_cpu):
    rows = run(Work(CASE, ("reference", "fa3"), ("forward_graph",)))
    assert {("fa3", "forward", "error")} == {key for key in measured(rows) if key[0] == "fa3"}
    modes = ("forward", "attention", "backward", "attention_backward", "step", "forward_graph")
    for mode in modes:
        assert ("reference", mode, "ms") in measured(rows)
        assert ("reference", mode, "tflops") in measured(rows)
    assert ("reference", "step", "peak_mib") in measured(rows)
    times = {row["mode"]: row["q50"] for row in rows if row["metric"] == "ms"}
    assert times["forward"] == 0.5
    assert times["forward_graph"] == 0.05  # ten calls a graph


def use(monkeypatch, **made):
    """Peers by name instead of the real ones."""
    table = {name: (lambda case, peer=peer: peer) for name, peer in made.items()}
    monkeypatch.setattr(attention_gpu, "PEERS", table)
    return Work(CASE, tuple(table))


def test_a_wrong_result_is_not_timed(on_cpu, monkeypatch):
    def off(q, k, v, x, gamma, scale):
        return peers.attention_reference(q, k, v, x, gamma, scale) * 1.001

    rows = run(use(monkeypatch, wrong=Peer(off), nan=Peer(lambda *t: t[3] * float("nan"))))
    assert measured(rows) == {("wrong", "forward", "error"), ("nan", "forward", "error")}
    assert all("WrongResult" in row["q20"] for row in rows)


def test_one_wrong_row_does_not_hide_behind_the_others():
    truth = torch.randn(1, 4000, 8, dtype=torch.float64)
    got = truth.clone()
    got[0, 17] += 0.01
    whole, of_row = problem.errors(got, truth)
    assert whole < 2e-4
    assert of_row > 5e-3


def test_a_peer_that_fails_in_backward_keeps_its_forward(on_cpu, monkeypatch):
    class ForwardOnly(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            return peers.attention_reference(*tensors)

        @staticmethod
        def backward(ctx, dout):
            raise NotImplementedError("no kernel")

    one = Peer(ForwardOnly.apply, modes=peers.OPERATOR_MODES)
    rows = run(use(monkeypatch, one=one))
    assert {key[1:] for key in measured(rows)} == {
        ("forward", "ms"), ("forward", "tflops"), ("backward", "error"),
    }  # fmt: skip


def test_a_peer_without_a_backward_says_so(on_cpu, monkeypatch):
    modes = ("forward", "attention")
    one = Peer(peers.attention_reference, peers.textbook, modes)
    rows = run(use(monkeypatch, one=one))
    assert ("one", "backward", "error") in measured(rows)
    assert ("one", "attention", "ms") in measured(rows)
    assert ("one", "forward", "peak_mib") in measured(rows)


def test_a_lost_gpu_ends_the_process_and_names_nobody_else(on_cpu, monkeypatch):
    def lost(error=None):
        raise gpu_timing.Broken("illegal memory access")

    monkeypatch.setattr(attention_gpu, "check_alive", lost)
    with pytest.raises(gpu_timing.Broken):
        run(Work(CASE, ("fa3",)))


def test_who_brought_a_worker_down_is_left_out_with_the_reason(on_cpu):
    work = Work(CASE, ("reference", "flex"), modes=("forward",))
    rows = run(work, skip={"flex": "step: the process died of signal 6"})
    (error,) = [row for row in rows if row["provider"] == "flex"]
    assert error["metric"] == "error"
    assert "died of signal 6" in error["q20"]


def test_nothing_is_timed_while_preparing(on_cpu):
    assert run(Work(CASE, ("reference",)), rounds=0) == []


def test_an_error_row_keeps_the_columns(tmp_path):
    line = attention_gpu.error_row(CASE, "flex", "forward", "out of resource: shared memory, 1, 2")
    path = attention_gpu.merge_rows("attention-card", [line], tmp_path)
    (found,) = csv.DictReader(path.read_text().splitlines())
    assert None not in found
    assert (found["metric"], found["q50"], found["q80"]) == ("error", "", "")
    assert found["q20"] == "out of resource: shared memory, 1, 2"


def test_fresh_rows_replace_those_of_the_same_case_and_provider(tmp_path):
    def line(provider, case, ms, mode="forward"):
        return attention_gpu.case_row(case, provider, mode, "ms", [ms])

    large = CASE._replace(n=8)
    old = [line("flex", CASE, 1.0), line("flex", CASE, 2.0, "step"), line("flex", large, 3.0)]
    attention_gpu.merge_rows("card", [*old, line("sdpa", CASE, 4.0)], tmp_path)
    attention_gpu.merge_rows("card", [line("flex", CASE, 5.0)], tmp_path)
    found = [row["q50"] for row in attention_gpu.read_rows("card", tmp_path)]
    assert sorted(found) == ["3", "4", "5"]


def test_atomics_are_asked_for_only_while_they_are_timed(monkeypatch):
    monkeypatch.setenv(peers.ATOMICS_VARIABLE, "0")
    with peers.PEERS["triton-atomics"](CASE).context():
        assert peers.os.environ[peers.ATOMICS_VARIABLE] == "1"
    assert peers.os.environ[peers.ATOMICS_VARIABLE] == "0"


def test_ours_is_called_through_the_public_operator_with_its_backend():
    peer = peers.PEERS["triton"](CASE)
    assert peer.operator.func is peers.spatial_attention
    assert peer.operator.keywords == peer.attend.keywords == {"backend": "triton"}


@pytest.mark.parametrize("d_v", [64, 256, 512, 1024, 2048, 4096])
def test_flexattentions_tiles_divide_one_another_as_it_demands(d_v):
    options = peers.flex_options(d_v)
    assert options["bwd_BLOCK_N1"] % options["bwd_BLOCK_M1"] == 0
    assert options["bwd_BLOCK_M2"] % options["bwd_BLOCK_N2"] == 0
    value_tile = options["fwd_BLOCK_N"] * min(d_v, 2048) * 2 * options["num_stages"]
    assert value_tile <= 100_000  # of 232 448 bytes


def test_padding_queries_and_keys_for_flashattention_3_leaves_the_scores(monkeypatch):
    monkeypatch.setattr(peers.importlib, "import_module", lambda name: None)
    q, k = torch.randn(2, 1, 5, 32)
    padded = [peers.PEERS["fa3"](CASE).prepare(tensor) for tensor in (q, k)]
    assert padded[0].shape == (1, 5, 64)
    torch.testing.assert_close(padded[0] @ padded[1].mT, q @ k.mT)


@pytest.mark.parametrize("name", ["ha1-block", "ca34-block"])
@pytest.mark.parametrize("peer", ["reference", "sdpa", "triton", "triton-reassociated"])
@pytest.mark.parametrize("mode", ["forward", "step"])
def test_every_form_of_a_block_is_the_block(monkeypatch, name, peer, mode):
    monkeypatch.setitem(problem.TOLERANCES, torch.float64, 1e-11)
    case = Case(name, 2, 49, 16, 128, torch.float64)
    found = attention_blocks.block_problem(case, "cpu")
    made = found.peers[peer]()
    if made.operator.attention.backend == "triton":
        made.operator.attention.backend = "reference"  # the kernels take no float64
    result = problem.make_side(made, mode, found).call()
    problem.compare(result, mode, found, torch.float64)


def test_every_group_times_ours_and_the_library_it_is_compared_with():
    for group in attention_gpu.GROUPS:
        for work in attention_gpu.works(group):
            assert "triton" in work.peers
            assert {"sdpa", "sdpa-efficient"} & set(work.peers)
    tokens = [work.case.n for work in attention_gpu.works("large")]
    assert tokens == [448**2 // 16, 1024**2 // 16]
    full = attention_gpu.works("ha1", full=True)
    at_8 = next(work for work in full if work.case.batch == 8)
    assert set(at_8.peers) == set(peers.PEERS)


def command_line(*words):
    command = [sys.executable, str(ROOT / "bench" / "attention.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "words",
    [
        ["--prepare"],
        ["--device", "cuda"],
        ["--targets"],
        ["--case", "large"],
        ["--provider", "flex"],
        ["--rounds", "many"],
    ],
)
def test_bad_use_is_one_sentence_and_exit_code_2(capsys, words):
    with pytest.raises(SystemExit) as stop:
        attention.main(words)
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_list_needs_no_gpu(capsys):
    assert attention.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "--case large: ha1 batch 1 n 65536 bfloat16" in listed
    assert "--case ha1-64px" in listed


def test_a_case_and_a_backend_alone_on_a_cpu(tmp_path):
    words = ["--device", "cpu", "--case", "ha2-64px", "--provider", "sdpa", "--rounds", "2"]
    done = command_line(*words, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = attention_gpu.read_rows("attention-cpu", tmp_path)
    assert [row["op"] for row in rows] == ["matmul"] + ["ha2-64px"] * 4
    assert {row["provider"] for row in rows[1:]} == {"reference", "sdpa"}


def test_a_worker_starts_again_at_the_case_that_was_lost(monkeypatch, tmp_path):
    commands = []

    def outlive(command, journal, patience):
        lost = [Culprit("0 flex step", "hung"), Culprit("3 fa3 forward timing", "lost its GPU")]
        commands.extend(command(lost[:count]) for count in range(3))

    monkeypatch.setattr(attention_worker, "outlive", outlive)
    args = attention.parse(["--device", "cpu", "--out", str(tmp_path)])
    args.provider = ["fa3"]
    assert attention_worker.supervise("ha1", 11, args) is None
    first, second, third = (" ".join(words) for words in commands)
    assert "attention_worker.py ha1 --journal" in first
    assert "--provider fa3" in first
    assert "--skip" not in first
    assert "--skip flex=step: the process hung --first 0" in second
    assert "--skip flex=step: the process hung" in third
    assert "--skip fa3=forward timing: the process lost its GPU --first 3" in third


def groups_of(monkeypatch, *words):
    """Exit code, and (group, rounds) of the workers that a run on a GPU starts."""
    started = []

    def supervise(group, rounds, args):
        started.append((group, rounds))
        return group if group == "ca23" else None

    monkeypatch.setattr(attention, "supervise", supervise)
    monkeypatch.setattr(attention, "print_targets", lambda args: started.append("targets"))
    args = attention.parse(["--device", "cpu"])
    args.case = ["ha1"] if "ha1" in words else None
    args.prepare = "prepare" in words
    return attention.main_on_gpu(args), started


def test_a_whole_run_prepares_all_groups_times_each_and_prints_the_targets(monkeypatch):
    code, started = groups_of(monkeypatch)
    assert code == 1  # ca23 failed
    assert sorted(started[:5]) == sorted((group, 0) for group in attention_gpu.GROUPS)
    assert started[5:] == [*((group, 11) for group in attention_gpu.GROUPS), "targets"]


def test_one_group_alone_is_timed_at_once(monkeypatch):
    assert groups_of(monkeypatch, "ha1") == (0, [("ha1", 11)])
    code, started = groups_of(monkeypatch, "prepare")
    assert code == 1
    assert sorted(started) == sorted((group, 0) for group in attention_gpu.GROUPS)
