"""How much faster is the exact Score-CAM than those of grad-cam and torchcam, and Grad-CAM?

    python bench/score_cam.py    on a CPU: hmc, 224 px, the 256 channels of layer1; ours in float32
                                 and bf16, both packages as they come, torchcam at its best batch
                                 with denormals flushed; peak memory of a process of each; about
                                 twenty minutes; writes bench/results/score_cam-cpu.csv
                                 on a GPU: layer4's 2048 channels in bf16, see score_cam_gpu.py
                                 and, on the 2048 channels of layer4, the approximations against
                                 the exact map
    --quick                      on a CPU: 96 px, writes score_cam-cpu-96.csv; two rounds, without
                                 the approximations
    pytest --benchmark           on a CPU, at 96 px: the pairs that matter, timed in turn

One grey phantom image, all gammas 0.5, the predicted class. The package's recipe is computed on
both sides and compared before anything is timed. In rows n is the pixels of a side, d_v the
channels, d_qk is 0; a call has the folding of the network in it, but for `ours-kept`, whose network
was optimised before, as one does for many images. Memory is a process's own
at its peak, Python, torch and the network included, the files of libraries not.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import score_cam_gpu
from command_line import Parser
from common import RESULTS, describe, in_turn, quantiles, record_pair, row, write_rows
from hmc_fast.models.optimized import has_fast_bfloat16
from inference_cases import SIZE
from score_cam_measures import fidelity_rows, share_in_forward
from score_cam_peers import (
    BEST_BATCH,
    LOW,
    TOLERANCE,
    Call,
    Case,
    check,
    flushed,
    grad_cam_package,
    make_case,
    our_grad_cam,
    ours,
    ours_kept,
    torchcam_package,
)

QUICK_SIZE = 96
CHANNELS = 256  # of layer1
DEEP_CHANNELS = 2048  # of layer4
# what is at least so many times faster; all of these providers are timed
TARGETS = {
    "ours": {"as they come": 1.8, "torchcam-best": 1.4},
    "ours-kept": {"as they come": 1.8, "torchcam-best": 1.4},
    "ours-bf16": {"as they come": 3.0, "torchcam-best": 2.4},
}
PROVIDERS = ("ours", "ours-kept", "ours-bf16", "grad-cam", "torchcam", "torchcam-best")
MOST_MIB = 1000.0
MOST_OF_GRAD_CAM = 0.4


def sides(case: Case) -> dict[str, Callable[[], Call]]:
    """Who is timed, by the name of the rows, and how it is made."""
    found: dict[str, Callable[[], Call]] = {
        "ours": lambda: ours(case),
        "ours-kept": lambda: ours_kept(case),
        "grad-cam": lambda: grad_cam_package(case),
        "torchcam": lambda: torchcam_package(case),
        "torchcam-best": lambda: flushed(torchcam_package(case, BEST_BATCH)),
    }
    if has_fast_bfloat16():
        found["ours-bf16"] = lambda: ours(case, torch.bfloat16)
    return found


def checked(case: Case) -> dict[str, Call]:
    """The calls of all sides, after their maps were compared: that was the warm-up."""
    calls = {name: make() for name, make in sides(case).items()}
    maps = {name: call() for name, call in calls.items()}
    check("grad-cam", ours(case, recipe="grad-cam")(), maps["grad-cam"], TOLERANCE)
    for name in ("torchcam", "torchcam-best", "ours-kept"):
        check(name, maps["ours"], maps[name], TOLERANCE)
    if "ours-bf16" in maps:
        check("bf16 against float32", maps["ours-bf16"], maps["ours"], LOW)
    return calls


def timed(
    op: str, calls: Mapping[str, Call], case: Case, rounds: int, warmup: int
) -> Iterator[dict[str, Any]]:
    """A row of milliseconds for each side."""
    for name, values in in_turn(calls, rounds, warmup).items():
        print(f"{op}: {describe(name, quantiles(values))}", flush=True)
        yield a_row(op, name, "ms", values, case)


def a_row(op: str, name: str, metric: str, values: Sequence[float], case: Case) -> dict[str, Any]:
    dtype = torch.bfloat16 if "bf16" in name else torch.float32
    return row(
        op, name, "forward", metric, values, batch=1, n=case.image.shape[-1], d_qk=0, d_v=CHANNELS,
        dtype=dtype,
    )  # fmt: skip


def grad_cam_rows(size: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Grad-CAM of layer4."""
    case = make_case(size, "layer4")
    calls = {"ours": our_grad_cam(case), "grad-cam": grad_cam_package(case, "GradCAM")}
    check("Grad-CAM", calls["ours"](), calls["grad-cam"](), TOLERANCE)
    yield from timed("grad-cam", calls, case, rounds, warmup=2)


