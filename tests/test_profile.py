"""`hmc-fast profile`: what it prints and writes, of networks and of runs, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmc_fast import load_model
from hmc_fast.cli import profile
from hmc_fast.profiling import session
from hmc_fast.profiling.counts import Counts
from tiny import (
    CLASSES,
    assert_refused,
    finished_run,
    flags,
    make_folder,
    run,
    skip_pages,
    table,
    tiny_layers,
    use_tiny_network,
)

QUICK = [
    "--variant",
    "resnet50",
    "--image-size",
    64,
    "--batch",
    1,
    "--rounds",
    2,
    "--device",
    "cpu",
]
COUNTS = ["--counts-only", "--variant", "resnet50", "--image-size", 64, "--device", "cpu"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """data/ and a finished run of two folds on it in run/."""
    return finished_run(tmp_path_factory.mktemp("profile"))


@pytest.fixture
def place(shared, tmp_path, monkeypatch) -> Path:
    """A working directory with data/ and run/; all networks are tiny, and counted without a
    look."""
    use_tiny_network(monkeypatch)
    counts = Counts(1600, 10**9, 10**9, 10**9, None)
    monkeypatch.setattr(session, "count", lambda *_: counts)
    monkeypatch.setattr(session, "settled_network", lambda *_: tiny_layers(3).eval())
    monkeypatch.chdir(tmp_path)
    for name in ("data", "run"):
        shutil.copytree(shared / name, tmp_path / name)
    return tmp_path


def sections(text: str) -> dict[str, list[str]]:
    """The lines below each title, by the title's first words."""
    parts = (part.splitlines() for part in text.split("\n\n"))
    return {" ".join(lines[0].split()[:3]): lines[1:] for lines in parts}


def test_networks_are_counted_timed_and_written(tmp_path, capsys):
    files = [tmp_path / name for name in ("p.csv", "p.json", "p.svg")]
    outputs = [
        word for pair in zip(("--csv", "--trace", "--plot"), files, strict=True) for word in pair
    ]
    assert run("profile", *QUICK, *outputs) == 0
    out = capsys.readouterr().out
    assert "left out: " in out
    assert "(--compile); batch 32 (--batch 32); " in out
    found = {(row["provider"], row["metric"]): row for row in table(files[0])}
    assert int(found["textbook", "parameters"]["q50"]) == 23_514_179
    assert float(found["eager", "ms"]["q50"]) > float(found["eager", "ms"]["q20"]) > 0
    assert float(found["optimised", "error"]["q50"]) < 1e-3
    assert json.loads(files[1].read_text())["traceEvents"]
    assert files[2].read_text().startswith("<?xml")
    end = out.splitlines()[-2:]
    assert end[0] == f"results: {', '.join(map(str, files))}"
    assert end[1].startswith("next: hmc-fast profile RUN")


def test_rounds_are_those_asked_for(place, capsys, monkeypatch):
    seen = []
    measure_all = session.measure_all
    monkeypatch.setattr(
        session, "measure_all", lambda *a, **k: seen.extend(measure_all(*a, **k)) or seen
    )
    assert run("profile", *QUICK, "--quiet") == 0
    assert [(one.name.provider, one.batch, len(one.ms)) for one in seen] == [
        ("eager", 1, 2),
    ]
    out = capsys.readouterr().out
    assert "of 2 rounds; peak MiB: " in out
    assert "left out" not in out


def test_counts_alone_time_nothing(capsys, monkeypatch):
    monkeypatch.setattr(session, "measure_all", None)
    assert run("profile", *COUNTS, "--modules") == 0
    found = sections(capsys.readouterr().out)
    counts = found["one image of"][1].split()
    assert counts[:2] == ["resnet50", "23,514,179"]
    assert found["resnet50 by module"][1].split()[:2] == ["conv1", "9,408"]


def test_how_long_a_batch_size_takes_is_said_before(place, capsys, monkeypatch):
    monkeypatch.setattr(session, "WORTH_SAYING", 0)
    words = ["--variant", "resnet50", "--image-size", 64, "--rounds", 1, "--device", "cpu"]
    assert run("profile", *words, "--batch", "1,2") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("batch")]
    assert lines[0].startswith("batch 1: 1 rounds of about")
    assert lines[1].startswith("batch 2 will take about 0.")  # by what batch 1 took
    assert run("profile", *words, "--batch", 2) == 0
    assert "batch 2 will take about 0." in capsys.readouterr().out  # by single images


