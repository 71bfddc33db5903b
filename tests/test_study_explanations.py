"""The study's explanations: whose models explain what, what is read back, what a stop leaves."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hmc_fast import load_model
from hmc_fast.data.images import downscale_mask, read_image, resize
from hmc_fast.errors import InputError
from hmc_fast.explain import grad_cam, one_film
from hmc_fast.explain import run as job
from hmc_fast.explain.table import COLUMNS
from hmc_fast.study import explanations
from hmc_fast.study.explanations import explain_run, explanations_again
from hmc_fast.training import run_data
from tiny import CLASSES, contents, finished_run, table, use_tiny_network
from tiny_lesions import mask_of, with_masks

CPU, LAYER, OUT = torch.device("cpu"), "2", Path("out")
METHODS = ("grad-cam", "grad-cam++", "score-cam")


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """data/ and a finished run of two folds on it in run/."""
    return finished_run(tmp_path_factory.mktemp("explanations"), lr=0.1)


@pytest.fixture
def place(shared, tmp_path, monkeypatch) -> Path:
    """A working directory with data/ and run/; the data have masks, and nothing is
    drawn."""
    use_tiny_network(monkeypatch)
    opened = run_data.open_dataset
    monkeypatch.setattr(
        run_data, "open_dataset", lambda *words, **more: with_masks(opened(*words, **more))
    )
    monkeypatch.setattr(one_film, "_draw", lambda *words: None)
    monkeypatch.setattr(one_film, "faithfulness", partial(one_film.faithfulness, steps=2))
    monkeypatch.chdir(tmp_path)
    for name in ("data", "run"):
        shutil.copytree(shared / name, tmp_path / name)
    return tmp_path


def explained(**settings):
    options = {"device": CPU, "images": 4, "layer": LAYER, "quiet": True} | settings
    return explain_run(Path("run"), OUT, **options)


def equal(one, other) -> bool:
    """Whether two entries are the same, arrays by dtype and value."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def test_maps_are_of_the_fold_that_did_not_train_on_the_film(place):
    found = explained()
    folds = {row["image"]: int(row["fold"]) for row in table(Path("run/folds.csv"))}
    assert {folds[panel["image"]] for panel in found["panels"]} == {0, 1}
    for panel in found["panels"]:
        model = load_model("run", folds[panel["image"]])
        images = model.preprocessing(f"data/{panel['image']}")
        target = CLASSES.index(panel["label"])
        expected = grad_cam(model, images, target, layer=LAYER)[0].numpy()
        np.testing.assert_allclose(panel["maps"]["grad-cam"], expected, rtol=0, atol=1e-5)
        with torch.no_grad():
            assert panel["predicted"] == CLASSES[int(model(images).argmax())]


def test_panels_hold_what_the_network_sees(place):
    found = explained()
    assert [panel["label"] for panel in found["panels"]] == ["malignant"] * 4  # alone with masks
    for panel in found["panels"]:
        assert list(panel["maps"]) == list(METHODS)
        assert all(m.dtype == np.float32 and m.shape == (64, 64) for m in panel["maps"].values())
        film = read_image(Path("data", panel["image"]))
        np.testing.assert_array_equal(panel["film"], resize(film, 64))
        np.testing.assert_array_equal(panel["mask"], downscale_mask(mask_of("malignant"), 64))


def test_rows_and_table_are_numbers_without_times(place):
    found = explained()
    assert [(r["image"], r["method"]) for r in found["rows"]] == [
        (panel["image"], method) for panel in found["panels"] for method in METHODS
    ]
    assert "seconds" not in found["rows"][0]
    assert tuple(found["table"][0]) == COLUMNS
    for method in METHODS:
        (row,) = [r for r in found["table"] if (r["method"], r["figure"]) == (method, "iou")]
        values = [r["iou"] for r in found["rows"] if r["method"] == method]
        defined = [value for value in values if value is not None]
        assert (row["images"], row["left_out"]) == (len(defined), 4 - len(defined))
        assert row["mean"] == pytest.approx(np.mean(defined), abs=1e-5)
        assert 0 < row["fitted"] <= row["bound"] <= 1


@pytest.mark.parametrize("settings", [{}, {"methods": ["grad-cam"], "target": "predicted"}])
def test_what_is_read_back_is_what_was_returned(place, settings):
    assert explanations_again(OUT) is None
    found = explained(**settings)
    shutil.rmtree("run")
    shutil.rmtree("data")
    assert equal(explanations_again(OUT), found)


