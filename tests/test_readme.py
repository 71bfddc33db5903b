"""The README says what is true: tables from the results, links to files, code that runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tables_are_those_of_the_results():
    command = [sys.executable, str(ROOT / "bench" / "readme.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_links_lead_to_files_that_are_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert {"LICENSE", "CITATION.cff", "docs/phantom.png"} <= set(links)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_map_names_paths_that_are_there():
    table = README.split("## Where things are")[1].split("##")[0]
    paths = re.findall(r"`([\w/.]+)`", table)
    assert len(paths) > 8
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_the_snippets_run_in_turn():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    scope: dict = {}
    for block in blocks[:3]:  # the last needs a trained run
        exec(block, scope)
    assert scope["logits"].shape == (1, 3)
    assert scope["out"].shape == (1, 3136, 256)
