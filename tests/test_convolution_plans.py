"""Who computes each convolution: the table, the rule, and the benchmark that fills the table."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "bench"))

pytest.importorskip("triton")

import convolution_layers  # noqa: E402
import convolution_plans as bench  # noqa: E402
from convolution_layers import Shape, all_shapes, shapes  # noqa: E402
from gpu_timing import Side  # noqa: E402
from hmc_fast.kernels import convolution_plans  # noqa: E402
from hmc_fast.kernels.configurations import ARCHITECTURES, Target  # noqa: E402
from hmc_fast.kernels.convolution_plans import (  # noqa: E402
    KEY,
    PROVIDERS,
    Layer,
    able,
    provider_for,
    table_rows,
)

sys.modules.pop("common", None)  # tests of pytest's options import a common.py of their own

ENTRY = Layer(100352, 256, 64, 1, bias=True, relu=True, residual=False)  # layer1, batch 32
EXIT = Layer(100352, 64, 256, 1, bias=True, relu=True, residual=True)
SHORTCUT = Layer(25088, 256, 512, 2, bias=False, relu=False, residual=False)
PROJECTION = Layer(6272, 1024, 1024, 1, bias=True, relu=False, residual=True)  # as in CA23
FEW = EXIT._replace(rows=49, channels_in=512, channels_out=2048)  # layer4, batch 1


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A function that writes a table and makes it the one in use."""

    def write(*rows):
        path = tmp_path / "plans.json"
        path.write_text(json.dumps(rows))
        monkeypatch.setattr(convolution_plans, "TABLE", path)
        convolution_plans._table.cache_clear()

    yield write
    convolution_plans._table.cache_clear()


def row(layer, provider, dtype="bfloat16", architecture=90):
    return dict(zip(KEY, (architecture, dtype, *layer.group), strict=True)) | {"provider": provider}


def test_who_can_do_a_layer_without_a_pass_over_its_result():
    assert able(ENTRY, "bfloat16") == ("cublaslt", "cudnn", "triton")
    assert able(EXIT, "bfloat16") == ("cudnn", "triton")  # no epilogue has a residual and ReLU
    assert able(SHORTCUT, "bfloat16") == ("cudnn", "triton")
    assert able(PROJECTION, "bfloat16") == ("triton",)  # cuDNN's sum ends in ReLU
    assert able(PROJECTION, "float64") == ("plain",)
    assert able(ENTRY._replace(bias=False), "bfloat16") == ("cudnn", "triton")


@pytest.mark.parametrize(
    ("layer", "dtype", "expected"),
    [
        (ENTRY, "bfloat16", "cublaslt"),
        (EXIT, "bfloat16", "cudnn"),  # 784 x 2 large tiles
        (FEW, "bfloat16", "triton"),  # 1 x 16
        (FEW, "float16", "triton"),
        (FEW, "float32", "cudnn"),
        (SHORTCUT, "bfloat16", "cudnn"),
        (SHORTCUT._replace(rows=784), "bfloat16", "triton"),
        (PROJECTION, "bfloat16", "triton"),
        (PROJECTION, "float32", "plain"),
    ],
)
def test_the_rule(layer, dtype, expected, table):
    table()
    assert provider_for(layer, dtype, 90, 132) == expected


@pytest.mark.parametrize(
    ("layer", "expected"), [(ENTRY, "cublaslt"), (FEW, "cudnn"), (PROJECTION, "plain")]
)
def test_without_triton_the_libraries_take_over(layer, expected, table):
    table(row(layer, "triton"))
    assert provider_for(layer, "bfloat16", 90, 132, triton=False) == expected


def test_the_table_decides_for_its_architecture_dtype_and_class_of_rows(table):
    table(row(EXIT, "triton"), row(ENTRY, "cudnn", "float16"))
    assert provider_for(EXIT, "bfloat16", 90, 132) == "triton"
    assert provider_for(EXIT._replace(rows=70_000), "bfloat16", 90, 132) == "triton"
    assert provider_for(EXIT._replace(rows=60_000), "bfloat16", 90, 132) == "cudnn"
    assert provider_for(EXIT, "float16", 90, 132) == "triton"  # bfloat16's, where it has none
    assert provider_for(EXIT, "bfloat16", 86, 48) == "cudnn"
    assert provider_for(ENTRY, "float16", 90, 132) == "cudnn"
    assert provider_for(ENTRY, "bfloat16", 90, 132) == "cublaslt"


def test_a_row_that_its_layer_cannot_follow_is_not_followed(table):
    table(row(EXIT, "cublaslt"))
    assert provider_for(EXIT, "bfloat16", 90, 132) == "cudnn"


def test_the_table_as_it_stands_can_be_followed():
    for line in table_rows():
        layer = Layer(*(line[name] for name in Layer._fields))
        assert line["architecture"] in ARCHITECTURES
        assert line["provider"] in able(layer, line["dtype"])
        assert line["evidence"] == "measured"
        assert layer.group == layer


