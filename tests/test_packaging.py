"""The wheel, the source archive, an editable install and a checkout hold the same package."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = ("hmc_fast", "kernels", "bench", "tests", "docs", ".ci", "*.py", "*.md", "*.toml")
SOURCES += ("LICENSE", "MANIFEST.in", "Makefile", "CITATION.cff")
REPORT = (
    "import hmc_fast, hmc_fast.kernels.chunked, hmc_fast.kernels.reference as reference\n"
    "print(hmc_fast.__version__, reference.TREE)"
)
IMPORT_NAMES = {"PIL": "pillow", "sklearn": "scikit-learn"}


def python(*arguments, cwd, path="", interpreter=sys.executable):
    """Run an interpreter away from this checkout; its output, or a failure that shows stderr."""
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [str(interpreter), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def copy_sources(tree, name):
    """The files of this checkout in `tree`; its kernels say `name`, so that a mix-up is seen."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for path in (found for pattern in SOURCES for found in ROOT.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, tree / path.name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(path, tree / path.name)
    with open(tree / "kernels" / "reference.py", "a") as file:
        file.write(f"\nTREE = {name!r}\n")
    return tree


def build(kind, tree, out):
    """Call the hook that pip calls: kind is 'wheel' or 'sdist'."""
    out.mkdir()
    code = f"from setuptools import build_meta as m; m.build_{kind}({str(out)!r})"
    python("-c", code, cwd=tree)
    (built,) = out.iterdir()
    return built


def install(wheel, target):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp("tree"), "this tree")


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return build("wheel", tree, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def unpacked(tree, tmp_path_factory):
    """The folder in the source archive."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", tree, folder / "dist")) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.glob("hmc_fast-*"))


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory):
    """A virtual environment that sees what is installed here, but no editable install of it."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def wheel_names(wheel):
    return sorted(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_wheel_holds_the_package_and_its_data_and_nothing_else(wheel):
    names = wheel_names(wheel)
    inside = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hmc_fast").rglob("*.py")}
    inside |= {f"hmc_fast/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.*")}
    for pattern in ("py.typed", "data/*.txt", "evaluation/report/*.j2"):
        inside |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "hmc_fast").glob(pattern)}
    assert {name for name in names if ".dist-info/" not in name} == inside
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_sdist_carries_sources_but_no_link_and_builds_the_same_wheel(unpacked, wheel, tmp_path):
    wanted = ("train.py", "conftest.py", "bench/common.py", "tests/test_packaging.py", ".ci/run")
    missing = [name for name in (*wanted, "kernels/reference.py") if not (unpacked / name).exists()]
    assert not missing
    assert not os.path.lexists(unpacked / "hmc_fast" / "kernels")
    again = build("wheel", unpacked, tmp_path / "dist")
    assert wheel_names(again) == wheel_names(wheel)


@pytest.mark.slow
def test_unpacked_sdist_refuses_with_one_sentence(unpacked):
    code = "try: import hmc_fast\nexcept ImportError as error: print(error)"
    sentence = python("-c", code, cwd=unpacked)
    assert sentence.startswith(f"{unpacked / 'hmc_fast' / 'kernels'} has no kernels ")
    assert f"pip install {unpacked}" in sentence


@pytest.mark.slow
def test_wheel_imports_its_own_kernels(wheel, tmp_path):
    target = install(wheel, tmp_path / "site")
    assert python("-c", REPORT, cwd=tmp_path, path=target) == "0.1.0 this tree"


@pytest.mark.slow
def test_wheel_from_the_sdist_imports_its_own_kernels(unpacked, tmp_path):
    target = install(build("wheel", unpacked, tmp_path / "dist"), tmp_path / "site")
    assert python("-c", REPORT, cwd=tmp_path, path=target) == "0.1.0 this tree"


@pytest.mark.slow
def test_plain_checkout_imports_its_own_kernels_beside_an_editable_one(tree, interpreter, tmp_path):
    """With a mapping but no link, the second checkout would take the kernels of the first."""
    pip = ["-m", "pip", "--python", interpreter, "install", "--quiet", "--no-deps"]
    python(*pip, "--no-build-isolation", "--no-index", "--editable", tree, cwd=tmp_path)
    editable = {"cwd": tmp_path, "interpreter": interpreter}
    assert python("-c", REPORT, **editable) == "0.1.0 this tree"
    assert python("-m", "hmc_fast.cli", "--version", **editable) == "hmc-fast 0.1.0"
    other = copy_sources(tmp_path / "other", "another checkout")
    assert python("-c", REPORT, cwd=other, interpreter=interpreter) == "0.1.0 another checkout"
    assert python("train.py", "--help", cwd=other, interpreter=interpreter)