NOTES = {
    "plain": ({}, "each map explains the film's own class;", "Score-CAM is exact: every channel"),
    "fewer channels": ({"max_channels": 3}, "own class;", "tries the 3 channels of the largest"),
    "predicted": ({"target": "predicted"}, "the class that the model predicts;", "exact"),
    "no score-cam": ({"methods": ["grad-cam"]}, "own class;", "is not among these methods"),
}


@pytest.mark.parametrize("name", NOTES)
def test_notes_say_what_was_done(place, name):
    settings, aim, score_cam = NOTES[name]
    notes = explained(**settings)["notes"]
    assert notes[0].startswith("4 films with a known lesion (malignant, 2 test folds), chosen by")
    assert aim in notes[1]
    (told,) = [note for note in notes if note.startswith("Score-CAM")]
    assert score_cam in told
    assert any("No map of so many cells" in note for note in notes)
    assert not any(note.startswith(("grad-cam,", "score-cam,")) for note in notes)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, METHODS[:2]), ({"max_channels": 2}, METHODS), ({"methods": METHODS}, METHODS)],
)
def test_score_cam_of_large_images_on_a_cpu_is_made_where_it_is_asked_for(
    place, monkeypatch, settings, expected
):
    monkeypatch.setattr(explanations, "QUICK_PIXELS", 63)
    found = explained(images=1, **settings)
    assert tuple(found["panels"][0]["maps"]) == tuple(expected)
    assert {row["method"] for row in found["table"]} == set(expected)


def test_a_run_whose_split_leaks_is_noted(place):
    path = Path("run/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"protocol": "leaky"}))
    assert any("trained with protocol leaky: " in note for note in explained()["notes"])


def test_more_films_than_panels(place, monkeypatch):
    monkeypatch.setattr(explanations, "PANELS", 2)
    found = explained(methods=["grad-cam"])
    assert (len(found["panels"]), len(found["rows"])) == (2, 4)
    assert len(list(OUT.glob("images/*/*/film.npy"))) == 2
    monkeypatch.setitem(explanations.FILMS, "cpu", 6)
    every = explained(methods=["grad-cam"], images=None)
    assert len(every["rows"]) == 6  # of eight
    assert [p["image"] for p in every["panels"]] == [p["image"] for p in found["panels"]]


def without_times(directory: Path) -> dict[str, object]:
    files = {k: v for k, v in contents(directory).items() if k != "explain.csv"}
    rows = table(directory / "explain.csv")
    return files | {"rows": [{k: v for k, v in r.items() if k != "seconds"} for r in rows]}


@pytest.mark.parametrize("after", [0, 2])
def test_a_stop_keeps_what_is_finished_and_the_next_call_goes_on(place, monkeypatch, after):
    whole, calls = job.explain_film, []

    def stopping(request, film, *more):
        calls.append(film.name)
        if len(calls) > after:
            raise KeyboardInterrupt
        return whole(request, film, *more)

    with monkeypatch.context() as patch:
        patch.setattr(job, "explain_film", stopping)
        with pytest.raises(KeyboardInterrupt):
            explained()
    assert explanations_again(OUT) is None
    resumed = explained()
    files = without_times(OUT)
    shutil.rmtree(OUT)
    assert equal(explained(), resumed)
    assert without_times(OUT) == files


def test_a_film_that_has_changed_is_noted_and_the_others_explained(place):
    changed = explained()["panels"][0]["image"]
    shutil.rmtree(OUT)
    shutil.copy("data/normal/n0_0.png", f"data/{changed}")
    found = explained()
    assert len(found["panels"]) == 3
    assert f"{changed} has changed since the run in run began" in found["notes"]


def test_no_known_lesion_gives_none(place, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(place)
    use_tiny_network(monkeypatch)
    assert explained() is None
    assert not OUT.exists()


DAMAGES = {
    "panels.json": ("{", "out/panels.json is no JSON file"),
    "explain.csv": ("a\n", "out/explain.csv is damaged"),
    "table.csv": ("a,b\n", "out is damaged (table.csv must start with method,layer,figure"),
    "images/*/*/film.npy": ("x", "out is damaged ("),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_one_sentence(place, name):
    explained(methods=["grad-cam"])
    text, sentence = DAMAGES[name]
    for path in OUT.glob(name):
        path.write_text(text)
    with pytest.raises(InputError) as error:
        explanations_again(OUT)
    assert sentence in str(error.value)
