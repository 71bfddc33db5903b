"""Score-CAM of hmc on a GPU: 2048 channels of layer4, 224 px, ours in bf16 beside both packages.

    ours                 score_cam of the optimised network, its CUDA graph of BATCH images
    ours-plain           score_cam of the plain network with dtype=bfloat16: a call folds it
    torchcam-optimised   torchcam on the optimised network, at the same batch
    grad-cam, torchcam   as they come: the float32 network, batches of 16 and 32
    forward              the optimised network alone, so many batches as ours takes

The packages' recipes are computed in float32, without TF32, on both sides and compared before
anything is timed. Milliseconds are of a whole map; rows are written when all are measured. Then
the approximations against the exact map, in bf16. One timing of each unless --rounds says more, and
MORE of the short ones: under a minute.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attention_gpu import INTERNALS, merge_rows
from common import describe, environment_columns, in_turn, quantiles, row
from gpu_timing import check_alive, slug
from hmc_fast import optimize_for_inference
from inference_cases import SIZE
from score_cam_measures import fidelity_rows
from score_cam_peers import (
    LOW,
    Call,
    Case,
    check,
    difference,
    grad_cam_package,
    make_case,
    ours,
    torchcam_package,
)

DEVICE = "cuda"
BATCH = 256
CHANNELS = 2048
DTYPE = torch.bfloat16
CLOSE = 1e-3  # of maps in float32, whose 2048 logits a GPU sums in another order
TARGETS = {  # over ours: what it must reach
    "grad-cam": 10.0,
    "torchcam": 6.0,
    "torchcam-optimised": 1.05,
}
SHORT, MORE = ("ours", "forward", "torchcam-optimised"), 5
SHARE = 0.95  # of the optimised network's own rate


def optimised(case: Case, grayscale: bool) -> Case:
    """The same with the optimised network, whose graph takes BATCH images."""
    model = optimize_for_inference(case.model, dtype=DTYPE, grayscale=grayscale, batch_size=BATCH)
    return case._replace(model=model)


def forward_alone(case: Case) -> Call:
    """As many forward passes as 2048 masks take; the grey network gets one channel."""
    grey = getattr(case.model, "grayscale", False)
    image = case.image[:, :1] if grey else case.image
    images = image.expand(BATCH, -1, -1, -1).contiguous()

    @torch.no_grad()
    def call() -> Tensor:
        for _ in range(math.ceil(CHANNELS / BATCH)):
            logits = case.model(images)
        return logits

    return call


def sides(case: Case) -> dict[str, Callable[[], Call]]:
    """Who is timed, and how it is made."""
    fast = optimised(case, grayscale=True)
    return {
        "ours": lambda: ours(fast),
        "forward": lambda: forward_alone(fast),
        "ours-plain": lambda: ours(case, DTYPE),
        "torchcam-optimised": lambda: torchcam_package(
            optimised(case, grayscale=False), BATCH, layer=f"net.{case.layer}"
        ),
        "torchcam": lambda: torchcam_package(case),
        "grad-cam": lambda: grad_cam_package(case),
    }


def attempt(name: str, make: Callable[[], Any]) -> Any:
    """What it makes, or None with the reason printed: nobody takes the others down."""
    try:
        return make()
    except Exception as error:
        check_alive(error)
        first = INTERNALS.sub("", str(error)).partition("\n")[0]
        print(f"{name}: {type(error).__name__}: {first}", flush=True)
        return None


def compare_in_float32(case: Case) -> None:
    """Both packages against their recipes."""
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        peers = {"grad-cam": grad_cam_package(case), "torchcam": torchcam_package(case)}
        for name, peer in peers.items():
            check(f"{name}, float32", ours(case, recipe=name)(), peer(), CLOSE)
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def first_calls(case: Case) -> tuple[dict[str, Call], dict[str, float]]:
    """The calls of those that run and are right, warm, and the MiB that each takes of the GPU."""
    calls, memory, exact = {}, {}, ours(case)()

    def first(name: str, make: Callable[[], Call]) -> Call:
        call = make()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        memory[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
        if name != "forward":  # grad-cam's masks are others: its recipe was compared in float32
            print(f"{name}: max |Δ| to ours in float32 {difference(result, exact):.2g}", flush=True)
        if "ours" in name or "optimised" in name:
            check(name, result, exact, LOW)
        return call

    for name, make in sides(case).items():
        call = attempt(name, lambda name=name, make=make: first(name, make))
        if call is not None:
            calls[name] = call
    return calls, memory


def a_row(name: str, metric: str, values: Sequence[float]) -> dict[str, Any]:
    dtype = torch.float32 if name in ("grad-cam", "torchcam") else DTYPE
    return row(
        "score-cam", name, "forward", metric, values, batch=1, n=SIZE, d_qk=0, d_v=CHANNELS,
        dtype=dtype,
    )  # fmt: skip


def verdicts(ms: Mapping[str, float]) -> list[str]:
    """The design's targets for a GPU beside what was found."""
    if "ours" not in ms:
        return ["ours was not timed"]
    lines = []
    for name, limit in TARGETS.items():
        if name not in ms:
            lines.append(f"x faster than {name}: not measured")
            continue
        ratio = ms[name] / ms["ours"]
        word = "met" if ratio >= limit else "missed"
        lines.append(f"x faster than {name}: {ratio:.2f} (>= {limit:g}: {word})")
    if "forward" in ms:
        share = ms["forward"] / ms["ours"]
        word = "met" if share >= SHARE else "missed"
        lines.append(f"of the network's own forward rate: {share:.3f} (>= {SHARE:g}: {word})")
    return lines


def main(args: argparse.Namespace) -> int:
    """Compare, measure, write, print targets; 1 where ours did not run."""
    case = make_case(SIZE, "layer4", DEVICE)
    attempt("comparison", lambda: compare_in_float32(case))
    calls, memory = first_calls(case)
    times = in_turn(calls, args.rounds or 1, warmup=0)
    short = {name: call for name, call in calls.items() if name in SHORT}
    for side, values in in_turn(short, MORE, warmup=0).items():
        times[side] += values
    rows = [a_row(name, "peak_mib", [memory[name]]) for name in calls]
    for name, values in times.items():
        print(f"score-cam: {describe(name, quantiles(values))}", flush=True)
        rows.append(a_row(name, "ms", values))
    fast = optimised(case, grayscale=True)
    rows += attempt("fidelity", lambda: list(fidelity_rows(fast, DTYPE, CHANNELS))) or []
    name = f"score_cam-{slug(environment_columns()['gpu'])}"
    path = merge_rows(name, rows, args.out)
    print("\n".join(verdicts({side: quantiles(values)["q50"] for side, values in times.items()})))
    print(path)
    return int("ours" not in times)