def test_table_two_is_that_of_224_pixels(capsys):
    assert run("profile", *COUNTS[:-4], "--device", "cpu") == 0
    lines = sections(capsys.readouterr().out)["the paper's Table"]
    assert lines[1].split() == ["resnet50", "23.5", "23", "8.17", "8", "7"]
    assert lines[2].startswith("45 M / 25 G does not follow from the paper's equations: ")


def test_a_run_is_counted_at_its_own_size_and_its_training_is_told(place, capsys):
    assert run("profile", "run", "--counts-only", "--device", "cpu") == 0
    out = capsys.readouterr().out
    found = sections(out)["one image of"]
    assert [line.split()[0] for line in found[1:3]] == ["resnet50", "hmc"]
    seconds = sum(float(row["seconds"]) for row in table(place / "run" / "history.csv"))
    assert f"training: {seconds / 3600:.3g} h of steps in 2 folds" in out
    assert out.splitlines()[-1] == "next: hmc-fast predict run IMAGE ..."


def test_a_runs_test_folds_are_timed_with_and_without_loading(place, capsys):
    assert run("profile", "run", *QUICK, "--csv", "p.csv") == 0
    found = {(row["op"], row["mode"]): row for row in table(place / "p.csv")}
    for fold in (0, 1):
        alone, loaded = (found["hmc", f"fold{fold}{way}"] for way in ("", "-with-loading"))
        assert 0 < float(alone["q50"]) < float(loaded["q50"])
    lines = sections(capsys.readouterr().out)["test folds of"]
    tested = [row["fold"] for row in table(place / "run" / "predictions.csv")]
    images = [line.split()[:2] for line in lines[1:4]]
    assert images == [["0", str(tested.count("0"))], ["1", str(tested.count("1"))], ["all", "24"]]


def test_the_folder_of_a_fold_stands_for_that_fold_alone(place, capsys):
    assert run("profile", "run/fold1", *QUICK) == 0
    out = capsys.readouterr().out
    lines = sections(out)["test folds of"]
    assert [line.split()[0] for line in lines[1:3]] == ["1", "all"]
    assert "h of steps in 1 fold, " in out


def test_each_folds_model_sees_its_own_test_images(place, monkeypatch):
    seen = {}

    def remember(folder, fold, **options):
        model = load_model(folder, fold, **options)
        model.register_forward_pre_hook(lambda _, given: seen.setdefault(fold, []).append(given[0]))
        return model

    monkeypatch.setattr("hmc_fast.training.opened_run.load_model", remember)
    assert run("profile", "run", *QUICK) == 0
    rows = table(place / "run" / "predictions.csv")
    preprocessing = load_model("run").preprocessing
    for fold in (0, 1):
        tested = [row["image"] for row in rows if row["fold"] == str(fold)]
        expected = [preprocessing(place / "data" / name) for name in tested]
        timed = seen[fold][2:]  # behind the warm-up
        assert len(timed) == len(expected)
        assert all((a == b).all() for a, b in zip(timed, expected, strict=True))


def test_images_that_were_moved_are_found_by_data(place, capsys):
    (place / "data").rename(place / "elsewhere")
    assert_refused(
        capsys,
        place,
        ["profile", "run", *COUNTS],
        "data",
        "give --data, where the run's data are now",
    )
    assert run("profile", "run", *COUNTS, "--data", "elsewhere") == 0


def test_an_image_that_was_changed_is_named(place, capsys):
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(place / "data" / "benign" / "b1_0.png")
    sentence = ("benign/b1_0.png of ", "data is not the image that the run in run was trained with")
    assert_refused(capsys, place, ["profile", "run", *QUICK], *sentence)


def test_an_image_that_is_missing_is_named(place, capsys):
    (place / "data" / "benign" / "b1_0.png").unlink()
    assert_refused(capsys, place, ["profile", "run", *QUICK], "b1_0.png", "--data")


def test_the_images_of_a_fold_that_is_not_trained_do_not_matter(place):
    shutil.rmtree(place / "run" / "fold1")
    rows = table(place / "run" / "folds.csv")
    other = next(row["image"] for row in rows if row["fold"] == "1")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(place / "data" / other)
    assert run("profile", "run", *QUICK, "--quiet") == 0


