"""bench/kernel_resources.py and what it is made of: loops of machine code, rules, the time model.

Kernels are interpreted in this process where there is no GPU, so they are compiled in another one,
tests/compile_worker.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

import compile_matrix  # noqa: E402
import cross_compile  # noqa: E402
import kernel_resources  # noqa: E402
import time_model  # noqa: E402
from cross_compile import Dot, Resources  # noqa: E402
from hmc_fast.kernels import configurations  # noqa: E402
from inner_loop import InnerLoop, Part, inner_loop, multiply_adds, overlap  # noqa: E402
from sass import Code  # noqa: E402

LOOP = InnerLoop(
    products="HGMMA", number=6, warpgroup=4, exponentials=34, under=34, after=10, loads=0, stores=0,
    tail_spills=0, covered=200, once=Part(400, 0, 1e6), inside=Part(0, 0, 0),
)  # fmt: skip
GOOD = Resources("", 98304, (Dot(128, 256, 3, (8, 1)),), 250, 7, 9, LOOP)
S_PRODUCT = "HGMMA.64x64x16.F32.BF16 R152, gdesc[UR4], RZ, !UPT, gsb0"
V_PRODUCT = "HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8].tnspB, R24"
WAIT = "WARPGROUP.DEPBAR.LE gsb0, 0x0"
EXPONENTIAL = "MUFU.EX2 R5, R5"


def code_of(*lines: str) -> Code:
    """Machine code as nvdisasm prints it; lines that end in a colon are labels."""
    text = [
        line if line.endswith(":") else f"        /*{16 * n:04x}*/        {line} ;"
        for n, line in enumerate(lines)
    ]
    return Code("\n".join([".text.kernel:", *text]))


def test_a_retry_behind_the_function_makes_no_larger_loop():
    code = code_of(
        "MOV R1, R2", ".L_x_0:", "HMMA.16816.F32 R1, R2, R3, R1", EXPONENTIAL,
        "SYNCS.PHASECHK.TRANS64.TRYWAIT P2, [UR9], R0", "@!P2 BRA `(.L_x_9)", ".L_x_1:",
        "BRA.U UP0, `(.L_x_0)", "STL [R1], R0", "EXIT", ".L_x_9:", "SYNCS.TRYWAIT P2, [UR9], R0",
        "@!P2 BRA `(.L_x_9)", "BRA `(.L_x_1)",
    )  # fmt: skip
    found = inner_loop(code, exponentials=True)
    assert (found.number, found.exponentials, found.stores) == (1, 1, 0)
    assert found.once.instructions == 5 + 3  # the retry belongs to the loop, the epilogue does not
    assert code.count()["STL"] == 1


def test_a_loop_that_is_left_by_a_call_is_a_loop():
    """As ptxas writes it for large bodies; a called function's name is no label of the kernel."""
    code = code_of(
        ".L_x_0:", "FFMA R1, R2, R3, R1", EXPONENTIAL, ".L_x_1:", "FFMA R1, R2, R3, R1",
        "CALL.REL.NOINC `($kernel$__internal_0)", "@!P0 CALL.REL.NOINC `(.L_x_2)",
        "BRA `(.L_x_1)", ".L_x_2:", "@P1 CALL.REL.NOINC `(.L_x_3)", "BRA `(.L_x_0)", ".L_x_3:",
        "EXIT",
    )  # fmt: skip
    assert sorted(len(loop.body) for loop in code.loops) == [4, 8]
    assert inner_loop(code, exponentials=True).number == 2


def test_spills_are_those_of_the_large_tile_and_the_tail_has_its_own():
    large = [".L_x_0:", *["HMMA.16816.F32 R1, R2, R3, R1"] * 8, EXPONENTIAL, "LDL R0, [R1]"]
    small = [
        ".L_x_1:",
        "HMMA.16816.F32 R1, R2, R3, R1",
        EXPONENTIAL,
        "STL [R1], R0",
        "LDL R2, [R1]",
    ]
    code = code_of(*large, "@P0 BRA `(.L_x_0)", *small, "@P0 BRA `(.L_x_1)", "LDL R3, [R1]", "EXIT")
    found = inner_loop(code, exponentials=True)
    assert (found.number, found.loads, found.stores, found.tail_spills) == (8, 1, 0, 2)


