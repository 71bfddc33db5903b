"""The MIAS reader: on made-up lists, and on the real images where they are at hand."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hmc_fast.data import open_dataset
from hmc_fast.data.images import downscale_mask
from hmc_fast.data.mias import find_images, open_mias, patient_of, published_sums, read_mias
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_file

ROWS = (
    "mdb001 G CIRC B 535 425 197",
    "mdb002 G NORM ",
    "mdb003 D NORM ",
    "mdb004 D NORM ",
    "mdb005 F MISC B 100 200 10",
    "mdb005 F MISC M 300 400 20",
    "mdb006 F CALC M *NOTE 3* ",
    "mdb059 F CIRC B",
    "mdb212 G CALC B 687 882 3",
)


def test_the_first_row_gives_the_label_and_the_worst_row_the_stratum(make_mias):
    directory = make_mias(*ROWS)
    first, worst = (open_mias(directory, label=label) for label in ("first", "worst"))
    numbers = (1, 2, 3, 4, 5, 6, 59, 212)
    assert first.images == tuple(f"mdb{number:03d}" for number in numbers)
    assert first.patients == ("001", "001", "002", "002", "003", "003", "030", "106")
    assert first.labels.tolist() == [1, 0, 0, 0, 1, 2, 1, 1]
    assert worst.labels.tolist() == [1, 0, 0, 0, 2, 2, 1, 1]
    assert first.strata.tolist() == worst.strata.tolist() == [1, 1, 0, 0, 2, 2, 1, 1]
    assert first.labels.dtype == first.strata.dtype == np.int64
    assert first.counts == {"normal": 3, "benign": 4, "malignant": 1}


def test_an_image_of_two_classes_is_reported_with_the_class_that_counts(make_mias):
    directory = make_mias(*ROWS)
    for label, counted in {"first": "benign", "worst": "malignant"}.items():
        (warning,) = open_mias(directory, label=label).warnings
        assert (
            f"mdb005 has rows of several classes (benign and malignant) and counts as {counted}"
            in warning
        )


def test_name_pixels_and_content(make_mias):
    directory = make_mias(*ROWS)
    dataset = open_dataset(f"mias:{directory}")
    assert dataset.name == f"mias:{directory}"
    film = dataset.read(6)
    assert film.shape == (1024, 1024)
    assert (film == 59).all()
    assert dataset.content(6) == sha256_file(directory / "mdb059.pgm")


def test_a_circle_counts_y_from_the_bottom(make_mias):
    mask = open_mias(make_mias("mdb001 G CIRC B 100 200 2")).mask(0)
    expected = {(823 + down, 100 + right) for down in (-1, 0, 1) for right in (-1, 0, 1)}
    expected |= {(821, 100), (825, 100), (823, 98), (823, 102)}
    assert set(map(tuple, np.argwhere(mask).tolist())) == expected
    assert mask.dtype == bool


def test_all_circles_of_an_image_are_one_mask(make_mias):
    mask = open_mias(make_mias(*ROWS)).mask(4)
    assert mask[1023 - 200, 100]
    assert mask[1023 - 400, 300]
    assert mask.sum() == pytest.approx(np.pi * (10**2 + 20**2), rel=0.02)


def test_masks_are_empty_on_normal_films_and_none_where_the_place_is_unknown(make_mias):
    dataset = open_mias(make_mias(*ROWS))
    assert dataset.mask(1).shape == (1024, 1024)
    assert not dataset.mask(1).any()
    unknown = [name for i, name in enumerate(dataset.images) if dataset.mask(i) is None]
    assert unknown == ["mdb006", "mdb059", "mdb212"]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_both_line_ends_are_read(make_mias, newline):
    directory = make_mias(*ROWS, newline=newline)
    assert [row.line for row in read_mias(directory).rows["mdb005"]] == [8, 9]
    assert open_mias(directory).labels.tolist() == [1, 0, 0, 0, 1, 2, 1, 1]


def test_images_may_lie_under_images_and_be_png(make_mias):
    directory = make_mias("mdb001 G NORM", "mdb002 G NORM", images=())
    (directory / "images").mkdir()
    Image.new("L", (1024, 1024), 9).save(directory / "images" / "mdb001.PNG")
    Image.new("L", (1024, 1024), 8).save(directory / "mdb002.pgm")
    (directory / "mdb002.txt").touch()
    (directory / "._mdb001.pgm").touch()
    dataset = open_mias(directory)
    assert [int(dataset.read(i).max()) for i in range(2)] == [9, 8]


BAD_ROWS = {
    "mdb002 X CIRC B 5 5 5": "tissue 'X' is not one of F, G, D",
    "mdb002 G ROUND B 5 5 5": "class 'ROUND' is not one of CALC",
    "mdb002 G CIRC X 5 5 5": "severity 'X' is not B or M",
    "mdb002 G CIRC": "severity '' is not B or M",
    "mdb002 G": "mdb002 lacks tissue and kind",
    "mdb002": "mdb002 lacks tissue and kind",
    "mdb002 G CIRC B 5 5": "three whole numbers, not '5 5'",
    "mdb002 G CIRC B 5 5.5 5": "three whole numbers",
    "mdb002 G CIRC B 5 -5 5": "three whole numbers",
    "mdb002 G CIRC B 5 5 5 5": "three whole numbers",
    "mdb002 G CIRC B 5 1024 5": "the circle 5 1024 5 does not lie in an image",
    "mdb002 G CIRC B 5 5 0": "the circle 5 5 0 does not lie",
    "mdb002 G NORM B": "a normal row ends after NORM",
    "mdb001 G NORM": "mdb001 is normal and has a second row (line 4)",
    "mdb001 G CIRC B 5 5 5": "mdb001 is normal and has a second row (line 4)",
    "MDB002 G NORM": "'MDB002' is no image name",
    "mdb2 G NORM": "'mdb2' is no image name",
    "mdb000 G NORM": "'mdb000' is no image name",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_malformed_row_is_named_by_file_and_line(make_mias, row):
    directory = make_mias("mdb001 G NORM ", row, images=("mdb001",))
    with pytest.raises(InputError) as caught:
        open_mias(directory)
    assert f"{directory / 'Info.txt'}, line 5: " in str(caught.value)
    assert BAD_ROWS[row] in str(caught.value)


def test_a_repeated_row_is_refused(make_mias):
    row = "mdb001 G CIRC B 5 5 5"
    with pytest.raises(InputError, match="line 5: mdb001 repeats line 4"):
        open_mias(make_mias(row, row))


def test_rows_without_image_and_images_without_row_are_named(make_mias):
    names = [f"mdb{number:03d}" for number in range(1, 9)]
    with pytest.raises(InputError, match=r"no \.pgm or \.png for mdb002, .*mdb006 and 2 more"):
        open_mias(make_mias(*(f"{name} G NORM" for name in names), images=("mdb001",)))
    with pytest.raises(InputError, match=r"Info\.txt has no row for mdb001\.pgm, mdb003\.pgm"):
        open_mias(make_mias("mdb002 G NORM", images=("mdb002", "mdb003")))


def test_folders_that_are_no_mias_folder_are_refused_with_the_reason(make_mias, tmp_path):
    with pytest.raises(InputError, match=r"no such directory: .*nowhere"):
        open_mias(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"Info\.txt is missing"):
        open_mias(tmp_path)
    with pytest.raises(InputError, match="has no row of the form"):
        open_mias(make_mias())
    make_mias("mdb001 G NORM", images=())
    with pytest.raises(InputError, match=r"no mdb001\.pgm or mdb001\.png"):
        open_mias(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mdb001.webp").touch()
    with pytest.raises(InputError, match=r"only \.webp files: .*unpack\.py"):
        open_mias(tmp_path)


def test_an_image_that_is_there_twice_is_refused(make_mias):
    directory = make_mias("mdb001 G NORM")
    Image.new("L", (1024, 1024)).save(directory / "mdb001.png")
    with pytest.raises(InputError, match=r"mdb001 is there twice \(.*mdb001\.pgm, .*mdb001\.png\)"):
        open_mias(directory)


def test_a_film_of_another_size_is_refused_when_it_is_read(make_mias):
    directory = make_mias("mdb001 G NORM")
    Image.new("L", (512, 1024)).save(directory / "mdb001.pgm")
    dataset = open_mias(directory)
    with pytest.raises(InputError, match=r"mdb001\.pgm has 512 x 1024 pixels"):
        dataset.read(0)


def test_an_unknown_label_is_refused(make_mias):
    with pytest.raises(InputError, match="label 'last' is unknown"):
        open_mias(make_mias("mdb001 G NORM"), label="last")


def test_the_published_sums_are_of_322_images():
    sums = published_sums()
    assert list(sums) == [f"mdb{number:03d}" for number in range(1, 323)]
    assert len(set(sums.values())) == 322
    assert all(len(digest) == 64 for digest in sums.values())


def test_the_real_counts(mias_dir):
    first, worst = (open_mias(mias_dir, label=label) for label in ("first", "worst"))
    assert list(first.counts.values()) == [207, 64, 51]
    assert list(worst.counts.values()) == [207, 63, 52]
    strata = dict(zip(first.patients, first.strata.tolist(), strict=True))
    assert Counter(strata.values()) == {0: 53, 1: 56, 2: 52}
    np.testing.assert_array_equal(first.strata, worst.strata)
    rows = [row for rows in read_mias(mias_dir).rows.values() for row in rows]
    assert Counter(row.label for row in rows) == {0: 207, 1: 69, 2: 54}
    assert Counter(row.kind for row in rows if row.circle is None) == {
        "NORM": 207,
        "CIRC": 1,
        "CALC": 3,
    }


def test_the_real_circles(mias_dir):
    mias = read_mias(mias_dir)
    circles = {image: mias.circles(image) for image in mias.files}
    assert sum(len(found) for found in circles.values() if found) == 117
    assert sum(bool(found) for found in circles.values()) == 109
    unknown = ["mdb059", "mdb212", "mdb214", "mdb216", "mdb233", "mdb245"]
    assert [image for image, found in circles.items() if found is None] == unknown
    assert mias.mixed() == ["mdb144"]
    dataset = open_mias(mias_dir)
    lesions = [i for i, image in enumerate(dataset.images) if circles[image]]
    pixels = [downscale_mask(dataset.mask(i), 224).sum() for i in lesions]
    assert np.median(pixels) == pytest.approx(292, abs=2)


def test_real_lesions_are_brighter_than_their_surround_only_with_the_flip(mias_dir):
    mias, brighter = read_mias(mias_dir), Counter()
    rows, columns = np.ogrid[:1024, :1024]
    dataset = open_mias(mias_dir)
    for i, image in enumerate(dataset.images):
        circles = [row.circle for row in mias.rows[image] if row.circle]
        film = dataset.read(i) if circles else None
        for x, y, radius in circles:
            for name, centre in {"flip": 1023 - y, "none": y}.items():
                distance = (columns - x) ** 2 + (rows - centre) ** 2
                disc = distance <= radius**2
                ring = ~disc & (distance <= (1.5 * radius) ** 2)
                brighter[name] += film[disc].mean() > film[ring].mean()
    assert brighter["flip"] >= 114
    assert brighter["none"] <= 85


def test_two_consecutive_images_are_one_patient():
    patients = [patient_of(f"mdb{number:03d}") for number in (1, 2, 3, 321, 322)]
    assert patients == ["001", "001", "002", "161", "161"]


def test_finding_ignores_what_is_no_image(tmp_path):
    for name in ("mdb001.pgm", "mdb1.pgm", "mdb0001.pgm", "xmdb002.pgm", "mdb003.jpg"):
        (tmp_path / name).touch()
    assert list(find_images(tmp_path)) == ["mdb001"]
