"""`hmc-fast explain`: which model explains which image, what is written, and what a stop leaves."""

import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hmc_fast import load_model
from hmc_fast.data import open_dataset
from hmc_fast.evaluation import figures
from hmc_fast.explain import grad_cam, one_film
from hmc_fast.explain import run as job
from hmc_fast.explain.faithfulness import faithfulness
from hmc_fast.explain.fold_model import grey_network
from hmc_fast.explain.localisation import iou
from hmc_fast.training import run_data
from random_network import phantom_images, small_network
from tiny import (
    CLASSES,
    assert_refused,
    contents,
    flags,
    make_folder,
    run,
    skip_pages,
    table,
    tiny_layers,
    use_tiny_network,
)
from tiny_lesions import SQUARE, with_masks

COLUMNS = (
    "image,label,predicted,target,method,layer,iou,pointing_game,energy_inside,average_drop,"
    "increase,insertion,deletion,seconds"
)
FIGURES = COLUMNS.split(",")[6:-1]
LAYER = "2"  # of the tiny network: 8 channels of 8 x 8 cells, after the ReLU


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """data/, a finished run on it in run/, and x.png of no data set."""
    root = tmp_path_factory.mktemp("explain")
    make_folder(root / "data")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "x.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HMC_FAST_CACHE", str(root / "cache"))
        patch.chdir(root)
        use_tiny_network(patch)
        skip_pages(patch)
        words = ["--data", "data", *flags(out=root / "run", lr=0.1), "--quiet"]
        assert run("train", *words) == 0
    return root


@pytest.fixture
def place(shared, tmp_path, monkeypatch) -> Path:
    """A working directory with data/, run/ and x.png; the data have masks. Pictures are empty files
    and curves have few points: they take longer than all the rest."""
    use_tiny_network(monkeypatch)
    opened = run_data.open_dataset
    monkeypatch.setattr(
        run_data, "open_dataset", lambda *words, **more: with_masks(opened(*words, **more))
    )
    monkeypatch.setattr(one_film, "save", lambda figure, path: path.touch())
    monkeypatch.setattr(one_film, "faithfulness", partial(one_film.faithfulness, steps=2))
    monkeypatch.chdir(tmp_path)
    for name in ("data", "run"):
        shutil.copytree(shared / name, tmp_path / name)
    shutil.copy(shared / "x.png", tmp_path)
    return tmp_path


def explain(*words: object) -> int:
    return run("explain", "run", "--layer", LAYER, "--out", "out", "--quiet", *words)


def rows() -> list[dict[str, str]]:
    return table(Path("out/explain.csv"))


def names(few: int = 24) -> list[str]:
    """The first images of the run, of both folds."""
    return [row["image"] for row in table(Path("run/folds.csv"))][:few]


def cam_of(image: str, method: str = "grad-cam", layer: str = LAYER) -> np.ndarray:
    return np.load(f"out/images/{image}/{method}.{layer}.npy")


def test_every_image_is_explained_by_the_fold_that_did_not_train_on_it(place):
    assert explain() == 0
    folds = {row["image"]: int(row["fold"]) for row in table(Path("run/folds.csv"))}
    out_of_fold = {row["image"]: row["predicted"] for row in table(Path("run/predictions.csv"))}
    models = [load_model("run", fold) for fold in (0, 1)]
    assert sorted(row["image"] for row in rows()) == sorted(folds)
    for row in rows():
        model = models[folds[row["image"]]]
        images = model.preprocessing(f"data/{row['image']}")
        target = CLASSES.index(out_of_fold[row["image"]])
        assert row["predicted"] == row["target"] == CLASSES[target]
        expected = grad_cam(model, images, target, layer=LAYER)[0].numpy()
        np.testing.assert_allclose(cam_of(row["image"]), expected, rtol=0, atol=1e-5)


def test_what_is_written(place, monkeypatch):
    monkeypatch.setattr(one_film, "save", figures.save)
    image = names()[0]
    assert explain("--images", image, "--method", "all", "--layer", LAYER, "0") == 0
    assert Path("out/explain.csv").read_text().splitlines()[0] == COLUMNS
    pairs = {(row["method"], row["layer"]) for row in rows()}
    methods = ("grad-cam", "grad-cam++", "score-cam")
    assert pairs == {(method, layer) for method in methods for layer in (LAYER, "0")}
    made = {path.name for path in Path("out/images", image).iterdir()}
    maps = {f"{method}.{layer}.{kind}" for method, layer in pairs for kind in ("npy", "png")}
    assert made == maps | {f"panel.{LAYER}.png", "panel.0.png"}
    with Image.open(Path("out/images", image, f"panel.{LAYER}.png")) as picture:
        assert picture.width > 2 * picture.height
    cam = cam_of(image, "score-cam")
    assert (cam.dtype, cam.shape, cam.min(), cam.max()) == (np.float32, (64, 64), 0, 1)
    assert not list(place.rglob("*.tmp"))
    assert not Path("out/.lock").exists()


