"""The download of MIAS against a local server: all or nothing, every refusal one sentence."""

import gzip
import hashlib
import io
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import hmc_fast.data.fetch as fetch
from hmc_fast.data.fetch import fetch_mias
from hmc_fast.errors import InputError

FILMS = {f"mdb{i:03d}": b"P5\n2 2\n255\n" + bytes([i] * 4) for i in range(1, 8)}
SUMS = {image: hashlib.sha256(data).hexdigest() for image, data in FILMS.items()}
FILES = {
    "Info.txt": b"mdb001 G CIRC B 535 425 197\n",
    "Licence.txt": b"research only\n",
    **{f"{image}.pgm": data for image, data in FILMS.items()},
}


def tar_of(files, *extra):
    """A .tar.gz of names and bytes, then of extra TarInfo members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def special(name, kind=tarfile.REGTYPE, target="", size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body, promised, headers = self.server.answer
        self.send_response(200 if self.path == "/all-mias.tar.gz" else 404)
        self.send_header("Content-Length", str(promised))
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    """serve(body) gives the address of an archive with these bytes."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def answer(body, promised=None, **headers):
        server.answer = body, len(body) if promised is None else promised, headers
        return f"http://127.0.0.1:{server.server_port}/all-mias.tar.gz"

    yield answer
    server.shutdown()
    thread.join()
    server.server_close()


def assert_refused(directory, url, message):
    """One sentence, and nothing new beside or at the target."""
    before = sorted(directory.parent.rglob("*"))
    with pytest.raises(InputError, match=message) as caught:
        fetch_mias(directory, url, sums=SUMS)
    assert "\n" not in str(caught.value)
    assert sorted(directory.parent.rglob("*")) == before


@pytest.mark.parametrize("folder", ["", "./", "all-mias/"])
def test_the_archive_is_unpacked_flat_and_whole(serve, tmp_path, folder):
    url = serve(tar_of({folder + name: data for name, data in FILES.items()}))
    assert fetch_mias(tmp_path / "new" / "mias", url, sums=SUMS) == tmp_path / "new" / "mias"
    written = {path.name: path.read_bytes() for path in (tmp_path / "new" / "mias").iterdir()}
    assert written == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_it_says_where_the_licence_and_what_next(serve, tmp_path, capsys):
    url = serve(tar_of(FILES))
    fetch_mias(tmp_path / "mias", url, sums=SUMS)
    first, holds, licence, following = capsys.readouterr().out.splitlines()
    assert first == f"downloading {url}"
    assert holds == f"{tmp_path}/mias holds 7 images, every SHA-256 checked"
    assert "research only" in licence
    assert "Suckling et al (1994)" in licence
    assert following == f"next: hmc-fast data check mias:{tmp_path}/mias"


def test_quiet_says_nothing(serve, tmp_path, capfd):
    fetch_mias(tmp_path / "mias", serve(tar_of(FILES)), quiet=True, sums=SUMS)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_takes_the_gzip_off_is_understood(serve, tmp_path):
    url = serve(tar_of(FILES), **{"Content-Encoding": "x-gzip"})
    fetch_mias(tmp_path / "mias", url, sums=SUMS)
    assert len(list((tmp_path / "mias").iterdir())) == len(FILES)


def test_other_members_are_left_out(serve, tmp_path):
    extra = {"notes.sh": b"", "mdb999.pgm": b"", "a/b/mdb001.pgm": b"other", "README": b"read"}
    folder = special("all-mias", tarfile.DIRTYPE)
    fetch_mias(tmp_path / "mias", serve(tar_of(FILES | extra, folder)), sums=SUMS)
    assert {path.name for path in (tmp_path / "mias").iterdir()} == {*FILES, "README"}
    assert (tmp_path / "mias" / "mdb001.pgm").read_bytes() == FILMS["mdb001"]


def test_an_empty_folder_is_filled_and_a_whole_copy_left_alone(serve, tmp_path, capsys):
    directory = tmp_path / "mias"
    directory.mkdir()
    fetch_mias(directory, serve(tar_of(FILES)), sums=SUMS)
    times = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    capsys.readouterr()
    fetch_mias(directory, "http://127.0.0.1:1/nowhere", sums=SUMS)
    assert "already holds 7 images" in capsys.readouterr().out
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == times


def test_a_folder_with_anything_else_is_refused(serve, tmp_path):
    directory = tmp_path / "mias"
    fetch_mias(directory, serve(tar_of(FILES)), sums=SUMS)
    (directory / "mdb003.pgm").write_bytes(b"edited")
    assert_refused(directory, serve(tar_of(FILES)), "mias is not empty and not a whole copy")
    assert (directory / "mdb003.pgm").read_bytes() == b"edited"


def test_a_file_in_the_folders_place_is_refused(serve, tmp_path):
    (tmp_path / "mias").write_text("")
    assert_refused(tmp_path / "mias", serve(tar_of(FILES)), "is a file")


