"""Where a run took place: versions, processor, memory, GPUs, commit. Runs keep it as env.json."""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hmc_fast import __version__
from hmc_fast.attention import BACKENDS, ENVIRONMENT_VARIABLE, device_problem
from hmc_fast.data.cache import cache_directory

PACKAGES = (
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "scipy",
    "scikit-learn",
    "pillow",
    "safetensors",
    "matplotlib",
    "fvcore",
)
CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")
GIB = 1024**3


def environment() -> dict[str, Any]:
    """What a reader of a result needs to know of the machine and the versions; JSON-ready."""
    return {
        "hmc_fast": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu": cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "cuda": cuda(),
        "backends": backends(),
        ENVIRONMENT_VARIABLE: os.environ.get(ENVIRONMENT_VARIABLE),
        "cache": str(cache_directory() or "none"),
    }


def package_version(name: str) -> str | None:
    """The installed version of a distribution, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def backends() -> list[str]:
    """The attention backends that can run here, on the first GPU where there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    left_out = {"auto"} if device_problem(device) is None else {"auto", "triton"}
    return [name for name in BACKENDS if name not in left_out]


def cpu() -> dict[str, Any]:
    """Model, usable cores, torch's threads and vector unit, instructions for bf16 products."""
    text = CPU_INFO.read_text() if CPU_INFO.is_file() else ""
    return {
        "model": cpu_model(text),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bf16": cpu_bf16(text),
    }


def cpu_model(cpuinfo: str) -> str:
    """The model's name from the text of /proc/cpuinfo, else the architecture."""
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def cpu_bf16(cpuinfo: str) -> list[str]:
    """The instruction sets for bf16 products among the flags in the text of /proc/cpuinfo."""
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    present = set(flags[1].split()) if flags else set()
    return [flag for flag in BF16_FLAGS if flag in present]


def cuda() -> dict[str, Any]:
    """torch's CUDA version (None in a CPU build) and the devices it sees."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"version": torch.version.cuda, "devices": [cuda_device(i) for i in range(count)]}


def cuda_device(index: int) -> dict[str, Any]:
    """Name, compute capability and memory of one GPU."""
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / GIB, 1),
    }


def commit(checkout: Path | None = None) -> str | None:
    """The commit of this package's checkout, with '-dirty' where files differ; None elsewhere."""
    checkout = checkout or Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