def test_a_loop_inside_counts_apart():
    """Its turns follow from the multiply-adds: 2048 once and 4 x 2048 inside."""
    code = code_of(
        ".L_x_0:", "HMMA.16816.F32 R1, R2, R3, R1", ".L_x_1:", "LDSM.16.M88.4 R2, [R7]",
        "HMMA.16816.F32 R1, R2, R3, R1", "@P0 BRA `(.L_x_1)", EXPONENTIAL, "@P1 BRA `(.L_x_0)",
        "EXIT",
    )  # fmt: skip
    found = inner_loop(code, exponentials=True)
    assert (found.number, found.exponentials) == (2, 1)
    assert (found.once, found.inside) == (Part(3, 0, 2048), Part(3, 1, 2048))
    assert time_model.turns_inside(found, 5 * 2048) == 4
    assert time_model.turns_inside(LOOP, 1e9) == 1


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24", 64 * 256 * 16 / 4),
        ("HMMA.16816.F32 R1, R2, R3, R1", 16 * 8 * 16),
        ("HMMA.1688.F32.TF32 R1, R2, R3, R1", 16 * 8 * 8),
        ("FFMA R1, R2, R3, R1", 32),
        ("FADD R1, R2, R3", 0),
    ],
)
def test_multiply_adds_of_a_warp(instruction, expected):
    assert multiply_adds(code_of(instruction).instructions) == expected


def test_without_a_loop_there_is_none_unless_its_only_turn_was_unrolled():
    code = code_of("HMMA.16816.F32 R1, R2, R3, R1", EXPONENTIAL, "LDL R0, [R1]", "EXIT")
    assert inner_loop(code, exponentials=True) is None
    whole = inner_loop(code, exponentials=False)
    assert (whole.number, whole.once.instructions, whole.loads) == (1, 4, 0)


def test_without_tensor_cores_the_loop_multiplies_by_ffma():
    code = code_of(
        ".L_x_0:", *["FFMA R1, R2, R3, R1"] * 5, EXPONENTIAL, "@P0 BRA `(.L_x_0)", "EXIT"
    )
    found = inner_loop(code, exponentials=True)
    assert (found.products, found.number) == ("FFMA", 5)


OVERLAPS = {
    "rotated": ([S_PRODUCT, WAIT, f"{V_PRODUCT}, gsb0", EXPONENTIAL, EXPONENTIAL, WAIT], (2, 2)),
    "between": ([S_PRODUCT, WAIT, V_PRODUCT, EXPONENTIAL, f"{V_PRODUCT}, gsb0", WAIT], (1, 0)),
    "usual order": ([S_PRODUCT, WAIT, EXPONENTIAL, f"{V_PRODUCT}, gsb0", WAIT], (0, 0)),
    "awaited next": ([EXPONENTIAL, WAIT, EXPONENTIAL, f"{V_PRODUCT}, gsb0"], (1, 1)),
    "one may run": (
        [S_PRODUCT, f"{V_PRODUCT}, gsb0", "WARPGROUP.DEPBAR.LE gsb0, 0x1", EXPONENTIAL, WAIT],
        (1, 1),
    ),
}


@pytest.mark.parametrize("order", OVERLAPS)
def test_exponentials_between_issue_and_wait_are_counted(order):
    lines, expected = OVERLAPS[order]
    assert overlap(code_of(*lines).instructions)[:2] == expected


