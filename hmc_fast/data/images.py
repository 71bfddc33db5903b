"""Image files to grey uint8 arrays, and arrays to the network's size.

Depth: 8-bit grey values are kept as they are. 16-bit grey values are divided by the image's white,
the smallest of 255, 1023, 4095, 16383 and 65535 that holds its largest value (8, 10, 12, 14 or 16
used bits), and rounded to 0..255. A PGM that declares a maxval below 65535 has that as its white.
Colour becomes luma (ITU-R 601), transparency is laid on black, an orientation in the EXIF data is
applied.
"""

import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError
from torchvision.transforms.v2 import functional

from hmc_fast.errors import InputError

FORMATS = ("PNG", "PPM", "JPEG", "TIFF")
MAX_PIXELS = 100_000_000
WHITES = (255, 1023, 4095, 16383, 65535)
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
DEEP_MODES = ("I;16", "I;16L", "I;16B", "I")
TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 262, 0
TIFF_DATA = ((273, 279), (324, 325))
PNG_END = b"IEND\xaeB`\x82"

# catch_warnings changes the whole process, so that one thread at a time may use it.
_header_lock = threading.Lock()


class Grey(NamedTuple):
    """pixels: uint8 (H, W); white: the stored value that became 255."""

    pixels: np.ndarray
    white: int


def read_image(path: str | Path) -> np.ndarray:
    """The grey image of a PNG, PGM, JPEG or TIFF file, uint8 (H, W).

    Raises InputError, which names the file: missing, no image of these formats, damaged or cut
    short, several pages, more than 100 megapixels, 16-bit colour, real or negative numbers as
    pixels.
    """
    return read_grey(path).pixels


def read_grey(path: str | Path) -> Grey:
    """`read_image` together with the image's white."""
    path = Path(path)
    try:
        with _open(path) as image:
            _check_header(path, image)
            return _deep(path, image) if image.mode in DEEP_MODES else _eight_bit(image)
    except InputError:
        raise
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise InputError(
            f"{path} is {'empty' if empty else 'no PNG, PGM, JPEG or TIFF image'}"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(_too_large(path)) from None
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such file: {path}") from None
    except (PermissionError, IsADirectoryError) as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # on damaged files Pillow's decoders raise nearly everything
        raise InputError(f"{path} is damaged or cut short ({error})") from error


def _open(path: Path) -> ImageFile.ImageFile:
    """The opened file with header and EXIF data read, Pillow's warnings about them unsaid."""
    with _header_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(path, formats=FORMATS)
        try:
            if image.format != "PNG":  # there it would decode the whole image
                image.getexif()
        except BaseException:
            image.close()
            raise
        return image


def _check_header(path: Path, image: ImageFile.ImageFile) -> None:
    if image.width * image.height == 0:
        raise InputError(f"{path} has no pixels ({image.width} x {image.height})")
    if image.width * image.height > MAX_PIXELS:
        raise InputError(_too_large(path))
    pages = getattr(image, "n_frames", 1)
    if pages != 1:
        raise InputError(
            f"{path} holds {pages} pages or frames: save each image as a file of its own"
        )
    if image.mode not in (*EIGHT_BIT_MODES, *DEEP_MODES):
        kind = "real numbers" if image.mode == "F" else f"Pillow's mode {image.mode}"
        raise InputError(
            f"{path} has pixels of a kind that is not read ({kind}): save it as 8- or 16-bit grey"
        )
    if image.mode not in DEEP_MODES and _stored_deep(image):
        raise InputError(f"{path} is a 16-bit colour image: save it as 16-bit grey or 8-bit colour")
    if image.format == "PNG":
        _check_png(path)
    if image.format == "TIFF":
        _check_tiff(path, image)


def _too_large(path: Path) -> str:
    return f"{path} has more than {MAX_PIXELS // 1_000_000} megapixels: scale it down first"


def _stored_deep(image: ImageFile.ImageFile) -> bool:
    """Whether the file has more than 8 bits a channel: of colour, Pillow keeps only the upper 8."""
    arguments = _decoder_arguments(image)
    return "16" in str(arguments[0]) or (
        image.format == "PPM" and len(arguments) > 1 and arguments[1] > 255
    )


def _decoder_arguments(image: ImageFile.ImageFile) -> tuple[Any, ...]:
    arguments = image.tile[0].args if image.tile else ("",)
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _check_png(path: Path) -> None:
    """Checksums and the end mark: Pillow decodes a PNG without looking at them."""
    if PNG_END not in path.read_bytes():
        raise InputError(f"{path} is damaged or cut short (the end of the PNG is missing)")
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()


def _check_tiff(path: Path, image: ImageFile.ImageFile) -> None:
    """All strips or tiles lie in the file: libtiff fills what is missing at the end."""
    tags, size = getattr(image, "tag_v2", {}), path.stat().st_size
    for offsets, counts in TIFF_DATA:
        for start, length in zip(tags.get(offsets, ()), tags.get(counts, ()), strict=False):
            if start + length > size:
                raise InputError(f"{path} is damaged or cut short ({start + length - size} bytes)")


def _eight_bit(image: ImageFile.ImageFile) -> Grey:
    upright: Image.Image = ImageOps.exif_transpose(image)
    if upright.mode in ("LA", "PA", "RGBA") or "transparency" in upright.info:
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright.convert("RGBA"))
    return Grey(np.array(upright.convert("L")), 255)