def test_figures_of_known_lesions_and_none_of_others(place):
    assert explain("--target", "label") == 0
    larger = np.kron(SQUARE, np.ones((4, 4))) > 0  # from 16 to 64 pixels
    for row in rows():
        assert row["target"] == row["label"] == row["image"].split("/")[0]
        localised = [row[name] for name in FIGURES[:3]]
        cam = cam_of(row["image"])
        if row["label"] == "malignant" and cam.any():
            assert float(row["iou"]) == pytest.approx(iou(cam, larger), abs=1e-5)
            assert all(localised)
        else:
            assert not any(localised)
        assert all(bool(row[name]) == bool(cam.any()) for name in FIGURES[3:])


def test_one_fold_or_one_class_alone(place):
    assert explain("--fold", 1, "--target", "malignant") == 0
    folds = {row["image"]: row["fold"] for row in table(Path("run/folds.csv"))}
    assert {row["image"] for row in rows()} == {name for name in folds if folds[name] == "1"}
    assert {row["target"] for row in rows()} == {"malignant"}
    shutil.rmtree("out")
    assert run("explain", "run/fold1", "--layer", LAYER, "--out", "out", "--quiet") == 0
    assert {folds[row["image"]] for row in rows()} == {"1"}


def test_a_file_of_the_run_is_known_by_its_pixels(place):
    shutil.copy("data/benign/b1_0.png", "copy.png")
    (row,) = [r for r in table(Path("run/folds.csv")) if r["image"] == "benign/b1_0.png"]
    other = 1 - int(row["fold"])
    assert explain("--images", "copy.png", "--fold", other) == 0
    ((found,), expected) = rows(), load_model("run", int(row["fold"]))
    assert (found["image"], found["label"]) == ("benign/b1_0.png", "benign")
    images = expected.preprocessing("copy.png")
    target = CLASSES.index(found["target"])
    map_of_its_own_fold = grad_cam(expected, images, target, layer=LAYER)[0].numpy()
    np.testing.assert_allclose(cam_of("benign/b1_0.png"), map_of_its_own_fold, atol=1e-5)


def test_an_image_of_nobody_needs_a_fold(place, capsys):
    assert explain("--images", "x.png", names()[0]) == 1
    assert capsys.readouterr().err == (
        "hmc-fast: x.png is no image of the run: give --fold to say whose model explains\n"
    )
    assert explain("--images", "x.png", "--fold", 1) == 0
    row = rows()[-1]
    assert (row["image"], row["label"], row["iou"]) == ("x.png", "", "")
    (folder,) = Path("out/images").glob("x-*")
    assert (folder / f"grad-cam.{LAYER}.npy").is_file()


def test_a_file_with_the_name_of_an_image_of_the_run_and_other_pixels(place, monkeypatch):
    name = names()[0]
    (place / "elsewhere" / name).parent.mkdir(parents=True)
    shutil.copy("x.png", place / "elsewhere" / name)
    (place / "elsewhere" / "run").symlink_to(place / "run")
    monkeypatch.chdir(place / "elsewhere")
    assert explain("--data", "../data", "--images", name, "--fold", 0) == 0
    (row,) = rows()
    assert row["image"].startswith(f"{name}-")
    assert row["label"] == ""


def test_data_that_have_moved(place, capsys):
    Path("data").rename("moved")
    words = ["explain", "run", "--layer", LAYER]
    assert_refused(capsys, place, words, "give --data, where the run's data are now")
    assert explain("--images", f"moved/{names()[0]}") == 0
    assert rows()[0]["label"] == names()[0].split("/")[0]
    assert explain("--data", "moved", "--images", *names(2)) == 0
    assert len(rows()) == 2


