"""Class folders: names, patients, warnings, and one sentence for what does not fit."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmc_fast.data import open_dataset
from hmc_fast.data.folder import open_folder
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file

CLASSES = ("normal", "benign", "malignant")
FILES = (
    "normal/a.png",
    "normal/b.PGM",
    "benign/a.png",
    "benign/c.tif",
    "malignant/d.JPG",
    "malignant/e.jpeg",
)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes small flat images, and patients.csv if lines for it are given."""

    def make(*files: str, patients: str | None = None) -> Path:
        for number, name in enumerate(files or FILES):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            Image.new("L", (6, 4), 10 * number).save(path)
        if patients is not None:
            (tmp_path / "patients.csv").write_text(patients)
        return tmp_path

    return make


def table(*rows: str) -> str:
    return "\n".join(["image,patient_id", *rows, ""])


def test_images_are_named_by_class_and_file(make_folder):
    directory = make_folder()
    dataset = open_dataset(str(directory))
    assert dataset.images == tuple(sorted(FILES))
    assert dataset.name == str(directory)
    assert dataset.classes == CLASSES
    assert dataset.labels.tolist() == [1, 1, 2, 2, 0, 0]
    assert dataset.labels.dtype == dataset.strata.dtype == np.int64
    assert dataset.read(0).tolist() == [[20] * 6] * 4
    assert dataset.content(4) == sha256_file(directory / "normal" / "a.png")
    assert [dataset.mask(i) for i in range(6)] == [None] * 6


def test_without_a_table_each_image_is_a_patient_and_a_warning_says_so(make_folder):
    dataset = open_folder(make_folder(), classes=CLASSES)
    assert dataset.patients == dataset.images
    assert dataset.strata.tolist() == dataset.labels.tolist()
    (warning,) = dataset.warnings
    assert "no patients.csv, so each image counts as a patient of its own" in warning


def test_patients_and_their_worst_class(make_folder):
    rows = table("normal/a.png,7", "benign/a.png,7", "b.PGM, 8 ", "c.tif,9", "d.JPG,8", "e.jpeg,10")
    dataset = open_folder(make_folder(patients=rows), classes=CLASSES)
    assert dict(zip(dataset.images, dataset.patients, strict=True)) == {
        "normal/a.png": "7",
        "benign/a.png": "7",
        "normal/b.PGM": "8",
        "benign/c.tif": "9",
        "malignant/d.JPG": "8",
        "malignant/e.jpeg": "10",
    }
    assert dataset.strata.tolist() == [1, 1, 2, 2, 1, 2]
    assert dataset.warnings == ()


def test_a_table_may_have_a_mark_quotes_further_columns_and_empty_lines(make_folder):
    lines = '\ufeffage,patient_id,image\r\n50,"x, y",normal/a.png\r\n\r\n,z,benign/a.png\r\n'
    directory = make_folder("normal/a.png", "benign/a.png", patients=lines)
    dataset = open_folder(directory, classes=("normal", "benign"))
    assert dataset.patients == ("z", "x, y")


