"""`hmc-fast study`: what it refuses, with one sentence and nothing written or lost, and damage."""

import functools
import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from hmc_fast.study import job, write
from test_study_job import costs
from tiny import assert_refused, flags, make_folder, run, skip_pages, tiny_network

OTHERS = {"variants": "hmc,resnet50", "explain_images": 0, "lr": 0.1, "epochs": 1}
LEAK = ("runs/hmc-image", "runs/hmc-leaky")


def use_tiny_parts(patch: pytest.MonkeyPatch, root: Path) -> None:
    """Tiny networks, no timing, no figures; the current folder is `root`."""
    skip_pages(patch)
    patch.chdir(root)
    patch.setenv("HMC_FAST_CACHE", str(root / "cache"))
    patch.setattr(write, "timed_complexity", costs)
    patch.setattr(write, "study_figures_of", lambda study, layers: {})
    patch.setattr(job, "run_study", functools.partial(job.run_study, build=tiny_network))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A folder with data/ and a finished study/, to be copied."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_parts(patch, root)
        make_folder(root / "data")
        assert run("study", "--quiet", *words()) == 0
    return root


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """The current folder, with data/ alone."""
    use_tiny_parts(monkeypatch, tmp_path)
    make_folder(tmp_path / "data")
    return tmp_path


