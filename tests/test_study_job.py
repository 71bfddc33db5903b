"""A whole study with tiny networks: folders, going on, sharing, failures, and what the page
holds."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hmc_fast.errors import InputError
from hmc_fast.evaluation.study_figure_set import study_figures_of
from hmc_fast.study import job, write
from hmc_fast.training import loop
from hmc_fast.training import study as grid
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.run_folder import InUse
from hmc_fast.training.study_config import StudyConfig
from study_pages import without_varying
from tiny import SETTINGS, make_folder, skip_pages, table, tiny_network

AGAIN = "hmc-fast study --resume --out study"


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function: run a study of tiny networks on data/ in study/; its failures."""
    skip_pages(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMC_FAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(write, "timed_complexity", costs)
    monkeypatch.setattr(write, "study_figures_of", no_figures)
    make_folder(tmp_path / "data", patients=6)

    def call(out="study", build=tiny_network, quiet=True, study=None, **settings):
        base = TrainConfig(**SETTINGS | {"data": "data", "lr": 0.1, "epochs": 1} | settings)
        chosen = StudyConfig(**{"variants": "hmc,resnet50", "explain_images": 0} | (study or {}))
        return job.run_study(
            base, chosen, Path(out), command=f"study {out}", again=AGAIN, quiet=quiet, build=build
        )

    return call


@pytest.fixture
def no_pages(monkeypatch):
    """A study writes no tables, figures and report: they take longer than all the rest."""
    monkeypatch.setattr(job, "write_study", lambda *args, **kwargs: [])


def costs(variants, *args, **kwargs):
    return {v: {"parameters": 1, "gmac": 1.0, "gflop": 2.0, "ms": None} for v in variants}


def no_figures(study, layers):
    """They take longer to draw than all the rest."""
    return {}


def page(folder: Path) -> str:
    """report.html without what may differ between two runs of the same settings."""
    return without_varying((folder / "report.html").read_text())


def tables(folder: Path) -> dict[str, list]:
    """Every table without its columns of times."""
    found = {}
    for path in sorted((folder / "tables").glob("*.csv")):
        rows = table(path)
        found[path.name] = [
            {k: v for k, v in row.items() if not k.endswith((" s", " ms", "images/s"))}
            for row in rows
        ]
    return found


def test_a_study_leaves_runs_tables_and_a_report(study, tmp_path):
    assert study() == []
    folder = tmp_path / "study"
    runs = {path.name for path in (folder / "runs").iterdir() if path.is_dir()}
    assert runs == {"hmc", "resnet50", "hmc-image", "hmc-leaky"}
    assert {"table3_accuracy.csv", "leak_study.csv"} <= {
        p.name for p in (folder / "tables").iterdir()
    }
    assert "not a medical device" in (folder / "report.html").read_text().lower()


@pytest.mark.usefixtures("no_pages")
def test_all_runs_have_the_same_folds_and_seeds(study, tmp_path):
    study()
    runs = tmp_path / "study" / "runs"
    folds = {name: (runs / name / "folds.csv").read_bytes() for name in ("hmc", "resnet50")}
    assert folds["hmc"] == folds["resnet50"]
    image, leaky = (runs / f"hmc-{name}" / "folds.csv" for name in ("image", "leaky"))
    assert image.read_bytes() == leaky.read_bytes() != folds["hmc"]


class Stop(Exception):
    pass


@pytest.mark.slow
def test_a_study_that_was_stopped_anywhere_gives_the_same_report(study, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "study_figures_of", study_figures_of)
    study("whole")
    original, calls = loop.train_fold, []
    for stops in (1, 2, 3):  # the first leg ends in the first fold, the next after two more

        def crash(*args, stops=stops, **kwargs):
            calls.append(stops)
            if calls.count(stops) == stops:
                raise Stop
            return original(*args, **kwargs)

        monkeypatch.setattr(loop, "train_fold", crash)
        with pytest.raises(Stop):
            study("broken")
    monkeypatch.setattr(loop, "train_fold", original)
    assert study("broken") == []
    assert tables(tmp_path / "broken") == tables(tmp_path / "whole")
    assert page(tmp_path / "broken") == page(tmp_path / "whole")
    commands = json.loads((tmp_path / "broken" / "commands.json").read_text())["commands"]
    assert commands == ["study broken"] * 4
    assert {".png", ".pdf", ".csv"} == {p.suffix for p in (tmp_path / "broken/figures").iterdir()}


@pytest.mark.slow
def test_a_finished_study_trains_nothing_again(study, tmp_path, monkeypatch):
    study()
    before = page(tmp_path / "study")
    monkeypatch.setattr(loop, "train_fold", None)
    assert study() == []
    assert page(tmp_path / "study") == before


@pytest.mark.slow
def test_a_network_can_be_added_later(study, tmp_path):
    study(study={"variants": "hmc", "leak_variant": "none"})
    study(study={"variants": "hmc,multiscale"})
    rows = table(tmp_path / "study" / "tables" / "table3_accuracy.csv")
    assert {"hmc", "multiscale"} <= {next(iter(row.values())) for row in rows}


def test_other_settings_are_refused_and_nothing_is_lost(study, tmp_path):
    study(study={"leak_variant": "none"})
    before = page(tmp_path / "study")
    with pytest.raises(InputError, match=r"other settings \(--lr 0.1 there, 0.2 here\)"):
        study(lr=0.2)
    assert page(tmp_path / "study") == before


def test_a_folder_that_holds_something_else_is_refused(study, tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="not empty"):
        study()
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["thesis.txt"]


def test_a_run_that_fails_does_not_take_the_others_along(study, tmp_path):
    def build(config):
        if config.variant == "resnet50":
            raise InputError("no such network today")
        return tiny_network(config)

    calls = {"resnet50": 0}

    def build_later(config):  # the estimate's tries succeed, the training's does not
        calls[config.variant] = calls.get(config.variant, 0) + 1
        return build(config) if calls[config.variant] > 3 else tiny_network(config)

    failed = study(build=build_later, study={"leak_variant": "none"})
    assert failed == ["resnet50: no such network today"]
    rows = table(tmp_path / "study" / "tables" / "table3_accuracy.csv")
    names = {next(iter(row.values())) for row in rows}
    assert "hmc" in names
    assert "resnet50" not in names


WORKER = """
import sys
sys.path.insert(0, {tests!r})
import matplotlib
from hmc_fast.study import write
from hmc_fast.training import results
from test_study_job import costs, no_figures, AGAIN
from tiny import SETTINGS, tiny_network
from hmc_fast.study.job import run_study
from hmc_fast.training.config import TrainConfig
from hmc_fast.training.study_config import StudyConfig
from hmc_fast.training.step import Trainer
from pathlib import Path
import time
write.timed_complexity = costs
write.study_figures_of = no_figures
results.run_figures = lambda page: {{}}
results.write_report = lambda path, page, drawn: path.write_text("")
step = Trainer.step
def slow(*args):
    time.sleep(0.05)
    return step(*args)
Trainer.step = slow
base = TrainConfig(**SETTINGS | {{"data": "data", "lr": 0.1, "epochs": 1}})
chosen = StudyConfig(variants="hmc,resnet50", explain_images=0, parallel="folds")
options = dict(command="study shared", again=AGAIN, quiet=True, build=tiny_network)
sys.exit(len(run_study(base, chosen, Path("shared"), **options)))
"""


def start(rank: int, world: int, root: Path) -> subprocess.Popen:
    """One process of a shared study, as torchrun starts it."""
    here = str(Path(__file__).parent)
    ranks = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    paths = os.pathsep.join([str(Path(here).parent), os.environ.get("PYTHONPATH", "")])
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # as here: sums keep their order
    environment = os.environ | ranks | threads | {"PYTHONPATH": paths}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER.format(tests=here)], cwd=root, env=environment
    )


