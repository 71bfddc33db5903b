"""A run opened again: what its folder says, one fold alone, its images, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hmc_fast.data.dataset import pixel_hash
from hmc_fast.data.images import read_image
from hmc_fast.errors import InputError
from hmc_fast.training.opened_run import check_images, open_images, open_run, protocol_note
from tiny import finished_run, table


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """data/ and a finished run of two folds on it in run/."""
    return finished_run(tmp_path_factory.mktemp("opened"), seed=3)


@pytest.fixture
def place(shared, tmp_path, monkeypatch) -> Path:
    """A working directory with data/ and run/."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "run"):
        shutil.copytree(shared / name, tmp_path / name)
    return tmp_path


def test_what_a_folder_says(place):
    opened = open_run(Path("run"))
    assert (opened.folder, opened.config.seed, opened.fold) == (Path("run"), 3, None)
    assert opened.trained == opened.folds == (0, 1)
    for row in table(Path("run/folds.csv")):
        found = opened.rows[row["image"]]
        assert (found.patient, found.label, str(found.fold)) == tuple(row.values())[1:]
        digest = pixel_hash(read_image(Path("data", row["image"])))
        assert opened.name_of(digest) == row["image"]
    assert opened.name_of("0") is None


@pytest.mark.parametrize(("path", "fold"), [("run/fold1", None), ("run", 1), ("run/fold1", 1)])
def test_one_fold_alone(place, path, fold):
    opened = open_run(Path(path), fold)
    assert (opened.fold, opened.folds, opened.trained) == (1, (1,), (0, 1))
    assert opened.folder.resolve() == place / "run"


def test_images_and_the_folds_that_test_them(place):
    images = open_images(open_run(Path("run")))
    for fold in (0, 1):
        expected = [r["image"] for r in table(Path("run/folds.csv")) if r["fold"] == str(fold)]
        assert [images.dataset.images[i] for i in images.tested(fold)] == expected
    assert sorted(images.tested(0) + images.tested(1)) == list(range(24))


def test_images_are_found_where_they_are_now(place):
    Path("data").rename("moved")
    opened = open_run(Path("run"))
    with pytest.raises(InputError, match="give --data, where the run's data are now"):
        open_images(opened)
    images = open_images(opened, "moved")
    check_images(images, quiet=True)
    np.testing.assert_array_equal(images.assignment, [r.fold for r in opened.rows.values()])


def test_settings_that_are_younger_than_the_run_have_their_defaults(place):
    config = json.loads(Path("run/config.json").read_text())
    del config["protocol"]
    Path("run/config.json").write_text(json.dumps(config))
    assert open_run(Path("run")).config.protocol == "patient"


@pytest.mark.parametrize(
    ("protocol", "says"),
    [("image", "films of one patient"), ("leaky", "augmented copies of the test images")],
)
def test_a_leak_is_one_sentence(protocol, says):
    (note,) = protocol_note(protocol)
    assert note.startswith(f"note: trained with protocol {protocol}: {says}")
    assert protocol_note("patient") == []


def test_a_damaged_model_that_is_not_asked_for_does_not_matter(place):
    Path("run/fold0/model.json").write_text("{")
    assert open_run(Path("run"), 1).folds == (1,)
    with pytest.raises(InputError, match=r"cannot read run/fold0/model\.json"):
        open_run(Path("run"))