def _deep(path: Path, image: ImageFile.ImageFile) -> Grey:
    declared = _declared_white(image)
    inverted = getattr(image, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO
    values = np.array(ImageOps.exif_transpose(image)).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > WHITES[-1]:
        raise InputError(f"{path} has pixels from {low} to {high}: only 0 to {WHITES[-1]} is read")
    if declared:
        return Grey(_scaled(values, WHITES[-1]), declared)  # Pillow has stretched these to 16 bits
    white = next(white for white in WHITES if high <= white)
    return Grey(_scaled(white - values if inverted else values, white), white)


def _declared_white(image: ImageFile.ImageFile) -> int | None:
    """The maxval of a PGM where it is below 65535."""
    arguments = _decoder_arguments(image)
    declares = image.format == "PPM" and len(arguments) > 1 and arguments[1] < WHITES[-1]
    return arguments[1] if declares else None


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    """round(255 values / white), halves upwards."""
    return ((values * 255 + white // 2) // white).astype(np.uint8)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """`image`, uint8 (H, W), at (size, size), uint8: bilinear with antialiasing, rounded.

    An image that is not square is squeezed: its aspect ratio is not kept (MIAS images are square).
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image))[None].to(torch.float32)
    resized = functional.resize(
        pixels, [size, size], interpolation=functional.InterpolationMode.BILINEAR, antialias=True
    )
    return resized[0].round().clamp(0, 255).to(torch.uint8).numpy()


def downscale_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """`mask`, bool (H, W), at (size, size): the cells of which at least half is covered.

    The cell's cover is the exact area average. A mask with a lesion stays one: where no cell is
    half covered, the one covered most is set.
    """
    rows, columns = mask.any(axis=1), mask.any(axis=0)
    if not rows.any():
        return np.zeros((size, size), bool)
    down, right = (_area_weights(length, size) for length in mask.shape)
    cover = down[:, rows] @ mask[np.ix_(rows, columns)].astype(np.float64) @ right[:, columns].T
    small = cover >= 0.5 - 1e-9
    if not small.any():
        small.flat[cover.argmax()] = True
    return small


def _area_weights(length: int, size: int) -> np.ndarray:
    """(size, length): the share of each of `size` equal cells that lies in each pixel."""
    edges = np.arange(size + 1)[:, None] * (length / size)
    upper = np.minimum(edges[1:], np.arange(1, length + 1))
    lower = np.maximum(edges[:-1], np.arange(length))
    return np.clip(upper - lower, 0, None) * (size / length)