def test_layouts_are_read_from_the_gpu_dialect():
    ttgir = """
#mma = #ttg.nvidia_mma<{versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 8], instrShape = []}>
#mma1 = #ttg.nvidia_mma<{versionMajor = 3, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = []}>
#blocked = #ttg.blocked<{sizePerThread = [1, 8], warpsPerCTA = [1, 8], order = [1, 0]}>
  %1 = tt.dot %a, %b, %c : tensor<128x64xbf16, #d> * tensor<64x256xbf16, #e> -> tensor<128x256xf32, #mma>
  %2 = ttng.warp_group_dot %a, %b, %c : !x * !y -> tensor<64x32xf32, #mma1> loc(#loc)
  %3 = tt.dot %a, %b, %c : tensor<32x32xf32, #d> * tensor<32x16xf32, #e> -> tensor<32x16xf32, #blocked>
  ttng.tc_gen5_mma %a, %b, %c[%t] {is_async} : !ttg.memdesc<128x32xbf16, #s, #smem>, !ttg.memdesc<32x64xbf16, #s, #smem>, !ttg.memdesc<128x64xf32, #tmem, #m, mutable>, !ttg.memdesc<1xi64, #s, #smem>
"""  # noqa: E501
    assert cross_compile.dots_of(ttgir) == (
        Dot(128, 256, 2, (1, 8)), Dot(64, 32, 3, (8, 1)), Dot(32, 16, 0, (0, 0)),
        Dot(128, 64, 5, (0, 0)),
    )  # fmt: skip


