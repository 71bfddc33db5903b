"""The image cache: the same arrays with and without it, damage is noticed, nothing is stopped."""

import hashlib
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hmc_fast.data.cache as cache
from hmc_fast.data.cache import cache_directory, load_images, load_masks
from hmc_fast.data.dataset import Dataset, pixel_hash
from hmc_fast.data.images import resize
from hmc_fast.errors import InputError

SIZE = 12
FULL = [np.random.default_rng(i).integers(0, 256, (20 + i, 30), np.uint8) for i in range(5)]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HMC_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dataset():
    return Dataset(
        name="films",
        classes=("normal", "benign"),
        images=("a", "b", "c", "d", "e"),
        patients=("a", "b", "c", "d", "e"),
        labels=np.array([0, 0, 0, 1, 1]),
        strata=np.array([0, 0, 0, 1, 1]),
        read=lambda i: FULL[i],
        mask=lambda i: None if i == 0 else FULL[i] > 300 if i == 1 else FULL[i] < 10 * i,
        content=lambda i: f"sum {i}",
    )


def unreadable(dataset):
    def read(i):
        raise InputError(f"{dataset.images[i]} is damaged")

    return replace(dataset, read=read)


def assert_right(images):
    assert images.pixels.dtype == np.uint8
    assert np.array_equal(images.pixels, [resize(image, SIZE) for image in FULL])
    assert images.hashes == tuple(pixel_hash(image) for image in FULL)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_images_are_the_resized_ones_whatever_the_workers(dataset, workers):
    assert_right(load_images(dataset, SIZE, workers=workers))


def test_the_second_time_nothing_is_decoded(dataset, capsys):
    load_images(dataset, SIZE)
    assert capsys.readouterr().out == "decoding 5 images of films to 12 px\n"
    assert_right(load_images(unreadable(dataset), SIZE))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "changed",
    [
        {"content": lambda i: f"sum {i // 4}"},
        {"images": ("a", "b", "c", "d", "f")},
        {"content": lambda i: f"sum {4 - i}"},
    ],
)
def test_other_contents_or_names_are_decoded_anew(dataset, changed):
    load_images(dataset, SIZE)
    with pytest.raises(InputError, match="a is damaged"):
        load_images(replace(unreadable(dataset), **changed), SIZE)


def test_each_size_has_its_own_file(dataset, folder):
    assert load_images(dataset, 12).pixels.shape == (5, 12, 12)
    assert load_images(dataset, 7).pixels.shape == (5, 7, 7)
    assert len(list(folder.iterdir())) == 2


def damage(data, how):
    if how == "empty":
        return b""
    if how == "flipped":
        middle = len(data) // 2
        return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return data[: int(len(data) * how)]


@pytest.mark.parametrize("how", ["empty", "flipped", 0.01, 0.5, 0.999])
def test_a_damaged_file_is_made_anew_and_said(dataset, folder, capsys, how):
    load_images(dataset, SIZE)
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole, how))
    capsys.readouterr()
    assert_right(load_images(dataset, SIZE))
    assert (
        f"the image cache {path} cannot be used (damaged): decoding again\n"
        in capsys.readouterr().out
    )
    assert path.read_bytes() == whole


def test_a_file_under_another_key_is_not_believed(dataset, folder):
    other = replace(dataset, read=lambda i: 255 - FULL[i], content=lambda i: f"other {i}")
    load_images(other, SIZE)
    (foreign,) = folder.iterdir()
    load_images(dataset, SIZE)
    (path,) = set(folder.iterdir()) - {foreign}
    path.write_bytes(foreign.read_bytes())
    assert_right(load_images(dataset, SIZE))


def test_pickles_are_never_loaded(dataset, folder, capsys):
    load_images(dataset, SIZE)
    (path,) = folder.iterdir()
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}]), allow_pickle=True)
    digest = hashlib.sha256(path.stem.encode() + buffer.getvalue()).hexdigest()
    path.write_bytes(buffer.getvalue() + digest.encode())
    assert_right(load_images(dataset, SIZE))
    assert "allow_pickle=False" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said_once(dataset, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HMC_FAST_CACHE", str(tmp_path / "file" / "cache"))
    assert_right(load_images(dataset, SIZE))
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == [
        f"no image cache in {tmp_path}/file/cache (Not a directory): going on without"
    ]
    assert_right(load_images(dataset, SIZE, quiet=True))
    assert capsys.readouterr().out == ""


def test_a_full_disk_is_no_error(dataset, monkeypatch, capsys):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_bytes", full)
    assert_right(load_images(dataset, SIZE))
    assert "(No space left on device): going on without" in capsys.readouterr().out


def test_a_folder_in_the_place_of_the_file_is_no_error(dataset, folder, capsys):
    load_images(dataset, SIZE)
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    assert_right(load_images(dataset, SIZE))
    assert capsys.readouterr().out.count("Is a directory") == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_and_nothing_is_kept(dataset, folder, workers):
    with pytest.raises(InputError, match="a is damaged"):
        load_images(unreadable(dataset), SIZE, workers=workers)
    assert not folder.exists()


BUILD = """
import numpy as np
from hmc_fast.data.cache import load_images
from hmc_fast.data.dataset import Dataset

names = tuple("abcdefgh")
films = [np.full((64, 64), 20 * i, np.uint8) for i in range(8)]
zeros = np.zeros(8, np.int64)
read, mask = films.__getitem__, lambda i: None
dataset = Dataset("films", ("a",), names, names, zeros, zeros, read, mask, str)
print("ready", flush=True)
for size in range(40, 60):
    pixels = load_images(dataset, size, quiet=True).pixels
    assert (pixels[:, 0, 0] == 20 * np.arange(8)).all()
"""


def test_two_processes_may_build_the_same_cache_at_once(folder):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", BUILD]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "ready\n"
        exec(BUILD, {})
        assert other.wait(timeout=60) == 0
    assert len(list(folder.iterdir())) == 20
    assert all(path.suffix == ".images" for path in folder.iterdir())


def test_without_the_variable_it_is_the_users_cache(monkeypatch):
    monkeypatch.setenv("HMC_FAST_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_directory() == Path("/somewhere/hmc_fast")


def test_without_platformdirs_it_is_in_the_home_folder(monkeypatch):
    monkeypatch.delenv("HMC_FAST_CACHE")
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_directory() == Path("/home/somebody/.cache/hmc_fast")


def test_without_a_home_nothing_is_cached(dataset, monkeypatch):
    monkeypatch.delenv("HMC_FAST_CACHE")
    monkeypatch.setattr(cache, "_user_cache", lambda: "~nobody-of-this-name/cache")
    assert cache_directory() is None
    assert_right(load_images(dataset, SIZE))


def test_masks_come_at_the_images_size(dataset):
    unknown, empty, *known = load_masks(dataset, [0, 1, 2, 4], SIZE)
    assert unknown is None
    assert empty.shape == (SIZE, SIZE)
    assert not empty.any()
    for mask in known:
        assert mask.dtype == bool
        assert mask.shape == (SIZE, SIZE)
        assert mask.any()


def test_a_mask_covers_the_same_place_as_in_the_image(dataset):
    square = np.zeros((48, 48), bool)
    square[12:24, 32:48] = True
    (mask,) = load_masks(replace(dataset, mask=lambda i: square), [3], SIZE)
    assert np.argwhere(mask).tolist() == [
        [row, column] for row in (3, 4, 5) for column in (8, 9, 10, 11)
    ]