def memory_rows(size: int, case: Case) -> Iterator[dict[str, Any]]:
    """The peak of a process that explains one image."""
    for name in sides(case):
        command = [sys.executable, __file__, "--memory", name, "--size", str(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        mib, before = (float(word) for word in done.stdout.split()[-2:])
        print(f"{name}: {mib:.0f} MiB of the process's own, {before:.0f} before it", flush=True)
        yield a_row("score-cam", name, "peak_mib", [mib], case)


def own_memory(name: str, size: int) -> None:
    """Explain, and print the most that this process takes meanwhile, and what it has before, in
    MiB; of what making the network took, what is still there counts."""
    call = sides(make_case(size, "layer1"))[name]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = peak_of_process()
    call()
    print(peak_of_process(), before)


def peak_of_process() -> float:
    """MiB of memory of its own: the most that was resident, less what is mapped from files, the
    libraries. Not getrusage's, which a child takes over from its parent."""
    status = Path("/proc/self/status").read_text()
    most, files = (int(status.split(key)[1].split()[0]) for key in ("VmHWM:", "RssFile:"))
    return (most - files) / 1024


def verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The design's targets for a CPU beside what was found."""
    found = {(r["op"], r["provider"], r["metric"]): float(r["q50"]) for r in rows}
    lines = []

    def line(what: str, value: float, limit: float, most: bool = False) -> None:
        met = value <= limit if most else value >= limit
        sign = "<=" if most else ">="
        lines.append(f"{what}: {value:.2f} ({sign} {limit:g}: {'met' if met else 'missed'})")

    for name, limits in TARGETS.items():
        if ("score-cam", name, "ms") not in found:
            continue
        ms = {p: found["score-cam", p, "ms"] for p in ("grad-cam", "torchcam", "torchcam-best")}
        peers = {
            "as they come": min(ms["grad-cam"], ms["torchcam"]),
            "torchcam-best": ms["torchcam-best"],
        }
        own = found["score-cam", name, "ms"]
        for peer, limit in limits.items():
            line(f"{name}, x faster than {peer}", peers[peer] / own, limit)
        if ("score-cam", name, "peak_mib") in found:
            mib = found["score-cam", name, "peak_mib"]
            line(f"{name}, MiB of a process's own", mib, MOST_MIB, most=True)
    if ("grad-cam", "ours", "ms") in found:
        ratio = found["grad-cam", "ours", "ms"] / found["grad-cam", "grad-cam", "ms"]
        line("Grad-CAM, share of grad-cam's time", ratio, MOST_OF_GRAD_CAM, most=True)
    return lines


def cpu_rows(size: int, rounds: int, fidelity: bool) -> Iterator[dict[str, Any]]:
    yield from grad_cam_rows(size, 3 * rounds)
    case = make_case(size, "layer1")
    yield from timed("score-cam", checked(case), case, rounds, warmup=0)
    for name in ("ours", "ours-bf16"):
        if name in sides(case):
            share = share_in_forward(sides(case)[name]())
            print(f"{name}: {share:.1%} of the engine's time in forward passes", flush=True)
    yield from memory_rows(size, case)
    if fidelity:
        low = torch.bfloat16 if has_fast_bfloat16() else torch.float32
        yield from fidelity_rows(make_case(size, "layer4"), low, DEEP_CHANNELS)


@pytest.mark.parametrize("peer", ["grad-cam", "torchcam", "torchcam-best"])
@pytest.mark.filterwarnings("ignore")
def test_score_cam(benchmark, peer):
    """64 channels."""
    case = make_case(QUICK_SIZE, "maxpool")
    theirs, recipe = sides(case)[peer](), peer.removesuffix("-best")
    check(peer, ours(case, recipe=recipe)(), theirs(), TOLERANCE)
    record_pair(benchmark, "ours", ours(case), peer, theirs, rounds=3, warmup=0)


@pytest.mark.filterwarnings("ignore")
def test_grad_cam(benchmark):
    case = make_case(QUICK_SIZE, "layer4")
    theirs = grad_cam_package(case, "GradCAM")
    record_pair(benchmark, "ours", our_grad_cam(case), "grad-cam", theirs, rounds=9)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help=f"on a CPU: {QUICK_SIZE} px, two rounds")
    add("--size", type=int, help="pixels of a side on a CPU (default: 224)")
    add("--rounds", type=int, help="timings of each side (default: 3, --quick 2, on a GPU 1)")
    add("--memory", choices=PROVIDERS, help="print the MiB that a process of this provider takes")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    args = parser.parse_args(arguments)
    if args.size is None:
        args.size = QUICK_SIZE if args.quick else SIZE
    if args.size < 64 or (args.rounds is not None and args.rounds < 1):
        parser.error(f"--rounds must be 1, --size 64 or more, got {args.rounds} and {args.size}")
    return args


def main() -> int:
    args = parse()
    if args.memory:
        own_memory(args.memory, args.size)
        return 0
    if torch.cuda.is_available():
        return score_cam_gpu.main(args)
    print(f"{torch.get_num_threads()} threads, {args.size} px")
    rounds = args.rounds or (2 if args.quick else 3)
    rows = list(cpu_rows(args.size, rounds, fidelity=not args.quick))
    full = args.size == SIZE
    path = write_rows("score_cam-cpu" if full else f"score_cam-cpu-{args.size}", rows, args.out)
    print("\n".join(verdicts(rows) if full else [f"the targets are for {SIZE} px"]))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