@pytest.fixture
def copy(finished, tmp_path, monkeypatch) -> Path:
    """The current folder, with data/ and the finished study/."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    use_tiny_parts(monkeypatch, tmp_path)
    return tmp_path


def words(**settings: object) -> list[str]:
    return flags(**{"data": "data", "out": "study", **OTHERS, **settings})


REFUSED = {
    "an unknown network": ({"variants": "hmc,resnet51"}, ["--variants", "resnet51", "vit_b_16"]),
    "no network": ({"variants": " "}, ["--variants", "' '"]),
    "a leak network": ({"leak_variant": "resnet5"}, ["--leak-variant", "did you mean resnet50?"]),
    "both budgets": ({"augmented": 8}, ["--epochs or --augmented, not both"]),
    "both leak budgets": (
        {"leak_augmented": 8, "leak_epochs": 1},
        ["--leak-epochs or --leak-augmented, not both"],
    ),
    "no data": ({"data": "nowhere"}, ["no such directory", "nowhere"]),
    "too many folds": ({"folds": 30}, ["too few for 30 folds", "--folds 4"]),
    "a negative number of films": ({"explain_images": -1}, ["--explain-images", "at least 0"]),
    "no such sharing": ({"parallel": "runs"}, ["--parallel", "folds"]),
    "a size for no transformer": (
        {"variants": "hmc,vit_b_16", "image_size": 72},
        ["vit_b_16", "multiple of 16", "72"],
    ),
    "an unknown flag": ({"varaints": "hmc"}, ["did you mean --variants?"]),
    "a flag of train alone": ({"protocol": "leaky"}, ["unrecognized arguments: --protocol"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_use_is_one_sentence_and_writes_nothing(place, capsys, monkeypatch, what):
    settings, parts = REFUSED[what]
    if "vit_b_16" in parts:  # the true networks say what they cannot
        monkeypatch.setattr(job, "run_study", job.run_study.func)
    assert_refused(capsys, place, ["study", *words(**settings)], *parts)


def test_a_file_a_full_folder_and_a_run_are_no_place_for_a_study(place, capsys):
    (place / "file").write_text("")
    for name, holds in (("full", "thesis.txt"), ("run", "config.json")):
        (place / name).mkdir()
        (place / name / holds).write_text("{}")
    for out, part in (("file", "is a file"), ("full", "thesis.txt"), ("run", "holds a run")):
        assert_refused(capsys, place, ["study", *words(out=out)], out, part)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(place, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")(1 << 40, 1 << 40, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert_refused(capsys, place, ["study", *words()], "0.0 GiB are free", "make room")


def test_torchrun_without_parallel_folds_is_refused(place, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_refused(capsys, place, ["study", *words()], "2 processes", "--parallel folds")


def test_resume_needs_a_study_and_its_settings(copy, capsys):
    resume = ["study", "--resume", "--out"]
    assert_refused(capsys, copy, [*resume, "elsewhere"], "elsewhere holds no study")
    changes = {"--lr": "0.5", "--seed": "3", "--augmented": "8", "--folds": "3"}
    for flag, value in changes.items():
        assert_refused(capsys, copy, [*resume, "study", flag, value], flag, "other settings")


def test_another_budget_of_the_leak_study_never_takes_runs_of_the_old_one(copy, capsys):
    words = ["study", "--resume", "--out", "study", "--leak-epochs", "2"]
    assert_refused(capsys, copy, words, "hmc-image", "--epochs 1 there, 2 here", "move it away")
    for name in LEAK:
        shutil.rmtree(copy / "study" / name)
    assert run(*words, "--quiet") == 0
    assert (copy / "study" / "runs" / "hmc-patient" / "metrics.json").is_file()
    assert run("study", "--resume", "--out", "study", "--quiet") == 0


BROKEN = {
    "study.json": ("{", "no JSON file"),
    "commands.json": ('{"commands": 3}', "damaged: remove it"),
    "runs/hmc/config.json": ("[]", "JSON object"),
    "runs/hmc/predictions.csv": ("image,patient\nx,y\n", "remove its metrics.json"),
    "runs/hmc/history.csv": ("", "remove its metrics.json"),
    "runs/hmc/metrics.json": ('{"per_', "remove its metrics.json"),
    "runs/hmc-leaky/fold0/model.json": ('{"vari', "remove it, and the study trains this fold"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_damage_is_named(copy, capsys, name):
    text, part = BROKEN[name]
    (copy / "study" / name).write_text(text)
    before = (copy / "study" / "report.html").read_bytes()
    assert run("study", "--quiet", *words()) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1
    assert part in sentence
    assert "study/" + name.rsplit("/", 2)[0] in sentence
    assert (copy / "study" / "report.html").read_bytes() == before


@pytest.mark.parametrize("text", ['{"what": 1}', '{"variants": 3}', '{"training": {"lr": "x"}}'])
def test_a_study_json_of_other_keys_or_types_is_named(copy, capsys, text):
    (copy / "study" / "study.json").write_text(text)
    assert_refused(capsys, copy, ["study", "--resume", "--out", "study"], "study/study.json: ")


@pytest.mark.parametrize("name", ["metrics.json", "fold1/model.json", "predictions.csv"])
def test_what_is_missing_of_a_run_is_made_again(copy, name):
    table = copy / "study" / "tables" / "table3_accuracy.csv"
    before = table.read_bytes()
    run_folder = copy / "study" / "runs" / "resnet50"
    (run_folder / name).unlink()
    if name == "predictions.csv":
        (run_folder / "metrics.json").unlink()
    assert run("study", "--resume", "--quiet", "--out", "study") == 0
    assert table.read_bytes() == before


def test_where_every_run_fails_the_reason_is_told(place, capsys):
    assert run("study", "--quiet", *words(lr=1e30, epochs=3, leak_variant="none")) == 2
    assert "lower --lr" in capsys.readouterr().err


def test_a_network_that_is_no_longer_asked_for_stays_on_the_disk(copy):
    assert run("study", "--quiet", *words(variants="resnet50", leak_variant="none")) == 0
    rows = (copy / "study" / "tables" / "table3_accuracy.csv").read_text()
    assert "resnet50" in rows
    assert "hmc" not in rows
    assert (copy / "study" / "runs" / "hmc" / "metrics.json").is_file()
    assert not (copy / "study" / "tables" / "leak_study.csv").exists()


def test_a_stop_while_the_report_is_made_says_how_to_go_on(copy, capsys, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "all_tables", stop)
    assert run("study", "--resume", "--out", "study") == 130
    assert "stopped; go on with: hmc-fast study --resume --out study\n" in capsys.readouterr().out


def test_each_command_is_kept_once(copy):
    assert run("study", "--resume", "--quiet", "--out", "study") == 0
    commands = json.loads((copy / "study" / "commands.json").read_text())["commands"]
    assert len(commands) == 2
    assert commands[1] == "hmc-fast study --resume --quiet --out study"


def test_help_names_every_setting(capsys):
    assert run("study", "--help") == 0
    text = capsys.readouterr().out
    assert [
        f for f in ("--variants", "--leak-variant", "--parallel", "--lr") if f not in text
    ] == []
    assert "film" in text
