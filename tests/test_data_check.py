"""`hmc-fast data check`: the report of every kind of data, odd cases by name, exit codes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hmc_fast.cli import main
from hmc_fast.data import check, fetch
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_bytes

ROWS = (
    "mdb001 G CIRC B 535 425 197",
    "mdb002 G NORM ",
    "mdb005 F MISC B 100 200 10",
    "mdb005 F MISC M 300 400 20",
    "mdb059 F CIRC B",
    "mdb212 G CALC B 687 882 3",
)
HEADER = b"P5\n1024 1024\n255\n"


def flat(image: str) -> bytes:
    return bytes([int(image[3:]) % 256]) * 1024**2


@pytest.fixture
def made_up_sums(monkeypatch) -> dict[str, str]:
    """The sums of the films that `make_mias` writes, in the place of the published ones."""
    names = ("mdb001", "mdb002", "mdb005", "mdb059", "mdb212")
    sums = {image: sha256_bytes(HEADER + flat(image)) for image in names}
    monkeypatch.setattr(check, "published_sums", lambda: sums)
    return sums


def report(spec: str, capsys, *flags: str) -> str:
    assert main(["data", "check", spec, "--quiet", *flags]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out


def test_mias_counts_and_odd_cases(make_mias, made_up_sums, capsys):
    directory = make_mias(*ROWS)
    lines = report(f"mias:{directory}", capsys).splitlines()
    assert lines[:8] == [
        f"data          mias:{directory}",
        "images        5 of 1024 x 1024 pixels",
        "patients      4, by worst class 0 normal, 3 benign, 1 malignant",
        "labels        1 normal, 4 benign, 0 malignant (first row, the default)",
        "              1 normal, 3 benign, 1 malignant (worst row, --label worst)",
        "              1 normal, 4 benign, 1 malignant (all 6 rows)",
        "lesion masks  3 usable circles in 2 images",
        "checksums     all 5 images have the archive's pixels",
    ]
    assert "  several rows: mdb005" in lines
    assert "  rows of different classes: mdb005 (benign and malignant)" in lines
    assert "  abnormal without coordinates, no mask: mdb059" in lines
    assert "  coordinates outside the breast, no mask: mdb212" in lines
    assert "  radius of at most 10 pixels: mdb212 (3), mdb005 (10)" in lines
    assert "  radius of at least 100 pixels: mdb001 (197)" in lines
    assert lines[-1] == f"next: hmc-fast train --data mias:{directory}"


def test_mias_files_that_differ_are_named(make_mias, made_up_sums, capsys):
    directory = make_mias(*ROWS, newline="\r\n")
    (directory / "mdb001.pgm").write_bytes(b"P5\n# a comment\n1024 1024\n255\n" + flat("mdb001"))
    (directory / "mdb002.pgm").write_bytes(HEADER + flat("mdb003"))
    (directory / "mdb005.pgm").unlink()
    pixels = np.frombuffer(flat("mdb005"), np.uint8).reshape(1024, 1024)
    Image.fromarray(pixels).save(directory / "mdb005.png")
    del made_up_sums["mdb059"]
    printed = report(f"mias:{directory}", capsys)
    assert "checksums     3 of 5 images have the archive's pixels" in printed
    assert "re-headed copies, same pixels: mdb001.pgm\n" in printed
    assert "pixels differ from the archive: mdb002.pgm\n" in printed
    assert "not in the archive: mdb059.pgm\n" in printed
    assert "text differs from the archive: Info.txt\n" in printed


def test_missing_films_and_rows_are_an_error(make_mias, made_up_sums, capsys):
    made_up_sums["mdb300"] = "0" * 64
    assert main(["data", "check", f"mias:{make_mias(*ROWS)}"]) == 2
    assert "lacks 1 of the archive's 6 images and their rows: mdb300" in capsys.readouterr().err


def test_a_crlf_copy_of_the_list_is_the_same_text(make_mias, made_up_sums, monkeypatch, capsys):
    directory = make_mias(*ROWS, newline="\r\n")
    text = (directory / "Info.txt").read_bytes().replace(b"\r", b"")
    monkeypatch.setattr(check, "LIST_SHA256", sha256_bytes(text))
    printed = report(f"mias:{directory}", capsys)
    assert "CRLF line ends, same text: Info.txt\n" in printed
    assert "text differs" not in printed


def test_identical_films_are_named(make_mias, made_up_sums, capsys):
    directory = make_mias(*ROWS)
    (directory / "mdb001.pgm").write_bytes(HEADER + flat("mdb212"))
    assert "identical pixels: mdb001 = mdb212\n" in report(f"mias:{directory}", capsys)


def test_a_film_is_measured_without_stray_pixels():
    film = np.zeros((1024, 1024), np.uint8)
    film[:, 200:860] = 1
    film[988, [0, 1023]] = 200
    assert check.film_width(film) == 650


def test_every_damaged_file_is_named_and_nothing_else_printed(make_mias, made_up_sums, capsys):
    directory = make_mias(*ROWS)
    for name in ("mdb001", "mdb059"):
        (directory / f"{name}.pgm").write_bytes(HEADER + bytes(99))
    assert main(["data", "check", f"mias:{directory}", "--quiet"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("hmc-fast: 2 images of 5 cannot be used: ")
    assert printed.err.count("\n") == 1
    assert "mdb001.pgm is damaged" in printed.err
    assert "mdb059.pgm is damaged" in printed.err


def test_missing_images_rows_and_folders_end_with_2(make_mias, tmp_path, capsys):
    for spec in ("mias", f"mias:{tmp_path}", str(tmp_path / "nowhere"), str(tmp_path)):
        assert main(["data", "check", spec]) == 2
    make_mias("mdb001 G NORM", "mdb002 G NORM", images=("mdb001",))
    assert main(["data", "check", f"mias:{tmp_path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 5


def folder(root: Path, **classes: list[np.ndarray]) -> Path:
    for name, images in classes.items():
        (root / name).mkdir()
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def test_a_class_folder_with_odd_cases(tmp_path, capsys):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (4, 6), np.uint8)
    deep = np.array([[0, 4000]], np.uint16)
    root = folder(tmp_path, well=[small, deep], sick=[small, small[:3]])
    lines = report(str(root), capsys, "--classes", "well,sick").splitlines()
    assert lines[1:5] == [
        "images        4: 2 well, 2 sick",
        "patients      unknown: no patients.csv",
        "sizes         2 x 1 to 6 x 4 pixels",
        "depth         3 with grey values to 255, 1 with grey values to 4095",
    ]
    assert any("no patients.csv, so each image counts" in line for line in lines)
    assert "  the images differ in depth, and each is scaled by its own" in lines
    assert "  identical pixels: sick/0.png = well/0.png" in lines
    assert lines[-1] == f"next: hmc-fast train --data {root} --classes well,sick"


def test_a_class_folder_without_odd_cases(tmp_path, capsys):
    films = [np.full((2, 2), value, np.uint8) for value in range(3)]
    root = folder(tmp_path, normal=films[:1], benign=films[1:2], malignant=films[2:])
    (root / "patients.csv").write_text(
        "image,patient_id\nnormal/0.png,a\nbenign/0.png,a\nmalignant/0.png,b\n"
    )
    printed = report(str(root), capsys)
    assert "patients      2, by worst class 0 normal, 1 benign, 1 malignant\n" in printed
    assert "sizes         2 x 2 pixels\n" in printed
    assert "no odd cases\n" in printed
    assert printed.endswith(f"next: hmc-fast train --data {root}\n")


def test_the_phantom(monkeypatch, capsys):
    opened = check.open_dataset
    monkeypatch.setattr(check, "open_dataset", lambda *a, **k: opened(*a, **k, phantom_patients=4))
    printed = report("phantom", capsys)
    assert "images        8: " in printed
    assert "patients      4, by worst class " in printed
    assert "lesion masks  in " in printed
    assert printed.endswith("next: hmc-fast train --data phantom\n")


def test_the_real_images(mias_dir, capsys):
    printed = report(f"mias:{mias_dir}", capsys)
    assert "images        322 of 1024 x 1024 pixels" in printed
    assert "161, by worst class 53 normal, 56 benign, 52 malignant" in printed
    assert "117 usable circles in 109 images" in printed
    assert "all 322 images have the archive's pixels" in printed
    assert "no mask: mdb059, mdb216, mdb233, mdb245\n" in printed
    assert "mdb144 (benign and malignant)\n" in printed
    assert "about 650: 148" in printed
    assert "identical pixels" not in printed
    assert "Info.txt" not in printed


def test_fetch_hands_its_flags_on(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(fetch, "fetch_mias", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert (
        main(["data", "fetch", "mias", "--out", str(tmp_path), "--url", "http://x", "--quiet"]) == 0
    )
    assert main(["data", "fetch", "mias"]) == 0
    assert calls == [
        ((tmp_path,), {"quiet": True, "url": "http://x"}),
        ((Path("mias"),), {"quiet": False}),
    ]


def test_a_failed_fetch_ends_with_2(monkeypatch, capsys):
    def fail(*args: object, **kwargs: object) -> None:
        raise InputError("no network")

    monkeypatch.setattr(fetch, "fetch_mias", fail)
    assert main(["data", "fetch", "mias"]) == 2
    assert capsys.readouterr().err == "hmc-fast: no network\n"


@pytest.mark.parametrize(
    "arguments", [["data"], ["data", "fetch", "other"], ["data", "check", "--q"]]
)
def test_a_misspelt_command_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.count("\n") == 1