BAD_TABLES = {
    "unknown image": (table("normal/x.png,1"), "line 2: normal/x.png: no such image"),
    "two of a name": (table("a.png,1"), "line 2: a.png: benign/a.png, normal/a.png all have"),
    "twice": (table("normal/a.png,1", "normal/a.png,2"), "line 3: normal/a.png has a row already"),
    "no patient": (table("normal/a.png,"), "line 2: image and patient_id must both be given"),
    "one cell": (table("normal/a.png"), "line 2: image and patient_id must both be given"),
    "missing": (table("normal/a.png,1"), "has no row for benign/a.png, .*malignant/e.jpeg"),
    "header": (
        "file;patient\n",
        "line 1: the header should be image,patient_id, not 'file;patient'",
    ),
    "empty": ("", "line 1: the header should be image,patient_id"),
    "quote": (table('"normal/a.png,1'), "cannot be read as CSV"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_does_not_fit_is_named_with_its_line(make_folder, case):
    text, reason = BAD_TABLES[case]
    with pytest.raises(InputError, match=rf"patients\.csv.*{reason}"):
        open_folder(make_folder(patients=text), classes=CLASSES)


def test_a_table_in_another_encoding_is_refused(make_folder):
    directory = make_folder()
    (directory / "patients.csv").write_bytes("image,patient_id\nä,1\n".encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read as CSV in UTF-8"):
        open_folder(directory, classes=CLASSES)


def test_other_classes_and_their_order(make_folder):
    directory = make_folder("sick/x.png", "well/y.png", "odd/z.png")
    dataset = open_folder(directory, classes=("well", "sick"))
    assert dict(zip(dataset.images, dataset.labels.tolist(), strict=True)) == {
        "sick/x.png": 1,
        "well/y.png": 0,
    }
    assert any("not among the classes are left out: odd" in text for text in dataset.warnings)


@pytest.mark.parametrize(
    "classes", [("normal",), ("normal", "normal"), ("normal", ""), ("a/b", "c")]
)
def test_two_different_classes_are_needed(make_folder, classes):
    with pytest.raises(InputError, match="class"):
        open_folder(make_folder(), classes=classes)


def test_unread_kinds_are_counted_and_hidden_or_other_files_passed_over(make_folder):
    directory = make_folder()
    for name in ("1.dcm", "2.DCM", "x.webp", ".hidden.png", "notes.txt", "Thumbs.db"):
        (directory / "normal" / name).touch()
    dataset = open_folder(directory, classes=CLASSES)
    assert len(dataset) == 6
    assert dataset.warnings[1].startswith("3 files in ")
    assert dataset.warnings[1].endswith("of a kind that is not read: 2 .dcm, 1 .webp")


def test_a_missing_folder_or_class_is_named(make_folder, tmp_path):
    with pytest.raises(InputError, match=r"no such directory: .*nowhere"):
        open_folder(tmp_path / "nowhere", classes=CLASSES)
    directory = make_folder("Normal/a.png", "benign/b.png")
    with pytest.raises(
        InputError, match="no folder normal, malignant; folders there: Normal, benign"
    ):
        open_folder(directory, classes=CLASSES)
    (directory / "Info.txt").touch()
    with pytest.raises(InputError, match=rf"did you mean mias:{directory}\?"):
        open_folder(directory, classes=CLASSES)


def test_a_class_folder_without_images_is_named(make_folder):
    directory = make_folder("normal/a.png")
    (directory / "benign").mkdir()
    with pytest.raises(InputError, match=r"class folder .*benign has no \.png"):
        open_folder(directory, classes=("normal", "benign"))
    (directory / "benign" / "x.dcm").touch()
    with pytest.raises(InputError, match=r"has no .*image, only \.dcm"):
        open_folder(directory, classes=("normal", "benign"))


def test_a_damaged_image_is_named_when_it_is_read(make_folder):
    directory = make_folder()
    (directory / "normal" / "a.png").write_bytes(b"no image")
    dataset = open_folder(directory, classes=CLASSES)
    with pytest.raises(InputError, match=r"normal/a\.png is no PNG"):
        dataset.read(dataset.images.index("normal/a.png"))


def test_the_home_directory_is_understood(make_folder, monkeypatch):
    directory = make_folder()
    monkeypatch.setenv("HOME", str(directory.parent))
    assert open_dataset(f"~/{directory.name}").name == str(directory)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("mias", "names no directory: write mias:DIR"),
        ("mias:", "names no directory"),
        ("", "data is empty"),
        ("phantm", "no such directory: .*phantm .data is phantom, mias:DIR"),
    ],
)
def test_a_spec_that_names_nothing_is_explained(spec, reason):
    with pytest.raises(InputError, match=reason):
        open_dataset(spec)


def test_classes_are_for_class_folders():
    with pytest.raises(InputError, match="phantom has the classes normal, benign, malignant"):
        open_dataset("phantom", classes=("a", "b"))


@pytest.mark.parametrize(("image_size", "side"), [(64, 256), (300, 300)])
def test_the_phantom_is_made_for_the_image_size(image_size, side):
    dataset = open_dataset("phantom", phantom_patients=2, seed=3, image_size=image_size)
    assert (len(dataset), dataset.read(0).shape) == (4, (side, side))
