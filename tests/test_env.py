"""`hmc-fast env` and the environment that runs and timings record."""

import json
import os
import platform
import subprocess
from importlib.metadata import version
from types import SimpleNamespace

import pytest
import torch

from hmc_fast import environment
from hmc_fast.cli import env
from hmc_fast.cli.arguments import Parser

XEON = "processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16\n"
OLD = "processor\t: 0\nmodel name\t: Some Core\nflags\t\t: fpu sse2 avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


def run_env(*flags):
    parser = Parser(prog="hmc-fast")
    env.add_parser(parser.add_subparsers())
    args = parser.parse_args(["env", *flags])
    return args.run(args)


def test_json_holds_versions_and_machine(capsys):
    assert run_env("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["python"] == platform.python_version()
    assert found["packages"]["torch"] == version("torch")
    assert found["packages"]["scikit-learn"] == version("scikit-learn")
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert 1 <= found["cpu"]["cores"] <= os.cpu_count()
    assert found["memory_gib"] > 0


def test_lines_name_everything_and_the_next_command(capsys):
    assert run_env() == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines]
    assert {"hmc_fast", "torch", "cpu.model", "cpu.bf16", "cuda.version"} <= set(names)
    assert lines[-1] == "next: hmc-fast train"


def test_rows_flatten_and_name_nothing_none():
    values = {"a": None, "b": {"c": [], "d": [1, 2]}, "packages": {"torch": "2"}, "e": [{"f": 1}]}
    assert list(env.rows(values)) == [
        ("a", "none"),
        ("b.c", "none"),
        ("b.d", "1, 2"),
        ("torch", "2"),
        ("e", "0: f 1"),
    ]


@pytest.mark.parametrize(
    ("cpuinfo", "model", "bf16"),
    [
        (XEON, "Some Xeon", ["avx512_bf16", "amx_bf16"]),
        (OLD, "Some Core", []),
        (ARM, platform.machine(), ["bf16"]),
        ("", platform.machine(), []),
    ],
)
def test_processor_is_read_from_cpuinfo(cpuinfo, model, bf16):
    assert environment.cpu_model(cpuinfo) == model
    assert environment.cpu_bf16(cpuinfo) == bf16


def test_gpus_are_listed_with_capability_and_memory(monkeypatch):
    card = SimpleNamespace(name="Card", major=9, minor=0, total_memory=80 * 1024**3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    device = {"name": "Card", "capability": "9.0", "memory_gib": 80.0}
    assert environment.cuda() == {"version": torch.version.cuda, "devices": [device, device]}


def test_package_that_is_not_installed_is_none():
    assert environment.package_version("no-such-distribution") is None


def test_commit_is_gits_and_says_when_files_differ(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert environment.commit(tmp_path) is None
    git("init", "--quiet")
    assert environment.commit(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "-m", "one")
    git("tag", "v1")
    assert environment.commit(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert environment.commit(tmp_path) == git("rev-parse", "HEAD") + "-dirty"


def test_commit_is_none_without_git(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", "")
    assert environment.commit(tmp_path) is None
