"""Compiles known good and bad launches for tests/test_kernel_resources.py; prints what was found as
JSON. A process of its own: there kernels are compiled, not interpreted."""

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "bench"))

import kernel_resources
from cross_compile import Compilation, Resources, build, compile_all, specialise
from hmc_fast.kernels.attention_backward import sum_partials
from hmc_fast.kernels.attention_forward import forward_launches
from hmc_fast.kernels.configurations import Target, Tile
from hmc_fast.kernels.tiles import Launch
from kernel_resources import failures

BAD = {  # architecture and tile of the streaming forward kernel, at the network's first block
    "wide values": (86, Tile(64, 64, 128, 4, 2)),
    "too many stages": (86, Tile(64, 64, 64, 4, 10)),
    "four warps": (86, Tile(128, 64, 128, 4, 2)),
    "too many warps": (90, Tile(256, 64, 256, 16, 2)),
}
GOOD = {
    "sm_86": (86, Tile(128, 64, 128, 8, 2)),
    "rotated": (90, Tile(128, 64, 256, 8, 2, rotated=True)),
    "not rotated": (90, Tile(128, 64, 256, 8, 2)),
}


def compile_tile(architecture: int, tile: Tile) -> Resources:
    """128 divides the tokens: no tail."""
    q, v = (torch.empty(2, 3072, n, dtype=torch.bfloat16, device="meta") for n in (32, 256))
    target = Target(architecture, 2)
    launches, _ = forward_launches(q, q, v, None, None, 0.1, keep=False, target=target, tile=tile)
    return build(specialise(launches[0], architecture))


def specialised() -> dict[str, list[object]]:
    """Type, value of constants and attributes of each argument."""
    memory = torch.empty(64, dtype=torch.bfloat16, device="meta")
    arguments = {
        "partial_ptr": memory, "dq_ptr": memory[1:], "elements": 2**33, "runs": 1, "scale": 0.5,
        "BLOCK": 1024,
    }  # fmt: skip
    found = specialise(Launch(sum_partials, 1, arguments, 4, 1), 90)
    places = {name: (index,) for index, name in enumerate(found.signature)}
    return {
        name: [found.signature[name], found.constants.get(at), found.attributes.get(at) or []]
        for name, at in places.items()
    }


def died() -> list[str]:
    """Errors of a kernel, and of one whose compiler ends its process."""
    sys.path.append(str(Path(__file__).resolve().parent))  # the workers look there too
    memory = torch.empty(64, dtype=torch.bfloat16, device="meta")
    arguments = {"partial_ptr": memory, "dq_ptr": memory, "elements": 64, "runs": 7, "scale": 0.5}
    good = specialise(Launch(sum_partials, 1, arguments | {"BLOCK": 1024}, 4, 1), 86)
    bad = Compilation("dying_compiler", "kernel", {}, {}, {}, {}, 86)
    found = dict(compile_all([bad, good], jobs=1))
    return [found[good.key].error, found[bad.key].error]


def command() -> list[object]:
    """Exit codes and lines of the command for a small kernel on one architecture: it writes the
    golden file, then compares with it."""
    options = ["--check", "--kernel=row_statistics", "--shape=784,64,512", "--jobs=1"]
    options += ["--architecture", "86", "--dtype", "bfloat16"]
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        kernel_resources.GOLDEN = Path(folder) / "golden"
        codes = [kernel_resources.main([*options, *more]) for more in (["--write-golden"], [])]
    return [codes, printed.getvalue().splitlines()]


def main() -> None:
    resources = {name: compile_tile(*tile) for name, tile in (BAD | GOOD).items()}
    tiles = {name: tile[0] for name, tile in (BAD | GOOD).items()}
    broken = {name: failures(resources[name], tiles[name], "bfloat16") for name in tiles}
    loops = {name: resources[name].loop for name in GOOD}
    under = {name: [loop.under, loop.exponentials] for name, loop in loops.items() if loop}
    found = {"broken": broken, "under": under, "specialised": specialised(), "died": died()}
    print(json.dumps(found | {"command": command()}))


if __name__ == "__main__":
    main()