def test_other_data_need_a_fold_too(place, capsys):
    make_folder(place / "other", patients=1)
    assert_refused(
        capsys, place, ["explain", "run", "--data", "other", "--layer", LAYER],
        "these folds belong to other data; give --fold",
    )  # fmt: skip
    assert explain("--data", "other", "--fold", 0) == 0
    # its normal images have the run's pixels, the others the names of images with other pixels
    found = {row["image"] for row in rows()}
    own = {"normal/n0_0.png", "normal/n0_1.png"}
    assert found & set(names()) == own
    assert {name.rpartition("-")[0] for name in found - own} == {
        f"{label}/{label[0]}0_{film}.png" for label in ("benign", "malignant") for film in (0, 1)
    }


def test_images_that_fail_are_named_and_the_others_explained(place, capsys):
    first, second, third = names(3)
    Path("bad.png").write_text("no image")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(f"data/{second}")
    words = ["bad.png", first, "none.png", second, third]
    assert explain("--images", *words) == 1
    assert capsys.readouterr().err.splitlines() == [
        "hmc-fast: bad.png is no PNG, PGM, JPEG or TIFF image",
        "hmc-fast: no such file: none.png",
        f"hmc-fast: {second} has changed since the run in run began",
    ]
    assert sorted(row["image"] for row in rows()) == sorted([first, third])


def test_an_image_of_a_fold_that_is_not_trained(place, capsys):
    shutil.rmtree("run/fold1")
    folds = {row["image"]: row["fold"] for row in table(Path("run/folds.csv"))}
    image = next(name for name in folds if folds[name] == "1")
    assert explain("--images", image) == 2
    assert "hmc-fast train --resume --out run --only-fold 1" in capsys.readouterr().err
    assert explain() == 0
    assert {folds[row["image"]] for row in rows()} == {"0"}


def without_times(path: str) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in table(Path(path))]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("after", [0, 3])
def test_a_stop_keeps_what_is_finished_and_the_next_call_goes_on(place, monkeypatch, stop, after):
    words = ["--images", *names(5), "--method", "grad-cam", "grad-cam++"]
    whole, calls = job.explain_film, []

    def stopping(request, film, *more):
        calls.append(film.name)
        if len(calls) > after:
            raise stop
        return whole(request, film, *more)

    monkeypatch.setattr(job, "explain_film", stopping)
    assert explain(*words) == (130 if stop is KeyboardInterrupt else 2)
    if after:
        assert [row["image"] for row in rows()] == [n for n in calls[:after] for _ in range(2)]
    monkeypatch.setattr(job, "explain_film", lambda *all: calls.append(all[1].name) or whole(*all))
    del calls[:]
    assert explain(*words) == 0
    assert len(calls) == 5 - after
    resumed = without_times("out/explain.csv"), contents(place / "out/images")
    shutil.rmtree("out")
    assert explain(*words) == 0
    assert (without_times("out/explain.csv"), contents(place / "out/images")) == resumed


TINY = (
    "import sys; from pytest import MonkeyPatch; import tiny; "
    "tiny.use_tiny_network(MonkeyPatch()); sys.exit(tiny.run(*sys.argv[1:]))"
)