def test_the_layers_of_the_networks():
    """ResNet50 has 53 convolutions: the stem, 16 of 3x3, 36 of 1x1."""
    counts = shapes("resnet50")
    assert sum(counts.values()) == 53
    assert sum(n for shape, n in counts.items() if shape.kernel == 3) == 16
    assert sum(n for shape, n in counts.items() if shape.residual) == 16
    exits = {s: n for s, n in counts.items() if s.layer(32) == EXIT}
    assert list(exits.values()) == [3]
    assert sum(shape.stride == 2 and shape.kernel == 1 for shape in counts) == 3
    assert set(shapes("resnet50")) < set(all_shapes())


@pytest.fixture
def small(monkeypatch, tmp_path):
    """On the CPU in float32: four tiny layers, every call takes 3 ms."""
    layers = [
        Shape(8, 6, 6, 16, 1, 1, True, True, False),
        Shape(8, 6, 6, 16, 1, 2, True, True, True),
        Shape(8, 6, 6, 8, 3, 2, True, True, False),
        Shape(1, 16, 16, 8, 7, 2, True, True, False, pool=True),
    ]
    monkeypatch.setattr(bench, "all_shapes", lambda: dict.fromkeys(layers, 1))
    monkeypatch.setattr(bench, "captured", lambda side: Side(side.call))
    monkeypatch.setattr(bench, "target_of", lambda device: Target(90, 132))
    for module in (bench, convolution_layers):
        monkeypatch.setattr(module, "DEVICE", "cpu")
        monkeypatch.setattr(module, "DTYPE", torch.float32)
    cuda = {name: convolution_layers.PROVIDERS["plain"] for name in PROVIDERS}
    monkeypatch.setattr(convolution_layers, "PROVIDERS", cuda)
    times = {"cublaslt": 20.0, "triton": 30.0, "cudnn": 40.0}
    turn = lambda sides, rounds: {name: [times[name]] * rounds for name in sides}  # noqa: E731
    monkeypatch.setattr(bench, "bursts_in_turn", turn)
    return SimpleNamespace(
        full=False, autotune=False, rounds=3, write=tmp_path / "plans.json", out=tmp_path
    )


def test_every_provider_is_timed_and_the_fastest_written(small, capsys):
    small.write.write_text(json.dumps([row(ENTRY, "cudnn")]))  # of another layer: it stays
    assert bench.measure(small) == 0
    assert "batch 1 1x1-stride1 6x6 8->16 bias+relu, us: cublaslt 2000.0" in capsys.readouterr().out
    (path,) = small.out.glob("convolutions-*.csv")
    assert len(path.read_text().splitlines()) == 1 + 2 * (3 + 2 + 2)
    found = {(r["rows"], r["stride"]): r for r in json.loads(small.write.read_text())}
    assert found.pop((131072, 1))["provider"] == "cudnn"
    assert {key: r["provider"] for key, r in found.items()} == {
        (2048, 1): "cublaslt", (512, 2): "triton", (64, 1): "cublaslt", (16, 2): "triton",
    }  # fmt: skip
    assert {r["evidence"] for r in found.values()} == {"measured"}


def test_a_wrong_or_failing_provider_is_not_timed(small, monkeypatch, capsys):
    wrong = {"cublaslt": lambda **given: -given["x"], "cudnn": lambda **given: 1 / 0}
    plain = convolution_layers.PROVIDERS["plain"]
    monkeypatch.setattr(convolution_layers, "PROVIDERS", {"triton": plain} | wrong)
    monkeypatch.setattr(convolution_layers, "able", lambda layer, dtype: tuple(wrong))
    first = Shape(8, 6, 6, 8, 1, 1, True, True, False)
    monkeypatch.setattr(bench, "all_shapes", lambda: {first: 1})
    assert bench.measure(small) == 1
    printed = capsys.readouterr().out
    assert "ArithmeticError: its relative error is" in printed
    assert "ZeroDivisionError: division by zero" in printed
    assert json.loads(small.write.read_text()) == []


def test_the_command_lists_without_a_gpu(monkeypatch, capsys):
    first = Shape(64, 56, 56, 256, 1, 1, True, True, True)
    monkeypatch.setattr(bench, "all_shapes", lambda: {first: 3})
    assert bench.main(["--list"]) == 0
    line = (
        " 3 x 1x1-stride1 56x56 64->256 bias+relu+residual       batch 32 cudnn, batch 1 triton\n"
    )
    assert capsys.readouterr().out == line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--architecture", "90"], "--architecture is for --list"),
        (["--lst"], "unrecognized arguments: --lst"),
    ],
)
def test_bad_use_is_one_sentence(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.parse(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error
    assert error.count("\n") == 1