BROKEN = {
    "shared memory 101377 of 101376": (GOOD._replace(shared=101377), 86),
    "128x256 product laid out as [1, 8]": (GOOD._replace(dots=(Dot(128, 256, 2, (1, 8)),)), 86),
    "64x64 product laid out as [1, 4]": (GOOD._replace(dots=(Dot(64, 64, 2, (1, 4)),)), 120),
    "spills in the inner loop: 1 LDL, 0 STL": (GOOD._replace(loop=LOOP._replace(loads=1)), 80),
    "spills in the inner loop: 0 LDL, 2 STL": (GOOD._replace(loop=LOOP._replace(stores=2)), 100),
    "no loop with products and exponentials": (GOOD._replace(loop=None), 89),
    "no HGMMA in the inner loop": (GOOD._replace(loop=LOOP._replace(products="HMMA")), 90),
    "serialised: 12 WARPGROUP for 6 HGMMA": (GOOD._replace(loop=LOOP._replace(warpgroup=12)), 90),
    "does not compile: PTXASError: ptxas fatal": (Resources("PTXASError: ptxas fatal"), 90),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_rule_can_be_broken(rule):
    found, architecture = BROKEN[rule]
    (told,) = kernel_resources.failures(found, architecture, "bfloat16")
    assert told.startswith(rule)


@pytest.mark.parametrize(
    ("found", "architecture", "dtype"),
    [
        (GOOD, 90, "bfloat16"),
        (GOOD._replace(dots=(Dot(16, 128, 2, (1, 8)),)), 86, "float16"),  # the tail's tile
        (GOOD._replace(dots=(Dot(128, 64, 0, (1, 8)),)), 86, "float32"),  # no tensor cores
        (GOOD._replace(loop=LOOP._replace(products="FFMA")), 90, "float32"),
        (Resources("", 1024, (), 32, 4, 4, None), 90, "bfloat16"),  # a kernel without products
    ],
)
def test_what_is_allowed_passes(found, architecture, dtype):
    assert kernel_resources.failures(found, architecture, dtype) == []


def make_row(**arguments) -> kernel_resources.Row:
    """A row of the network's first block, of a kernel that nobody compiles."""
    kernel = SimpleNamespace(__name__="forward_stream")
    launch = SimpleNamespace(
        kernel=kernel, programs=800, arguments=arguments, num_warps=8, num_stages=2
    )
    case = kernel_resources.Case(32, 3136, 32, 256, True, "forward")
    compilation = cross_compile.Compilation("m", "forward_stream", {}, {}, {}, {}, 90)
    return kernel_resources.Row(case, "bfloat16", 90, launch, compilation)


WORSE = {
    "registers 251, were 250": GOOD._replace(registers=251),
    "loads 8, were 7": GOOD._replace(loads=8),
    "stores 11, were 9": GOOD._replace(stores=11),
    "27 exponentials under a product, were 34": GOOD._replace(loop=LOOP._replace(under=27)),
    "3 spills in the loop of the last rows": GOOD._replace(loop=LOOP._replace(tail_spills=3)),
}


@pytest.mark.parametrize("warning", WORSE)
def test_worse_than_the_golden_file_is_a_warning(warning, tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_resources, "GOLDEN", tmp_path / "golden")
    row = make_row(BLOCK_M=128, BLOCK_N=64, BLOCK_DV=256)
    kernel_resources.write_golden([row], [GOOD], complete=True)
    kept = kernel_resources.read_golden()[row.name]
    assert kernel_resources.warnings(row, WORSE[warning], kept) == [warning]
    assert kernel_resources.warnings(row, GOOD._replace(registers=249), kept) == []
    other_tile = make_row(BLOCK_M=64, BLOCK_N=64, BLOCK_DV=256)
    assert kernel_resources.warnings(other_tile, GOOD._replace(registers=255), kept) == []


def test_a_part_is_written_into_the_golden_file_and_all_replace_it(tmp_path, monkeypatch):
    monkeypatch.setattr(kernel_resources, "GOLDEN", tmp_path / "golden")
    first = make_row(BLOCK_M=128)
    second = first._replace(architecture=86)
    kernel_resources.write_golden([first], [GOOD], complete=True)
    kernel_resources.write_golden([second], [GOOD._replace(registers=99)], complete=False)
    kept = kernel_resources.read_golden()
    assert {name: line["registers"] for name, line in kept.items()} == {
        first.name: "250",
        second.name: "99",
    }
    failed = Resources("it does not compile")
    kernel_resources.write_golden([first, second], [failed, GOOD], complete=True)
    assert list(kernel_resources.read_golden()) == [second.name]


def test_the_model_gives_the_clocks_of_the_study():
    """By hand: 128x64 scores times 288 columns are 1440 clocks at 0.8 of 4096 FLOP a clock."""

    def clocks(tensor, products, exponentials, instructions, loads, warps, together):
        once = Part(instructions, loads, 1e6)
        loop = LOOP._replace(products=products, exponentials=exponentials, once=once, covered=0)
        return time_model.clocks_of(tensor, loop, 1, warps, together)

    assert clocks(1440, "HGMMA", 34, 393, 0, 8, 1) == 1440 + 0.75 * 786 + 200
    two = clocks(800, "HGMMA", 68, 581, 0, 4, 2)
    assert two == pytest.approx(800 + 0.12 * (581 + 544))
    without = clocks(2844, "HMMA", 34, 385, 42, 8, 1)
    assert without == pytest.approx(2844 + 0.12 * (770 + 544 + 1344))


def test_the_model_counts_rounds_and_tail_tiles():
    """7 rounds of 49 iterations of 2230 clocks at 1.83 GHz are 418 us; 784 = 6 x 128 + 16 rows."""
    q = torch.empty(32, 3136, 32, dtype=torch.bfloat16, device="meta")
    row = make_row(
        q_ptr=q, tokens_q=3136, tokens_k=3136, keys_per_split=3136, D_QK=32, D_V=256, BLOCK_DK=32,
        BLOCK_M=128, BLOCK_N=64, BLOCK_DV=256,
    )  # fmt: skip
    loop, card = LOOP._replace(once=Part(393, 0, 1e6), covered=0), time_model.CARDS[90]
    found = time_model.estimate(row.launch, loop, 255, 118784, card)
    assert found.seconds == pytest.approx(418e-6 + 2.5e-6, rel=0.01)
    assert found.share == pytest.approx(181.3e9 / 420.5e-6 / 990e12, rel=0.01)
    row.launch.arguments.update(tokens_q=784, TAIL_M=16)
    row.launch.programs = 448
    assert time_model.equal_programs(row.launch) == 448 * (6 + 16 / 128) / 7


@pytest.mark.parametrize(("options", "code"), [(["--check"], 1), ([], 0)])
def test_only_check_turns_a_broken_rule_into_an_exit_code(options, code, monkeypatch, capsys):
    row = make_row(BLOCK_M=128, BLOCK_N=64, BLOCK_DV=256)
    spilling = GOOD._replace(loop=LOOP._replace(loads=5))
    monkeypatch.setattr(kernel_resources, "choose", lambda parser, args: [row])
    monkeypatch.setattr(kernel_resources, "compile_all", lambda c, jobs, sass: [(key, spilling)])
    monkeypatch.setattr(kernel_resources, "cells", lambda row, found: ("forward_stream",) * 17)
    key = row.compilation.key
    assert kernel_resources.main(options) == code
    assert "FAILURE: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "TRITON_INTERPRET is set"),
        (["--architecture", "75"], "invalid choice: 75"),
        (["--jobs", "0"], "--jobs is at least 1, not 0"),
        (["--shape", "1,2,3"], "no kernel of these cases has that shape and name"),
        (["--compile-only", "--write-golden"], "--write-golden needs the machine code"),
    ],
)
def test_bad_use_is_one_sentence_and_exit_2(options, told, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "0" if options else "1")
    with pytest.raises(SystemExit) as stopped:
        kernel_resources.main(options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert told in error
    assert error.count("\n") == 1


def launched(case: compile_matrix.Case, dtype: str, architecture: int) -> set[tuple]:
    """Kernels and tiles that a case starts, as rows of the table."""
    processors = time_model.CARDS[architecture].processors
    target = configurations.Target(architecture, processors)
    sizes = (configurations.power_of_two(case.d_qk), configurations.power_of_two(case.d_v))
    found = set()
    for launch in compile_matrix.launches(case, getattr(torch, dtype), target):
        a = {"BLOCK_N": None, "BLOCK_DV": None, "ROTATED": False} | launch.arguments
        tile = tuple(a.get(f"BLOCK_{size}") for size in ("M", "N", "DV"))
        tile = (*tile, launch.num_warps, launch.num_stages, a["ROTATED"])
        found.add((launch.kernel.fn.__name__, *sizes, dtype, architecture, *tile))
    return found


def test_every_row_of_the_table_is_compiled():
    compiled = {
        row
        for case in compile_matrix.cases()
        for dtype in ("bfloat16", "float32")
        for architecture in configurations.ARCHITECTURES
        if compile_matrix.applies(case, dtype, architecture)
        for row in launched(case, dtype, architecture)
    }
    fields = ("d_qk", "d_v", "dtype", "architecture", *configurations.Tile._fields[:6])
    table = {
        (row["kernel"].removesuffix("_few"), *(row[field] for field in fields))
        for row in configurations.rows()
    }
    assert table <= compiled


@pytest.fixture(scope="module")
def compiled() -> SimpleNamespace:
    """What compile_worker.py found in a process that compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("compile_worker.py"))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(**json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("tile", "told"),
    [
        ("wide values", "64x128 product laid out as [1, 4]"),
        ("too many stages", "shared memory 114688 of 101376 bytes"),
        ("four warps", "spills in the inner loop: "),
    ],
)
def test_known_bad_tiles_are_caught(compiled, tile, told):
    assert any(failure.startswith(told) for failure in compiled.broken[tile])


def test_an_error_of_the_compiler_is_one_line(compiled):
    (told,) = compiled.broken["too many warps"]
    assert told.startswith("does not compile: PTXASError: ptxas")
    assert "Insufficient registers" in told
    assert "\n" not in told


@pytest.mark.parametrize("tile", ["sm_86", "rotated", "not rotated"])
def test_good_tiles_pass(compiled, tile):
    assert compiled.broken[tile] == []


def test_rotation_puts_the_exponentials_under_the_value_product(compiled):
    under, exponentials = compiled.under["rotated"]
    assert under >= 0.8 * exponentials
    assert compiled.under["not rotated"][0] <= 0.2 * exponentials


def test_arguments_are_specialised_as_when_a_kernel_starts(compiled):
    divisible = [["tt.divisibility", 16]]
    assert compiled.specialised == {
        "partial_ptr": ["*bf16", None, divisible],
        "dq_ptr": ["*bf16", None, []],  # two bytes further
        "elements": ["i64", None, divisible],
        "runs": ["constexpr", 1, []],
        "scale": ["fp32", None, []],
        "BLOCK": ["constexpr", 1024, []],
    }


def test_a_compiler_that_dies_costs_one_kernel(compiled):
    assert compiled.died == ["", "the compiler ended its process"]


def test_the_command_prints_a_table_and_compares_with_its_golden_file(compiled):
    codes, lines = compiled.command
    assert codes == [0, 0]
    table = [line.split() for line in lines if line.startswith("86")]
    assert [line[7] for line in table] == ["row_statistics"] * 4  # batch 32 and 1, two runs
    assert lines.count("0 failures") == 2
    assert sum("have no golden figures" in line for line in lines) == 1  # before it was written
