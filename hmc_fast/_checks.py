"""What must hold before the package can work; where it does not, one sentence says what to do."""

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

KERNEL_FILES = (
    "reference.py",
    "chunked.py",
    "tiles.py",
    "configurations.py",
    "configurations.json",
    "attention_forward.py",
    "attention_backward.py",
    "convolution_reference.py",
    "convolution_plans.py",
    "convolution_plans.json",
    "pointwise.py",
    "masked_images.py",
)


def check_installation() -> None:
    """Raise ImportError with one sentence; at the command line print it and exit with 2 instead."""
    problem = find_problem()
    if problem is None:
        return
    if _at_command_line():
        print(f"hmc-fast: {problem}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(problem)


def find_problem() -> str | None:
    """The first thing that keeps this installation from working, or None."""
    return (
        platform_problem(sys.platform)
        or kernels_problem(Path(__file__).resolve().parent)
        or torch_problem()
    )


def platform_problem(platform: str) -> str | None:
    """Windows itself has neither the link to the kernels nor Triton."""
    if platform == "win32":
        return "hmc_fast does not run on Windows itself; install and run it in WSL2 (wsl --install)"
    return None


def kernels_problem(package: Path) -> str | None:
    """`package`/kernels must hold this tree's files, or another checkout's would be imported."""
    kernels, beside = package / "kernels", package.parent / "kernels"
    is_checkout = (package.parent / "pyproject.toml").is_file() and beside.is_dir()
    cure = (
        f"run `ln -sfn ../kernels {kernels}`, or install with `pip install {package.parent}` "
        "and import it from another folder"
    )
    if not all((kernels / name).is_file() for name in KERNEL_FILES):
        lost = "its link to ../kernels is lost" if is_checkout else "the installation is broken"
        cure = cure if is_checkout else "install hmc-fast again"
        return f"{kernels} has no kernels ({lost}): {cure}"
    if is_checkout and not kernels.samefile(beside):
        return f"{kernels} is not the folder {beside} but a copy: remove it, then {cure}"
    return None


def torch_problem() -> str | None:
    """torch and torchvision must be there and built for each other."""
    for name in ("torch", "torchvision"):
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name:
                return f"{name} is not installed: run `pip install torch torchvision`"
            return _mismatch(error)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            return _mismatch(error)
    return None


def _mismatch(error: Exception) -> str:
    first_line = str(error).strip().partition("\n")[0].rstrip(".")
    return (
        f"torch {_version('torch')} and torchvision {_version('torchvision')} do not load together "
        f"({first_line}): run `pip install --force-reinstall torch torchvision`, so that both come "
        "from one index"
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _at_command_line() -> bool:
    """`hmc-fast …` or `python -m hmc_fast.cli …`."""
    script = Path(sys.argv[0]).name if sys.argv else ""
    return script == "hmc-fast" or "hmc_fast.cli" in sys.orig_argv