def killed_after(words: list[str], finished: int) -> None:
    """Run the command in a process of its own and kill it once so many images are finished."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    process = subprocess.Popen([sys.executable, "-c", TINY, *words], env=environment)
    table_path = Path("out/explain.csv")
    while process.poll() is None:
        if table_path.exists() and len(table(table_path)) >= finished:
            time.sleep(0.001 * finished)  # somewhere within the next image
            process.kill()
    process.wait()


@pytest.mark.slow
def test_a_killed_process_loses_no_finished_image(place, monkeypatch):
    monkeypatch.setattr(run_data, "open_dataset", open_dataset)  # as in the other process
    monkeypatch.setattr(one_film, "faithfulness", faithfulness)
    words = ["explain", "run", "--layer", LAYER, "--out", "out", "--quiet", "--images", *names(20)]
    seen = 0
    for finished in (2, 7, 13):
        killed_after(words, finished)
        found = [row["image"] for row in rows()]
        assert len(set(found)) == len(found) >= max(seen, finished)
        assert all(cam_of(image).shape == (64, 64) for image in found)
        seen = len(found)
    assert run(*words) == 0
    resumed = without_times("out/explain.csv")
    assert not list(place.glob("out/**/.*.tmp"))
    shutil.rmtree("out")
    assert run(*words) == 0
    assert without_times("out/explain.csv") == resumed


def test_more_methods_and_images_join_what_is_there(place):
    first, second, _ = names(3)
    assert explain("--images", first) == 0
    assert explain("--images", first, second, "--method", "grad-cam++") == 0
    found = [(row["image"], row["method"]) for row in rows()]
    assert found == [(first, "grad-cam"), (first, "grad-cam++"), (second, "grad-cam++")]


def test_a_lost_map_is_made_again(place):
    first = names()[0]
    assert explain("--images", first) == 0
    before = cam_of(first)
    Path(f"out/images/{first}/grad-cam.{LAYER}.npy").unlink()
    assert explain("--images", first) == 0
    assert len(rows()) == 1
    np.testing.assert_array_equal(cam_of(first), before)


OTHER_SETTINGS = {
    "--target label": "another target (predicted there, label here)",
    "--colormap jet": "another colormap (inferno there, jet here)",
    "--recipe printed": "another recipe of grad-cam++ (original there, printed here)",
    "--max-channels 3": "another max-channels (None there, 3 here)",
}


@pytest.mark.parametrize("words", OTHER_SETTINGS)
def test_other_settings_need_another_folder(place, capsys, words):
    images = ["--images", names()[0], "--method", "all"]
    assert explain(*images) == 0
    assert_refused(
        capsys, place,
        ["explain", "run", "--layer", LAYER, "--out", "out", *images, *words.split()],
        f"out holds explanations with {OTHER_SETTINGS[words]}: choose another --out",
    )  # fmt: skip


def test_a_model_trained_anew_needs_another_folder(place, capsys):
    image = next(r["image"] for r in table(Path("run/folds.csv")) if r["fold"] == "0")
    assert explain("--images", image) == 0
    description = json.loads(Path("run/fold0/model.json").read_text())
    description["weights_sha256"] = None
    Path("run/fold0/model.json").write_text(json.dumps(description))
    assert explain("--images", image) == 2
    assert "out holds explanations with another model of fold 0" in capsys.readouterr().err


def test_the_table_is_that_of_the_rows(place, capsys):
    assert run("explain", "run", "--layer", LAYER, "--out", "out", "--table") == 0
    told = capsys.readouterr().out
    (row,) = [r for r in table(Path("out/table.csv")) if r["figure"] == "iou"]
    values = [float(r["iou"]) for r in rows() if r["iou"]]
    assert int(row["images"]) == len(values)
    assert int(row["images"]) + int(row["left_out"]) == 24
    assert float(row["mean"]) == pytest.approx(np.mean(values), abs=1e-5)
    assert row["low"] == row["high"] == ""  # of 8 films
    assert "a mean of fewer than 10 patients, or that is the same in every draw of" in told
    assert 0 < float(row["fitted"]) <= float(row["bound"]) <= 1
    assert row["paper"] == ""  # of MIAS alone
    assert "2 has 8 x 8 cells: its smallest region has" in told
    assert "the median of these 8 masks 480. No map of so many cells" in told
    assert "not localised: 8 films without lesion" in told
    unknown = "not localised: 8 films whose lesion's place is not known or not trusted (benign/b"
    assert unknown in told
    assert "next: hmc-fast explain run" in told


def test_constant_maps_are_counted(place, capsys, monkeypatch):
    zeros = np.zeros((64, 64), np.float32)
    monkeypatch.setattr(one_film, "one_map", lambda *words, **more: zeros)
    words = ["--layer", LAYER, "--out", "out", "--table", "--images", *names(3)]
    assert run("explain", "run", *words) == 0
    told = capsys.readouterr().out
    assert "constant maps, which have no figures: 3 of grad-cam, 2" in told
    assert "grad-cam, 2: IoU undefined; pointing game undefined;" in told
    assert {row[name] for row in rows() for name in FIGURES} == {""}


@pytest.mark.parametrize("mode", [[], ["independent"]])
def test_the_sanity_check_names_every_part(place, capsys, mode):
    words = ["--images", *names(4), "--out", "out", "--layer", LAYER, "--sanity", *mode]
    assert run("explain", "run", *words) == 0
    found = table(Path("out/sanity.csv"))
    assert [row["part"] for row in found] == ["5", "1", "0"]  # linear, norm, convolution
    assert {row["mode"] for row in found} == {mode[0] if mode else "cascading"}
    for row in found:
        assert 1 <= int(row["images"]) + int(row["left_out"]) <= 4
        assert row["correlation"] == "" or -1 <= float(row["correlation"]) <= 1
    assert "sanity, grad-cam, 2: rank correlation" in capsys.readouterr().out


def test_it_ends_with_where_and_what_next(place, capsys):
    words = ["explain", "run", "--layer", LAYER, "--images", names()[0]]
    assert run(*words) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == [
        "1 map of 1 image: run/explain/explain.csv, pictures in run/explain/images",
        f"next: hmc-fast {' '.join(words)} --table",
    ]
    assert run(*words) == 0
    assert "1 image explained before" in capsys.readouterr().out


@pytest.mark.parametrize("build", [small_network, lambda dtype: tiny_layers(3).to(dtype).eval()])
def test_the_fastest_form_answers_as_the_network(build):
    model, images = build(torch.float32), phantom_images(2)
    with torch.no_grad():
        expected = model(images)
    network = grey_network(model, images)
    torch.testing.assert_close(network(images[:, :1]).detach(), expected, rtol=1e-4, atol=1e-4)


BAD = {
    "nowhere": "no such run: nowhere",
    "empty": "empty is no run: it has no config.json, which hmc-fast train writes",
    "begun": "begun holds no trained fold",
    "run --fold 9": "run holds no trained fold 9 (trained: 0, 1)",
    "run/fold1 --fold 0": "run/fold1 is the folder of fold 1: leave --fold 0 out",
    "run --images none.png": "none of the images could be explained",
    "run --layer layr4": "--layer: the network has no layer 'layr4'",
    "run --layer 4": "--layer: layer '4' gives (1, 8), which are no maps",
    "run --target malignent": "got 'malignent'; did you mean malignant?",
    "run --method grad-cam+": "invalid choice: 'grad-cam+'",
    "run --recipe official": "--recipe official fits none of the methods asked for",
    "run --colormap rainbow": "invalid choice: 'rainbow'",
    "run --dtype float8": "invalid choice: 'float8'",
    "run --batch-size 0": "--batch-size must be at least 1, got 0",
    "run --max-channels 0": "--max-channels must be at least 1, got 0",
    "run --sanity --method score-cam": "with score-cam give --max-channels too",
    "run --device tpu": "--device must be auto, cpu, cuda or cuda:N, got 'tpu'",
    "run --data none": "no such directory",
    "run --out x.png": "cannot write to x.png",
    "run --colourmap jet": "unrecognized arguments: --colourmap jet; did you mean --colormap?",
}


@pytest.mark.parametrize("words", BAD)
def test_bad_use_is_one_sentence_and_changes_nothing(place, capsys, words):
    (place / "empty").mkdir()
    (place / "begun").mkdir()
    shutil.copy("run/config.json", "begun")
    if words == "run --images none.png":
        assert run("explain", *words.split()) == 2
        assert capsys.readouterr().err.splitlines()[1:] == [f"hmc-fast: {BAD[words]}"]
        return
    more = [] if "--layer" in words else ["--layer", LAYER]
    assert_refused(capsys, place, ["explain", *words.split(), *more], BAD[words])


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("run/folds.csv", "image,fold\n", "run/folds.csv must start with image,patient,label"),
        ("run/images.json", "{}", "run is damaged: folds.csv and images.json name different"),
        ("run/config.json", "{", "run/config.json is no JSON file"),
        ("run/fold0/model.json", "{", "cannot read run/fold0/model.json"),
        ("out/explain.csv", "a,b\n", "out/explain.csv is damaged (it must start with image,label"),
        ("out/explain.json", "{", "out/explain.json is no JSON file"),
    ],
)
def test_damaged_files_are_one_sentence(place, capsys, name, text, sentence):
    images = names(2)
    assert explain("--images", *images) == 0
    capsys.readouterr()
    Path(name).write_text(text)
    words = ["explain", "run", "--layer", LAYER, "--out", "out", "--images", *images]
    assert_refused(capsys, place, words, sentence)


@pytest.mark.parametrize("protocol", ["patient", "image", "leaky"])
def test_a_run_whose_split_leaks_is_announced(place, capsys, protocol):
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps(config | {"protocol": protocol}))
    words = ["explain", "run", "--layer", LAYER, "--images", names()[0]]
    assert run(*words) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "trained with" in line]
    assert len(told) == (protocol != "patient")
    assert all(line.startswith(f"note: trained with protocol {protocol}: ") for line in told)
    assert run(*words, "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_folds_that_the_model_was_not_trained_with_are_refused(place, capsys):
    path = Path("run/folds.csv")
    lines = path.read_text().splitlines()
    swapped = [line[:-1] + {"0": "1", "1": "0"}.get(line[-1], line[-1]) for line in lines]
    path.write_text("\n".join(swapped) + "\n")
    words = ["explain", "run", "--layer", LAYER, "--out", "out"]
    assert_refused(capsys, place, words, "is not the one that fold 0 was trained with")
