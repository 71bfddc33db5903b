"""Importing hmc_fast: this tree's kernels, nobody else's; one sentence where it cannot work."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hmc_fast import _checks

ROOT = Path(__file__).resolve().parent.parent
NMS = "operator torchvision::nms does not exist"
CURE = "pip install --force-reinstall torch torchvision"


def run(*arguments, path=(), cwd):
    """A fresh interpreter with `path` in front of everything installed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)


@pytest.fixture
def bare_tree(tmp_path):
    """A checkout with the files that an import reads before it refuses."""
    tree = tmp_path / "tree"
    (tree / "hmc_fast").mkdir(parents=True)
    for name in ("pyproject.toml", "train.py", "hmc_fast/__init__.py", "hmc_fast/_checks.py"):
        shutil.copy(ROOT / name, tree / name)
    (tree / "kernels").mkdir()
    for name in _checks.KERNEL_FILES:
        (tree / "kernels" / name).touch()
    (tree / "hmc_fast" / "kernels").symlink_to("../kernels")
    return tree


@pytest.fixture
def fake_torch(tmp_path):
    """A folder with a torch and a torchvision that fail at import as mismatched builds do."""
    folder = tmp_path / "fake"
    bodies = {"torch": "", "torchvision": f"raise RuntimeError({NMS!r})\n"}
    for name, number in (("torch", "2.14.1+cpu"), ("torchvision", "0.29.1+cu130")):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(bodies[name])
        metadata = folder / f"{name}-{number}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    return folder


def last_line(result):
    return result.stderr.strip().splitlines()[-1]


def test_mismatched_torchvision_is_one_sentence_with_versions_and_cure(bare_tree, fake_torch):
    result = run("-c", "import hmc_fast", path=(bare_tree, fake_torch), cwd="/")
    assert result.returncode == 1
    line = last_line(result)
    assert line.startswith("ImportError: torch 2.14.1+cpu and torchvision 0.29.1+cu130 ")
    assert NMS in line
    assert CURE in line


@pytest.mark.parametrize("front", ["hmc-fast", "train.py", "-m"])
def test_command_lines_print_the_sentence_and_exit_with_2(bare_tree, fake_torch, front, tmp_path):
    script = tmp_path / "hmc-fast"
    script.write_text("import sys\nfrom hmc_fast.cli import main\nsys.exit(main())\n")
    fronts = {"hmc-fast": [script], "train.py": [bare_tree / front], "-m": ["-m", "hmc_fast.cli"]}
    result = run(*fronts[front], "--version", path=(bare_tree, fake_torch), cwd="/")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert CURE in result.stderr


def test_missing_torch_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert _checks.torch_problem() == (
        "torchvision is not installed: run `pip install torch torchvision`"
    )


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError, AttributeError])
def test_every_way_torchvision_fails_is_recognised(monkeypatch, error):
    def fail(name):
        if name == "torchvision":
            raise error("undefined symbol: _ZN3c10\nand a stack")

    monkeypatch.setattr(_checks, "import_module", fail)
    problem = _checks.torch_problem()
    assert "(undefined symbol: _ZN3c10)" in problem
    assert CURE in problem


def test_windows_is_sent_to_wsl2():
    assert "WSL2" in _checks.platform_problem("win32")
    assert _checks.platform_problem("linux") is None


@pytest.mark.parametrize("damage", ["no link", "link as a text file", "a copy", "an empty folder"])
def test_checkout_without_its_own_kernels_refuses(bare_tree, fake_torch, damage):
    link = bare_tree / "hmc_fast" / "kernels"
    link.unlink()
    if damage == "link as a text file":
        link.write_text("../kernels")
    elif damage == "a copy":
        shutil.copytree(bare_tree / "kernels", link)
    elif damage == "an empty folder":
        link.mkdir()
    result = run("-c", "import hmc_fast", path=(bare_tree, fake_torch), cwd="/")
    assert result.returncode == 1
    assert last_line(result).startswith(f"ImportError: {link} ")
    assert "ln -sfn ../kernels" in last_line(result)


def test_cure_for_a_lost_link_works(bare_tree):
    link = bare_tree / "hmc_fast" / "kernels"
    link.unlink()
    cure = _checks.kernels_problem(bare_tree / "hmc_fast").split("`")[1]
    subprocess.run(cure, shell=True, check=True)
    assert _checks.kernels_problem(bare_tree / "hmc_fast") is None


def test_installed_package_beside_a_foreign_kernels_package_is_accepted(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    shutil.copytree(ROOT / "kernels", tmp_path / "hmc_fast" / "kernels")
    assert _checks.kernels_problem(tmp_path / "hmc_fast") is None
    (tmp_path / "hmc_fast" / "kernels" / "reference.py").unlink()
    assert "install hmc-fast again" in _checks.kernels_problem(tmp_path / "hmc_fast")


def test_foreign_kernels_package_stays_importable_from_a_checkout(tmp_path):
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("OWNER = 'somebody else'\n")
    code = (
        "import kernels, hmc_fast.kernels.reference as ours\n"
        "print(kernels.OWNER)\nprint(ours.__file__)\n"
    )
    result = run("-W", "ignore", "-c", code, path=(ROOT, tmp_path), cwd=ROOT)
    assert result.stdout.splitlines()[0] == "somebody else", result.stderr
    assert Path(result.stdout.splitlines()[1]).resolve() == ROOT / "kernels" / "reference.py"


def test_kernels_is_no_regular_package():
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_the_package_exports_what_the_readme_uses():
    import hmc_fast

    names = {"SpatialAttention2d", "__version__", "create_model", "load_model"}
    names |= {"optimize_for_inference", "spatial_attention"}
    assert set(hmc_fast.__all__) == names
    assert [name for name in names if not hasattr(hmc_fast, name)] == []