BAD = {
    "--variant hmcc": "argument --variant: invalid choice: 'hmcc' (choose from hmc, hierarchical, "
    "multiscale, resnet50, vgg16, vgg19, vit_b_16); did you mean hmc?",
    "--variant hmc,resnet": "did you mean resnet50?",
    "--variant vit_b_16 --image-size 100": "needs an --image-size that is a multiple of 16",
    "--batch 0": "argument --batch: must be a whole number of at least 1, got '0'",
    "--batch 1,-2": "must be a whole number of at least 1, got '-2'",
    "--batch 1,,2": "must be a whole number of at least 1, got ''",
    "--rounds 0": "argument --rounds: must be a whole number of at least 1, got '0'",
    "--image-size 63": "argument --image-size: must be from 64 to 1024 pixels, got '63'",
    "--image-size 1025": "argument --image-size: must be from 64 to 1024 pixels, got '1025'",
    "--dtype float8": "argument --dtype: invalid choice: 'float8'",
    "--dtype float16 --device cpu": "--dtype float16 is not fast on this CPU: use float32",
    "--reduction 3": "argument --reduction: invalid choice: 3",
    "--device tpu": "--device must be auto, cpu, cuda or cuda:N, got 'tpu'",
    "--backend flash": "argument --backend: invalid choice: 'flash'",
    "--data data": "--data says where a run's images are: give the run's folder too",
    "--csv none/p.csv": "cannot write none/p.csv: none is no folder",
    "--csv p.txt": "--csv must end in .csv, got 'p.txt'",
    "--csv /proc/p.csv": "cannot write /proc/p.csv: ",
    "--plot p.jpg": "--plot must end in .png or .svg or .pdf, got 'p.jpg'",
    "--trace p.txt": "--trace must end in .json or .json.gz, got 'p.txt'",
    "--trace t.json --counts-only": "--trace needs timings: leave --counts-only out",
    "--modul": "unrecognized arguments: --modul; did you mean --modules?",
    "nowhere": "no such run: nowhere",
    "data": "data is no run: it has no config.json, which hmc-fast train writes",
    "run --data phantom": "these folds belong to other data",
    "unfinished": "unfinished holds no trained fold",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_use_is_one_sentence(place, capsys, words):
    (place / "unfinished").mkdir()
    shutil.copy(place / "run" / "config.json", place / "unfinished")
    assert_refused(capsys, place, ["profile", *words.split()], BAD[words])


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("config.json", "{", "run/config.json is no JSON file: "),
        ("fold1/history.csv", "fold\n0\n", "run/fold1/history.csv is damaged: "),
        ("fold1/model.json", "{", "cannot read run/fold1/model.json: "),
        ("folds.csv", "", "run/folds.csv must start with image,patient,label,fold"),
        ("images.json", "[]", "run/images.json must hold a JSON object"),
    ],
)
def test_a_damaged_run_is_one_sentence(place, capsys, name, text, sentence):
    (place / "run" / name).write_text(text)
    assert_refused(capsys, place, ["profile", "run", *QUICK], sentence)


def test_what_is_missing_for_compiling_is_named(place, capsys, monkeypatch):
    monkeypatch.setattr(profile, "compiler_lacks", lambda: "a C++ compiler, g++")
    sentence = "--compile needs a C++ compiler, g++"
    assert_refused(capsys, place, ["profile", *QUICK, "--compile"], sentence)


def test_lack_of_memory_is_one_sentence(place, capsys, monkeypatch):
    def measure(*args, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    monkeypatch.setattr(session, "measure", measure)
    sentence = "not enough memory at batch 1: lower --batch or --image-size"
    assert_refused(capsys, place, ["profile", *QUICK], sentence)


@pytest.mark.slow
def test_a_real_run_is_timed_optimised_too(tmp_path, monkeypatch):
    make_folder(tmp_path / "data")
    monkeypatch.setenv("HMC_FAST_CACHE", str(tmp_path / "cache"))
    skip_pages(monkeypatch)
    words = ["--data", tmp_path / "data", *flags(out=tmp_path / "run", epochs=1), "--quiet"]
    assert run("train", *words, "--classes", ",".join(CLASSES), "--only-fold", 0) == 0
    path = tmp_path / "p.csv"
    assert run("profile", tmp_path / "run", *QUICK, "--compile", "--csv", path, "--quiet") == 0
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    timed = {row["provider"] for row in rows if row["mode"] == "fold0"}
    assert timed == {"eager", "compiled", "optimised"}
