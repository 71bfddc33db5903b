"""The command itself, with the paper's networks: killed twice, it gives the report of a study that
nobody disturbed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from study_pages import without_varying
from tiny import table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
VARYING = (" s", " ms", "images/s")
LONGEST = 900  # seconds


def start(root: Path, out: str) -> subprocess.Popen:
    """`hmc-fast study` of two networks, two steps a fold, in a process of its own."""
    words = [
        "study", "--data", "phantom", "--preset", "quick", "--augmented", "16", "--out", out,
        "--variants", "hmc,resnet50", "--leak-variant", "none", "--explain-images", "1",
        "--checkpoint-every", "0",
    ]  # fmt: skip
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"HMC_FAST_CACHE": str(root / "cache"), "PYTHONPATH": paths}
    return subprocess.Popen(
        [sys.executable, "-m", "hmc_fast.cli", *words],
        cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(root: Path, out: str) -> str:
    """Run the study to its end; what it printed."""
    process = start(root, out)
    printed, _ = process.communicate(timeout=LONGEST)
    assert process.returncode == 0, printed
    return printed


def kill_when(root: Path, out: str, pattern: str) -> None:
    """Start the study and end it as soon as it has written such a file."""
    process = start(root, out)
    last = time.monotonic() + LONGEST
    while not list((root / out).glob(pattern)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < last
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def steady(folder: Path) -> dict[str, list]:
    """Page, tables and the numbers of the figures without what may vary."""
    page = without_varying((folder / "report.html").read_text())
    found: dict[str, list] = {"page": page.splitlines()}
    for path in sorted(folder.glob("tables/*.csv")) + sorted(folder.glob("figures/*.csv")):
        rows = [{k: v for k, v in row.items() if not k.endswith(VARYING)} for row in table(path)]
        found[path.name] = rows
    return found


def test_a_study_that_was_killed_twice_gives_the_same_report(tmp_path):
    finish(tmp_path, "whole")
    kill_when(tmp_path, "broken", "runs/hmc/fold2/checkpoint*")
    kill_when(tmp_path, "broken", "runs/resnet50/fold1/model.safetensors")
    printed = finish(tmp_path, "broken")
    assert "going on with the study in broken" in printed
    assert "report: broken/report.html" in printed
    whole, broken = steady(tmp_path / "whole"), steady(tmp_path / "broken")
    assert whole.keys() == broken.keys()
    for name, lines in whole.items():
        changed = [pair for pair in zip(lines, broken[name], strict=True) if pair[0] != pair[1]]
        assert changed == [], name