def test_differing_images_are_named_up_to_five(serve, tmp_path):
    changed = {name: data + b" " if name.endswith("pgm") else data for name, data in FILES.items()}
    message = r"SHA-256 differs: mdb001.pgm, .*, mdb005.pgm and 2 more\)"
    assert_refused(tmp_path / "mias", serve(tar_of(changed)), message)


@pytest.mark.parametrize("name", ["mdb004.pgm", "Info.txt"])
def test_missing_files_are_named(serve, tmp_path, name):
    files = {other: data for other, data in FILES.items() if other != name}
    assert_refused(tmp_path / "mias", serve(tar_of(files)), f"lacks {name}")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (special("../mdb001.pgm"), "'../mdb001.pgm' leaves the folder"),
        (special("a/../../x"), "leaves the folder"),
        (special("/tmp/x"), "'/tmp/x' leaves the folder"),
        (special("mdb008.pgm", tarfile.SYMTYPE, "/etc/passwd"), "'mdb008.pgm' is no plain file"),
        (special("x", tarfile.LNKTYPE, "Info.txt"), "no plain file"),
        (special("x", tarfile.FIFOTYPE), "no plain file"),
        (special("x", tarfile.CHRTYPE), "no plain file"),
        (special("x", size=2**21 + 1), "has 2097153 bytes"),
        (special("all-mias/mdb002.pgm"), "holds mdb002.pgm twice"),
    ],
)
def test_unsafe_members_are_refused_before_anything_is_written(
    serve, tmp_path, monkeypatch, member, message
):
    monkeypatch.setattr(fetch, "write_synced", lambda *_: pytest.fail("something was written"))
    assert_refused(tmp_path / "mias", serve(tar_of(FILES, member)), message)


def test_too_many_members_are_refused(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_MEMBERS", 8)
    assert_refused(tmp_path / "mias", serve(tar_of(FILES)), "over 8 members")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_archive_is_refused(serve, tmp_path, share):
    whole = tar_of(FILES | {"README": np.random.default_rng(0).bytes(20000)})
    body = whole[: int(len(whole) * share)]
    assert_refused(tmp_path / "mias", serve(body), "gives no whole .tar.gz archive")


@pytest.mark.parametrize("body", [b"", b"<html>moved</html>", gzip.compress(b"no tar at all")])
def test_what_is_no_archive_is_refused(serve, tmp_path, body):
    assert_refused(tmp_path / "mias", serve(body), "gives no whole .tar.gz archive")


def test_a_corrupt_archive_is_refused(serve, tmp_path):
    body = bytearray(tar_of(FILES))
    body[len(body) // 2] ^= 0xFF
    assert_refused(tmp_path / "mias", serve(bytes(body)), "no whole .tar.gz|lacks|differs")


def test_a_member_that_declares_an_absurd_size_is_refused(serve, tmp_path):
    """tarfile trusts the size of an extended header and overflows."""
    header = bytearray(special("x", tarfile.XHDTYPE).tobuf())
    header[124:136] = b"\x80" + (2**70).to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    assert_refused(tmp_path / "mias", serve(bytes(header)), "gives no whole .tar.gz archive")


def test_a_connection_cut_short_is_refused(serve, tmp_path):
    body = tar_of(FILES)
    url = serve(body[:-10], promised=len(body))
    assert_refused(tmp_path / "mias", url, "could not be downloaded")


def test_an_error_of_the_server_is_told(serve, tmp_path):
    url = serve(b"") + ".old"
    message = r"gz\.old could not be downloaded \(the server answers 404 Not Found\).*DIR"
    assert_refused(tmp_path / "mias", url, message)


def test_no_server_is_told_with_the_way_by_hand(serve, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/all-mias.tar.gz"
        message = rf"{url} could not be downloaded \(Connection refused\).*data check mias:DIR"
        assert_refused(tmp_path / "mias", url, message)


def test_silence_ends_with_the_timeout(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUTS", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/all-mias.tar.gz"
        assert_refused(tmp_path / "mias", url, r"could not be downloaded \(.*timed out")


@pytest.mark.parametrize("url", ["all-mias.tar.gz", "file:///etc/passwd", "http://"])
def test_an_address_that_is_none_is_refused(tmp_path, url):
    assert_refused(tmp_path / "mias", url, "could not be downloaded|give an address with http")


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interruption_or_a_full_disk_leaves_nothing(serve, tmp_path, monkeypatch, stop):
    writes = []

    def write(path, data):
        writes.append(path.write_bytes(data))
        if len(writes) == 3:
            raise stop

    monkeypatch.setattr(fetch, "write_synced", write)
    with pytest.raises((KeyboardInterrupt, InputError), match=r"No space left|^$"):
        fetch_mias(tmp_path / "new" / "mias", serve(tar_of(FILES)), sums=SUMS)
    assert len(writes) == 3
    assert not list(tmp_path.iterdir())


def test_the_published_sums_are_those_of_322_images():
    sums = fetch.published_sums()
    assert sorted(sums) == [f"mdb{i:03d}" for i in range(1, 323)]
    assert sums["mdb001"].startswith("16c5e6c2ac59e62b")
    assert len(set(sums.values())) == 322