@pytest.mark.slow
def test_processes_share_the_folds_and_one_that_dies_loses_only_its_own(study, tmp_path):
    study("whole")
    processes = [start(rank, 3, tmp_path) for rank in range(3)]
    marks = tmp_path / "shared" / "runs"
    while not list(marks.glob("*/fold*")):
        assert all(process.poll() is None for process in processes)
    processes[2].kill()
    processes[2].wait()
    assert [process.wait(timeout=300) for process in processes[:2]] == [0, 0]
    assert tables(tmp_path / "shared") == tables(tmp_path / "whole")
    pages = [
        page(tmp_path / name).replace("folds</td>", "none</td>") for name in ("shared", "whole")
    ]
    assert pages[0] == pages[1]


def test_a_process_that_does_not_lead_leaves_failures_and_the_report_to_the_leader(
    study, tmp_path, monkeypatch
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    def build(config):
        if config.variant == "resnet50":
            raise InputError("no such network today")
        return tiny_network(config)

    monkeypatch.setattr(job, "check_study_disk", lambda *args, **kwargs: 0)
    assert study(build=build, study={"parallel": "folds", "leak_variant": "none"}) == []
    assert (tmp_path / "study" / "runs" / "hmc" / "metrics.json").is_file()
    assert not (tmp_path / "study" / "report.html").exists()
    assert not (tmp_path / "study" / "commands.json").exists()


def test_a_run_that_another_process_holds_is_looked_at_again(study, monkeypatch):
    original, tries = grid.train_shared, []

    def once_held(config, **options):
        tries.append(config.variant)
        if tries == ["hmc"]:
            raise InUse("study/runs/hmc is in use by process 1")
        return original(config, **options)

    monkeypatch.setattr(grid, "train_shared", once_held)
    monkeypatch.setattr(grid, "SECONDS_BETWEEN_LOOKS", 0)
    assert study(study={"leak_variant": "none"}) == []
    assert tries == ["hmc", "resnet50", "hmc"]


@pytest.mark.usefixtures("no_pages")
def test_predictions_of_the_study_are_those_of_its_runs(study, tmp_path):
    study(study={"leak_variant": "none"})
    folder = tmp_path / "study"
    with open(folder / "runs" / "hmc" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    metrics = json.loads((folder / "runs" / "hmc" / "metrics.json").read_text())
    assert metrics["pooled"]["accuracy"] == pytest.approx(right)


def test_networks_on_different_folds_are_not_compared(study, tmp_path):
    study(study={"leak_variant": "none"})
    run = tmp_path / "study" / "runs" / "hmc"
    rows = (run / "predictions.csv").read_text().splitlines()
    swapped = [
        row.replace(",0,", ",9,").replace(",1,", ",0,").replace(",9,", ",1,") for row in rows
    ]
    (run / "predictions.csv").write_text("\n".join([*swapped, ""]))
    with pytest.raises(InputError, match="have different folds"):
        study(study={"leak_variant": "none"})


@pytest.mark.usefixtures("no_pages")
def test_a_fold_that_is_trained_again_takes_the_old_figures_away(study, tmp_path, monkeypatch):
    study(study={"leak_variant": "none"})
    run = tmp_path / "study" / "runs" / "hmc"
    shutil.rmtree(run / "fold0")

    def crash(*args, **kwargs):
        raise Stop

    monkeypatch.setattr(loop, "train_fold", crash)
    with pytest.raises(Stop):
        study(study={"leak_variant": "none"})
    assert not (run / "metrics.json").exists()