def imported_names(folder):
    """Top-level names of all absolute imports in a folder's files."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                yield node.module.partition(".")[0]


def distribution(requirement):
    return requirement.partition(">")[0].strip()


def test_every_import_of_the_package_is_a_declared_dependency():
    declared = {distribution(requirement) for requirement in PROJECT["project"]["dependencies"]}
    used = set(imported_names(ROOT / "hmc_fast")) | set(imported_names(ROOT / "kernels"))
    foreign = used - set(sys.stdlib_module_names) - {"hmc_fast"}
    optional = {"triton", *PROJECT["project"]["optional-dependencies"]["export"]}
    assert {IMPORT_NAMES.get(name, name) for name in foreign} - declared - optional == set()


def test_every_import_of_the_tests_and_benchmarks_is_in_an_extra():
    optional = PROJECT["project"]["optional-dependencies"]
    extras = (*optional["test"], *optional["peers"])
    declared = {distribution(name) for name in (*PROJECT["project"]["dependencies"], *extras)}
    local = {
        path.stem for folder in ("tests", "bench", "docs") for path in (ROOT / folder).glob("*.py")
    }
    used = set(imported_names(ROOT / "tests")) | set(imported_names(ROOT / "bench"))
    foreign = used - set(sys.stdlib_module_names) - {"hmc_fast"} - local
    named = {
        "pytest_benchmark": "pytest-benchmark",
        "pytorch_grad_cam": "grad-cam",
        "scikit_posthocs": "scikit-posthocs",
        "triton": "torch",
        **IMPORT_NAMES,
    }
    assert {named.get(name, name) for name in foreign} - declared == set()


def test_linter_bans_the_top_level_name_kernels():
    pytest.importorskip("ruff", reason="ruff is in the dev extra")
    command = [sys.executable, "-m", "ruff", "check", "--select", "TID251", "-"]
    for source, code in (("import kernels\n", 1), ("import hmc_fast.kernels.reference\n", 0)):
        result = subprocess.run(command, input=source, text=True, cwd=ROOT, capture_output=True)
        assert result.returncode == code, result.stdout


def test_version_is_the_one_of_the_changelog():
    import hmc_fast

    assert f"## [{hmc_fast.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def ci_checks(*arguments, cwd=ROOT):
    command = [sys.executable, str(ROOT / ".ci" / "checks.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_readme_holds_both_commands_once():
    one, two = (ci_checks("command", name) for name in ("command-one", "command-two"))
    assert "python train.py --compile" in one.stdout
    assert "pytest" in two.stdout
    assert "pip install -q -e ." in one.stdout
    assert "[test]" in two.stdout


def test_first_python_snippet_of_the_readme_runs():
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    assert "SpatialAttention2d" in snippet
    exec(snippet, {})


@pytest.mark.parametrize("blocks", [0, 2])
def test_readme_command_must_be_found_exactly_once(tmp_path, blocks):
    block = "<!-- command-one -->\n```bash\nfalse\n```\n"
    (tmp_path / "README.md").write_text(block * blocks)
    result = ci_checks("command", "command-one", cwd=tmp_path)
    assert result.returncode == 1
    assert f"found {blocks}" in result.stderr


@pytest.mark.parametrize(("value", "low", "code"), [(0.55, 0.41, 0), (0.54, 0.5, 1), (0.9, 0.4, 1)])
def test_first_run_is_held_against_its_threshold(tmp_path, value, low, code):
    run = tmp_path / "runs" / "hmc-1"
    run.mkdir(parents=True)
    interval = f'{{"balanced_accuracy": [{low}, 0.99]}}'
    metrics = f'{{"pooled": {{"balanced_accuracy": {value}, "intervals": {interval}}}}}'
    (run / "metrics.json").write_text(metrics)
    assert ci_checks("metrics", cwd=tmp_path).returncode == code
