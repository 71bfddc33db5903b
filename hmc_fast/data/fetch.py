"""The public MIAS archive: downloaded, checked image by image, and unpacked in one step.

Everything happens in a temporary folder beside the target, which is renamed to it at the very end:
whatever fails or is interrupted, the target holds all 322 checked images or does not exist.
"""

import gzip
import os
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from hmc_fast.data.mias import LIST, published_sums
from hmc_fast.errors import InputError
from hmc_fast.files import sha256_bytes, sha256_file, sync_directory, write_synced
from hmc_fast.progress import say
from hmc_fast.sentences import counted, some

DEFAULT_URL = "http://peipa.essex.ac.uk/pix/mias/all-mias.tar.gz"
TIMEOUTS = (20.0, 60.0)  # seconds to connect, seconds without a byte
GZIP_MAGIC = b"\x1f\x8b"
MAX_MEMBERS = 1000
MAX_MEMBER_BYTES = 2 * 2**20
DAMAGE = (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, OverflowError, MemoryError)
TEXTS = (LIST, "Licence.txt", "README")
CITATION = (
    'J Suckling et al (1994) "The Mammographic Image Analysis Society Digital Mammogram Database", '
    "Exerpta Medica, International Congress Series 1069, pp 375-378"
)


def fetch_mias(
    directory: str | Path,
    url: str = DEFAULT_URL,
    quiet: bool = False,
    sums: Mapping[str, str] | None = None,
) -> Path:
    """Download the MIAS archive (.tar.gz over http or https) and unpack it into `directory`.

    sums: SHA-256 of every .pgm by image name, by default of the 322 published ones.
    A directory that already holds all of them is left as it is. Returns the directory.
    Raises InputError: directory not empty, no answer, not the archive (unsafe, oversized or damaged
    members, images missing or with another SHA-256), or the disk cannot be written.
    """
    sums = published_sums() if sums is None else sums
    directory = Path(os.path.expanduser(directory)).resolve()
    try:
        already = _holds_all(directory, sums)
        if not already:
            _refuse_used(directory)
            _download_and_unpack(directory, url, sums, quiet)
    except OSError as error:
        raise InputError(f"{directory} cannot be used: {error.strerror or error}") from error
    holds = "already holds" if already else "holds"
    say(f"{directory} {holds} {counted(len(sums), 'image')}, every SHA-256 checked", quiet)
    say(f"By their licence they are for research only; publications must cite {CITATION}.", quiet)
    say(f"next: hmc-fast data check mias:{directory}", quiet)
    return directory


def _holds_all(directory: Path, sums: Mapping[str, str]) -> bool:
    files = {image: directory / f"{image}.pgm" for image in sums}
    if not all(path.is_file() for path in (directory / LIST, *files.values())):
        return False
    return all(sha256_file(path) == sums[image] for image, path in files.items())


def _refuse_used(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is a file: name a folder that does not exist yet")
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(
            f"{directory} is not empty and not a whole copy of the archive: "
            "name a folder that does not exist yet"
        )


def _download_and_unpack(directory: Path, url: str, sums: Mapping[str, str], quiet: bool) -> None:
    existing = next(parent for parent in directory.parents if parent.is_dir())
    prefix = f"{directory.name}.partial-"
    with TemporaryDirectory(dir=existing, prefix=prefix) as temporary:
        archive, unpacked = Path(temporary, "archive.tar.gz"), Path(temporary, "unpacked")
        _download(url, archive, quiet)
        unpacked.mkdir()
        _unpack(archive, unpacked, url, sums)
        sync_directory(unpacked)
        directory.parent.mkdir(parents=True, exist_ok=True)
        os.rename(unpacked, directory)
    sync_directory(directory.parent)


def _download(url: str, path: Path, quiet: bool) -> None:
    """Raises InputError: no http address, no answer, an answer that is an error, or cut short."""
    import pooch
    import requests

    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} cannot be fetched: give an address with http:// or https://")
    bar = not quiet and sys.stderr.isatty()
    say(f"downloading {url}", quiet)
    try:
        pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUTS)(url, str(path), None)
    except requests.RequestException as error:
        if error.response is not None:
            error.response.close()  # pooch leaves it open
        raise InputError(
            f"{url} could not be downloaded ({_reason(error)}): try again, or get the archive by "
            "other means, unpack it into a folder DIR and run: hmc-fast data check mias:DIR"
        ) from error


def _reason(error: Exception) -> str:
    """The first cause of a failed request, in few words."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    cause: BaseException = error
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return getattr(cause, "strerror", None) or str(cause)


def _unpack(archive: Path, directory: Path, url: str, sums: Mapping[str, str]) -> None:
    """Write the wanted members after all have been looked at; raises InputError as `fetch_mias`."""
    wanted = {*TEXTS, *(f"{image}.pgm" for image in sums)}
    try:
        with _open(archive) as tar:
            members = _wanted_members(tar, wanted)
            _refuse_missing(members, url, sums)
            wrong = []
            for name, data in _contents(tar, members):
                if name not in TEXTS and sha256_bytes(data) != sums[name.removesuffix(".pgm")]:
                    wrong.append(name)
                write_synced(directory / name, data)
    except DAMAGE as error:
        raise InputError(f"{url} gives no whole .tar.gz archive ({error})") from error
    if wrong:
        raise InputError(
            f"{url} holds other images than the published ones "
            f"(SHA-256 differs: {some(sorted(wrong))})"
        )


def _open(archive: Path) -> tarfile.TarFile:
    """The archive, also where server and client have agreed to take the gzip off on the way."""
    with open(archive, "rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    return tarfile.open(archive, "r:gz") if zipped else tarfile.open(archive, "r:")


def _wanted_members(tar: tarfile.TarFile, wanted: set[str]) -> dict[str, tarfile.TarInfo]:
    """The files to unpack by name; they lie flat or in one folder."""
    found: dict[str, tarfile.TarInfo] = {}
    for number, member in enumerate(tar, 1):
        if number > MAX_MEMBERS:
            raise InputError(f"the archive has over {MAX_MEMBERS} members: not the MIAS archive")
        _refuse_unsafe(member)
        path = PurePosixPath(member.name)
        if not member.isreg() or path.name not in wanted or len(path.parts) > 2:
            continue
        if path.name in found:
            raise InputError(f"the archive holds {path.name} twice: not the MIAS archive")
        found[path.name] = member
    return found


def _refuse_unsafe(member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"the archive's {member.name!r} leaves the folder: nothing is unpacked")
    if not (member.isreg() or member.isdir()):
        raise InputError(f"the archive's {member.name!r} is no plain file: nothing is unpacked")
    if member.size > MAX_MEMBER_BYTES:
        raise InputError(
            f"the archive's {member.name!r} has {member.size} bytes, "
            f"more than {MAX_MEMBER_BYTES}: nothing is unpacked"
        )


def _refuse_missing(members: Mapping[str, object], url: str, sums: Mapping[str, str]) -> None:
    needed = [LIST, *sorted(f"{image}.pgm" for image in sums)]
    missing = [name for name in needed if name not in members]
    if missing:
        raise InputError(f"{url} lacks {some(missing)}: not the MIAS archive")


def _contents(
    tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]
) -> Iterator[tuple[str, bytes]]:
    for name, member in members.items():
        file = tar.extractfile(member)
        assert file is not None
        yield name, file.read()
