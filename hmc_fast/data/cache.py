"""Decoded images at the network's size, kept on disk as one uint8 array keyed by content and size.

One file an array, in HMC_FAST_CACHE or the user's cache folder (~/.cache/hmc_fast). It is written
in one step and checked by its SHA-256 when it is read; a damaged one is made anew, and without a
folder that can be written everything still works, only slower. Nothing in it is irreplaceable: to
clear it, delete the folder (322 images take 16 MB at 224 px, 340 MB at 1024 px).

Layout: two NumPy arrays without pickle (pixels, hashes), then the hexadecimal SHA-256 of key and
arrays. FORMAT changes with the layout and with whatever changes the pixels (decoding, resizing).
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmc_fast.data.dataset import Dataset, pixel_hash
from hmc_fast.files import sha256_bytes, write_bytes
from hmc_fast.progress import progress, say
from hmc_fast.sentences import counted

FORMAT = 1
DIGEST_LENGTH = 64


@dataclass(frozen=True)
class Images:
    """pixels: uint8 (n, size, size); hashes: the `pixel_hash` of every image at its full size."""

    pixels: np.ndarray
    hashes: tuple[str, ...]


def load_images(dataset: Dataset, size: int, *, workers: int = 0, quiet: bool = False) -> Images:
    """All images of the data set at (size, size), from the cache or decoded and put there.

    workers: threads that decode, 0 for none beside the caller's; the result is the same.
    Raises InputError: an image cannot be read (named); the cache itself never stops anything.
    """
    key = _key(dataset, size)
    directory = cache_directory()
    path = directory / f"{key}.images" if directory else None
    images = _read(path, key, (len(dataset), size, size), quiet) if path else None
    if images is None:
        images = _decode(dataset, size, workers, quiet)
        if path:
            _write(path, key, images, quiet)
    return images


def load_masks(dataset: Dataset, indices: Sequence[int], size: int) -> list[np.ndarray | None]:
    """The lesion masks of some images, bool (size, size), None where the place is unknown.

    A cell is set from half coverage on, and a mask with a lesion stays one.
    """
    from hmc_fast.data.images import downscale_mask

    masks = (dataset.mask(i) for i in indices)
    return [None if mask is None else downscale_mask(mask, size) for mask in masks]


def cache_directory() -> Path | None:
    """HMC_FAST_CACHE, else the user's cache folder; None where the user has no home."""
    chosen = os.environ.get("HMC_FAST_CACHE") or _user_cache()
    directory = Path(os.path.expanduser(chosen))
    return None if str(directory).startswith("~") else directory


def _user_cache() -> str:
    try:
        import platformdirs
    except ImportError:
        return "~/.cache/hmc_fast"
    return platformdirs.user_cache_dir("hmc_fast")


def _key(dataset: Dataset, size: int) -> str:
    contents = [dataset.content(i) for i in range(len(dataset))]
    return sha256_bytes(json.dumps([FORMAT, size, dataset.images, contents]).encode())


def _decode(dataset: Dataset, size: int, workers: int, quiet: bool) -> Images:
    from hmc_fast.data.images import resize

    def decode(i: int) -> tuple[np.ndarray, str]:
        image = dataset.read(i)
        return resize(image, size), pixel_hash(image)

    pixels = np.empty((len(dataset), size, size), np.uint8)
    hashes = []
    say(f"decoding {counted(len(dataset), 'image')} of {dataset.name} to {size} px", quiet)
    decoded = _in_threads(decode, len(dataset), workers)
    shown = progress(decoded, "decoding", total=len(dataset), quiet=quiet)
    for i, (small, digest) in enumerate(shown):
        pixels[i] = small
        hashes.append(digest)
    return Images(pixels, tuple(hashes))


def _in_threads(
    decode: Callable[[int], tuple[np.ndarray, str]], count: int, workers: int
) -> Iterator[tuple[np.ndarray, str]]:
    """decode(0) to decode(count - 1) in order."""
    if workers < 1:
        yield from map(decode, range(count))
        return
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(decode, range(count))


def _read(path: Path, key: str, shape: tuple[int, ...], quiet: bool) -> Images | None:
    """What the cache file holds; None, with a line said, where it is damaged."""
    try:
        return _unpack(path.read_bytes(), key, shape)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        say(f"the image cache {path} cannot be used ({_reason(error)}): decoding again", quiet)
        return None


def _write(path: Path, key: str, images: Images, quiet: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _pack(images, key))
    except OSError as error:
        say(f"no image cache in {path.parent} ({_reason(error)}): going on without", quiet)


def _pack(images: Images, key: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images.pixels, allow_pickle=False)
    np.save(buffer, np.array(images.hashes, "S64"), allow_pickle=False)
    with buffer.getbuffer() as arrays:
        digest = _digest(key, arrays)
    buffer.write(digest)
    return buffer.getvalue()


def _unpack(data: bytes, key: str, shape: tuple[int, ...]) -> Images:
    """Raises ValueError: not what `_pack` wrote under this key."""
    arrays = memoryview(data)[:-DIGEST_LENGTH]
    if data[-DIGEST_LENGTH:] != _digest(key, arrays):
        raise ValueError("damaged")
    buffer = io.BytesIO(arrays)
    pixels = np.load(buffer, allow_pickle=False)
    hashes = np.load(buffer, allow_pickle=False)
    if pixels.shape != shape or pixels.dtype != np.uint8 or len(hashes) != shape[0]:
        raise ValueError("of another format")
    return Images(pixels, tuple(digest.decode() for digest in hashes.tolist()))


def _digest(key: str, arrays: memoryview) -> bytes:
    digest = hashlib.sha256(key.encode())
    digest.update(arrays)
    return digest.hexdigest().encode()


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
