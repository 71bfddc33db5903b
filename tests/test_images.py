"""Image files of every depth and kind become grey uint8; what cannot be read is named."""

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hmc_fast.data.images import downscale_mask, read_grey, read_image, resize
from hmc_fast.errors import InputError

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def pgm(path: Path, maxval: int, values: list[int], width: int | None = None) -> Path:
    kind = ">u2" if maxval > 255 else "u1"
    header = f"P5\n# a comment\n{width or len(values)} 1\n{maxval}\n".encode()
    path.write_bytes(header + np.array(values, kind).tobytes())
    return path


def tiff(
    path: Path,
    pixels: np.ndarray,
    photometric: int = 1,
    sample_format: int = 1,
    length: int | None = None,
) -> Path:
    """A little-endian, uncompressed TIFF of one strip, written tag by tag."""
    data, (height, width) = pixels.tobytes(), pixels.shape
    tags = {256: width, 257: height, 258: pixels.itemsize * 8, 259: 1, 262: photometric, 273: 8}
    tags |= {277: 1, 278: height, 279: length or len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    path.write_bytes(start + data + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def png(path: Path, colour_type: int, row: bytes, depth: int = 16) -> Path:
    """A PNG of one pixel, for the kinds that Pillow does not write."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, depth, colour_type, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + row)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


@pytest.mark.parametrize("suffix", ["png", "PNG", "pgm", "tif", "TIFF"])
def test_eight_bit_grey_is_kept_as_it_is(tmp_path, suffix):
    read = read_image(save(tmp_path / f"x.{suffix}", GREY))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, GREY)
    read += 1  # writable


def test_jpeg_is_read(tmp_path):
    flat = np.full((16, 16), 77, np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "x.jpg", flat)), flat)


@pytest.mark.parametrize(
    ("largest", "white"),
    [
        (200, 255),
        (255, 255),
        (256, 1023),
        (1000, 1023),
        (4095, 4095),
        (4096, 16383),
        (16383, 16383),
        (16384, 65535),
        (65535, 65535),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_is_divided_by_the_smallest_white(tmp_path, suffix, largest, white):
    values = np.array([[0, largest // 3, largest // 2, largest]], np.uint16)
    path = tmp_path / f"x.{suffix}"
    read = read_grey(
        pgm(path, 65535, values[0].tolist()) if suffix == "pgm" else save(path, values)
    )
    assert read.white == white
    np.testing.assert_array_equal(read.pixels, np.floor(values / white * 255 + 0.5))


def test_big_endian_tiff_is_read(tmp_path):
    values = np.array([[0, 2048, 4095]], ">u2")
    np.testing.assert_array_equal(read_image(save(tmp_path / "x.tif", values)), [[0, 128, 255]])


@pytest.mark.parametrize(
    ("maxval", "values", "expected"),
    [
        (15, [0, 1, 8, 15], [0, 17, 136, 255]),
        (4095, [0, 16, 2048, 4095], [0, 1, 128, 255]),
        (4095, [0, 1, 2, 16], [0, 0, 0, 1]),
        (1000, [0, 500, 100, 1000], [0, 128, 26, 255]),
    ],
    ids=["4bit", "12bit", "dark12bit", "odd"],
)
def test_a_pgm_below_65535_declares_its_white(tmp_path, maxval, values, expected):
    assert read_image(pgm(tmp_path / "x.pgm", maxval, values)).tolist() == [expected]


@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_a_tiff_where_zero_is_white_is_inverted(tmp_path, dtype):
    values = np.array([[0, 55, 255]], dtype)
    assert read_image(tiff(tmp_path / "x.tif", values, photometric=0)).tolist() == [[255, 200, 0]]


def test_colour_becomes_luma(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    assert read_image(save(tmp_path / "x.png", colours)).tolist() == [[76, 150, 29, 9]]


def test_transparency_is_laid_on_black(tmp_path):
    half = np.array([[[200, 200, 200, 255], [200, 200, 200, 0], [200, 200, 200, 51]]], np.uint8)
    rgba = Image.fromarray(half)
    for name, image in {"rgba": rgba, "la": rgba.convert("LA")}.items():
        assert read_image(save(tmp_path / f"{name}.png", image)).tolist() == [[200, 0, 40]]


def test_a_transparent_palette_entry_is_black(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([100, 100, 100, 50, 50, 50])
    palette.putpixel((1, 0), 1)
    opaque, clear = tmp_path / "opaque.png", tmp_path / "clear.png"
    assert read_image(save(opaque, palette)).tolist() == [[100, 50]]
    assert read_image(save(clear, palette, transparency=1)).tolist() == [[100, 0]]


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1")
    assert read_image(save(tmp_path / "x.png", bits)).tolist() == [[0, 255, 255]]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_the_exif_orientation_is_applied(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.repeat(np.array([[10], [240]], np.uint8), 8, axis=0).repeat(16, axis=1)
    read = read_image(save(tmp_path / f"x.{suffix}", pixels, exif=exif))
    np.testing.assert_allclose(read, pixels[::-1, ::-1], atol=2)


def several_pages(path: Path) -> Path:
    pages = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return save(path, pages[0], save_all=True, append_images=pages[1:])


BAD = {
    "pages.tif": (several_pages, "2 pages"),
    "animated.png": (several_pages, "2 pages"),
    "float.tif": (lambda path: save(path, GREY.astype(np.float32)), "real numbers"),
    "negative.tif": (
        lambda path: tiff(path, np.array([[-1, 5]], "<i2"), sample_format=2),
        "from -1 to 5",
    ),
    "wide.tif": (lambda path: tiff(path, np.array([[0, 70000]], "<u4")), "to 70000"),
    "deep_colour.png": (lambda path: png(path, 2, bytes(6)), "16-bit colour"),
    "deep_colour.ppm": (lambda p: p.write_bytes(b"P6 1 1 65535\n" + bytes(6)), "16-bit colour"),
    "empty.png": (lambda path: path.touch(), "is empty"),
    "text.png": (lambda path: path.write_text("no image"), "no PNG, PGM, JPEG or TIFF"),
    "webp.png": (lambda path: save(path, GREY, format="WEBP"), "no PNG, PGM, JPEG or TIFF"),
    "zero.pgm": (lambda path: path.write_bytes(b"P5\n0 4\n255\n"), "no PNG, PGM"),
    "header.pgm": (lambda path: path.write_bytes(b"P5\n4"), "damaged or cut short"),
    "huge.pgm": (lambda path: path.write_bytes(b"P5\n10001 10000\n255\n"), "100 megapixels"),
    "below.pgm": (lambda path: path.write_bytes(b"P5\n9500 9500\n255\n"), "is truncated"),
    "bomb.pgm": (lambda path: path.write_bytes(b"P5\n99999 99999\n255\n"), "100 megapixels"),
    "missing.png": (lambda path: None, "no such file"),
    "folder.png": (lambda path: path.mkdir(), "cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named(tmp_path, name):
    make, reason = BAD[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=reason) as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_grey_of_one_pixel_is_read(tmp_path):
    assert read_image(png(tmp_path / "x.png", 0, b"\xff\xff")).tolist() == [[255]]


# of the LZW file the last four bytes only say that no page follows
@pytest.mark.parametrize(
    ("kind", "lost"),
    [(kind, lost) for kind in ("PNG", "JPEG", "TIFF", "PPM", "LZW") for lost in (30, "half")]
    + [(kind, 1) for kind in ("PNG", "JPEG", "TIFF", "PPM")],
)
def test_a_file_cut_short_is_refused(tmp_path, kind, lost):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    options = {"format": "TIFF", "compression": "tiff_lzw"} if kind == "LZW" else {"format": kind}
    path = save(tmp_path / "x", noise, **options)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 if lost == "half" else -lost])
    with pytest.raises(InputError, match=r"x (is damaged or cut short|is no PNG)"):
        read_image(path)


def test_a_tiff_whose_strip_leaves_the_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cut short"):
        read_image(tiff(tmp_path / "x.tif", GREY, length=4000))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "PPM"])
def test_damaged_files_raise_nothing_but_our_error(tmp_path, kind):
    rng = np.random.default_rng(1)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (24, 24), np.uint8)).save(buffer, kind)
    path = tmp_path / "x"
    for _ in range(400):
        data = bytearray(buffer.getvalue())
        for at in rng.integers(0, min(len(data), 200), 3).tolist():
            data[at] = int(rng.integers(0, 256))
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with contextlib.suppress(InputError):
                assert read_image(path).dtype == np.uint8


def test_resize_is_bilinear_with_antialiasing():
    image = np.random.default_rng(0).integers(0, 256, (90, 70), np.uint8)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None].double(), (32, 32), mode="bilinear", antialias=True
    )
    small = resize(image, 32)
    assert small.dtype == np.uint8
    assert np.abs(small - expected[0, 0].numpy()).max() <= 0.5 + 1e-4


def test_resize_to_the_same_size_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    np.testing.assert_array_equal(resize(image, 64), image)


def test_resize_squeezes_an_image_that_is_not_square():
    image = np.repeat(np.array([[0, 0, 250, 250]], np.uint8), 2, axis=0)
    # a triangle of half-width 2 about the cell's centre weighs the pixels 0.75, 0.75, 0.25
    low = round(250 * 0.25 / 1.75)
    assert resize(image, 2).tolist() == [[low, 250 - low], [low, 250 - low]]


def test_a_mask_is_kept_where_half_a_cell_is_covered():
    mask = np.zeros((8, 8), bool)
    mask[0:4, 0:2] = True  # half of the first cell
    mask[4:8, 4:8] = True
    mask[5:8, 5:8] = False  # 7 of 16
    assert downscale_mask(mask, 2).tolist() == [[True, False], [False, False]]


def test_the_area_average_is_exact_where_cells_cut_pixels():
    mask = np.zeros((3, 3), bool)
    mask[:, 1] = True  # the middle column, cut by two cells: a third of each
    assert downscale_mask(mask, 2).sum() == 1
    mask[:, 0] = True
    assert downscale_mask(mask, 2).tolist() == [[True, False], [True, False]]


def test_a_mask_is_never_empty_unless_it_was():
    mask = np.zeros((1024, 1024), bool)
    assert not downscale_mask(mask, 7).any()
    mask[700, 200] = True
    assert np.argwhere(downscale_mask(mask, 7)).tolist() == [[4, 1]]
