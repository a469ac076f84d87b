"""The download against a server on this machine that misbehaves in the ways of the real ones."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gdown
import h5py
import numpy as np
import pytest
import requests
import torch
from conftest import ROOT

from dataset import files
from dataset.download import __main__ as download_command
from dataset.download import fetch, sources, verify
from dataset.download.sources import Source
from utils.base.errors import UserError
from utils.base.locks import held

TIMES = 40  # of the server's parts of a slow answer


@dataclass
class Answer:
    """How the server answers for a path.

    `breaks_after`: it sends that many bytes of what is asked and hangs up; `slow` spreads the answer over
    seconds; `ranges` says whether it honours range requests.
    """

    content: bytes = b""
    status: int = 200
    breaks_after: int | None = None
    ranges: bool = True
    slow: bool = False
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/octet-stream"})


class Server(ThreadingHTTPServer):
    """Serves `answers[path]`, 404 elsewhere, and notes the requests: (path, Range header or None)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def handle_error(self, *_: object) -> None:
        """A client that was killed isn't news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        answer = self.server.answers.get(self.path.partition("?")[0].lstrip("/"), Answer(b"404: Not Found", 404))
        start, status = 0, answer.status
        if asked and answer.ranges:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
        body = answer.content[start:]
        self.send_response(status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(answer.content) - 1}/{len(answer.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        sent = body[: answer.breaks_after]
        step = max(1, len(sent) // TIMES) if answer.slow else max(1, len(sent))
        for i in range(0, len(sent), step):
            self.wfile.write(sent[i : i + step])
            self.wfile.flush()
            if answer.slow:
                time.sleep(0.05)
        if len(sent) < len(body):
            self.close_connection = True
            self.connection.shutdown(2)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "PAUSE", 0.01)
    monkeypatch.setattr(fetch, "TIMEOUT", 5.0)
    monkeypatch.setattr(sys.modules["gdown.download"], "CHUNK_SIZE", 2**14)  # our files are smaller than its blocks
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def audio_file(value: float = 1.0, clips: int = 64) -> bytes:
    """Content of a sound audio feature file of about 0.3 MB, or of one that holds `value` in its last clip."""
    features = np.random.default_rng(0).random((clips, 10, 64))
    features[-1, -1, -1] = value
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file[files.KEY] = features
    return content.getvalue()


def serve(server: Server, name: str, content: bytes, blob: bool = False, **answer: object) -> Source:
    """Have the server answer for a file; the Source that names it."""
    server.answers[name] = Answer(content, **answer)
    known = None
    if blob:
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(content)
            known = verify.blob_id(file.name)
    return Source(name, server.url(name), len(content), known)


def failure(wanted: list[Source], to: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch.download(wanted, to)
    return str(caught.value)


def test_blob_id_is_gits(tmp_path):
    (tmp_path / "file").write_bytes(b"what is up, doc?")
    assert verify.blob_id(tmp_path / "file") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_files_arrive_whole_and_a_second_run_asks_nobody(server, tmp_path, capsys):
    annotations = b"Bark&abc&good&0&10\n"
    wanted = [serve(server, files.ANNOTATIONS, annotations, blob=True), serve(server, files.AUDIO, audio_file())]
    fetch.download(wanted, tmp_path)
    assert (tmp_path / files.ANNOTATIONS).read_bytes() == annotations
    assert (tmp_path / files.AUDIO).read_bytes() == audio_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [files.ANNOTATIONS, files.AUDIO]
    server.requests.clear()
    fetch.download(wanted, tmp_path)
    assert not server.requests
    assert capsys.readouterr().out.count("already there") == 2


def test_a_fetched_file_has_the_usual_permissions(server, tmp_path):
    umask = os.umask(0o022)
    try:
        fetch.download([serve(server, files.AUDIO, audio_file())], tmp_path)
    finally:
        os.umask(umask)
    assert (tmp_path / files.AUDIO).stat().st_mode & 0o777 == 0o644


def test_a_download_that_breaks_off_again_and_again_goes_on(server, tmp_path):
    content = audio_file()
    fetch.download([serve(server, files.AUDIO, content, breaks_after=len(content) // 5)], tmp_path)
    assert (tmp_path / files.AUDIO).read_bytes() == content
    ranges = [asked for _, asked in server.requests if asked]
    assert len(ranges) >= 4  # each goes on where the one before broke off
    assert len(set(ranges)) == len(ranges)


def test_without_ranges_a_left_beginning_is_fetched_from_the_start(server, tmp_path):
    content = audio_file()
    source = serve(server, files.AUDIO, content, breaks_after=6 * 2**14)
    server.answers[files.AUDIO].ranges = False
    message = failure([source], tmp_path)  # bounded, though it would break off for ever
    assert "broke off at 98,304 bytes" in message
    assert "run this again to continue" in message
    assert len(server.requests) < 20
    server.answers[files.AUDIO].breaks_after = None
    fetch.download([source], tmp_path)
    assert (tmp_path / files.AUDIO).read_bytes() == content


def test_the_next_run_goes_on_where_a_failed_one_stopped(server, tmp_path):
    content = audio_file()
    source = serve(server, files.AUDIO, content, breaks_after=0)
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / f"{files.AUDIO}abcdefgh.part").write_bytes(content[:200_000])
    failure([source], tmp_path)
    server.answers[files.AUDIO].breaks_after = None
    server.requests.clear()
    fetch.download([source], tmp_path)
    assert (f"/{files.AUDIO}", "bytes=200000-") in server.requests
    assert (tmp_path / files.AUDIO).read_bytes() == content


def test_404_names_the_address_and_the_place_and_keeps_no_other_file_back(server, tmp_path):
    missing = Source(files.LABELS, server.url(files.LABELS), 0)
    message = failure([missing, serve(server, files.AUDIO, audio_file())], tmp_path)
    assert "404" in message
    assert missing.url in message
    assert f"put it at {tmp_path / files.LABELS}" in message
    assert (tmp_path / files.AUDIO).exists()
    assert len([path for path, _ in server.requests if path == f"/{files.LABELS}"]) == 1


def test_a_server_error_is_tried_again(server, tmp_path):
    source = serve(server, files.AUDIO, audio_file(), status=503)
    assert "503" in failure([source], tmp_path)
    assert len(server.requests) == fetch.ATTEMPTS


def test_a_web_page_is_not_kept_as_a_feature_file(server, tmp_path):
    page = b"<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"
    source = serve(server, files.AUDIO, page, headers={"Content-Type": "text/html"})
    message = failure([source], tmp_path)
    assert "HTML page" in message
    assert "quota" in message
    assert source.url in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(server, tmp_path, value):
    message = failure([serve(server, files.AUDIO, audio_file(value))], tmp_path)
    assert "1 of 64 clips hold NaN or infinity (first in row 63)" in message
    assert not (tmp_path / files.AUDIO).exists()


def test_another_content_than_the_published_one_is_refused(server, tmp_path):
    source = serve(server, files.ANNOTATIONS, b"Bark&abc&good&0&10\n", blob=True)
    server.answers[files.ANNOTATIONS].content = b"Bark&abc&good&0&99\n"
    assert "isn't the published file" in failure([source], tmp_path)
    assert not (tmp_path / files.ANNOTATIONS).exists()


def test_a_users_own_file_is_not_replaced(server, tmp_path):
    source = serve(server, files.ANNOTATIONS, b"Bark&abc&good&0&10\n", blob=True)
    (tmp_path / files.ANNOTATIONS).write_text("Siren&mine&good&0&5\n")
    message = failure([source], tmp_path)
    assert "move it away" in message
    assert (tmp_path / files.ANNOTATIONS).read_text() == "Siren&mine&good&0&5\n"
    assert not server.requests


@pytest.mark.parametrize("damage", [audio_file()[:100_000], b"<html>quota</html>", b""])
def test_a_damaged_file_is_fetched_again(server, tmp_path, damage, capsys):
    source = serve(server, files.AUDIO, audio_file())
    (tmp_path / files.AUDIO).write_bytes(damage)
    fetch.download([source], tmp_path)
    assert (tmp_path / files.AUDIO).read_bytes() == audio_file()
    assert "Fetching it again" in capsys.readouterr().out


def test_without_network_each_file_has_a_line_and_the_host_is_asked_once(server, tmp_path, capsys, monkeypatch):
    url = server.url("")
    server.server_close()  # nobody listens any more
    calls = []
    real = gdown.download
    monkeypatch.setattr(gdown, "download", lambda *args, **kwargs: calls.append(args) or real(*args, **kwargs))
    wanted = [Source(name, url + name, 10) for name in (files.AUDIO, files.LABELS, files.VISUAL)]
    monkeypatch.setattr(sources, "SUPERVISED", tuple(wanted))
    assert download_command.main(["--to", str(tmp_path / "data")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line, source in zip(lines, wanted, strict=True):
        assert line.startswith(f"error: {tmp_path / 'data' / source.name}: no connection to 127.0.0.1;")
        assert f"fetch {source.url} by hand" in line
        assert f"put it at {tmp_path / 'data' / source.name}" in line
    assert len(calls) == fetch.ATTEMPTS


def test_a_full_disk_is_said_before_anything_is_fetched(server, tmp_path):
    source = serve(server, files.AUDIO, audio_file())._replace(size=10**15)
    assert "1000000.00 GB are needed" in failure([source], tmp_path)
    assert not server.requests


def test_a_size_that_only_the_server_knows_is_checked_too(server, tmp_path, monkeypatch):
    source = serve(server, files.AUDIO, audio_file())._replace(size=0)
    monkeypatch.setattr(fetch, "require_free_space", _only_100_kb)
    assert "0.1 MB" in failure([source], tmp_path)
    assert not (tmp_path / files.AUDIO).exists()


def _only_100_kb(folder: Path, size: int) -> None:
    if size > 100_000:
        raise UserError("0.1 MB")


def test_a_disk_that_fills_while_fetching_is_named(server, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gdown, "download", full)
    message = failure([serve(server, files.AUDIO, audio_file())], tmp_path)
    assert "the disk is full" in message


def test_a_killed_download_goes_on_in_the_next_run(server, tmp_path):
    content = audio_file(clips=400)  # 2 MB: several of gdown's blocks
    source = serve(server, files.AUDIO, content, slow=True)
    code = f"""
import sys
from pathlib import Path
from dataset.download.fetch import download
from dataset.download.sources import Source
download([Source({files.AUDIO!r}, {source.url!r}, {source.size})], Path(sys.argv[1]))
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not (beginning := sum(path.stat().st_size for path in tmp_path.glob(".download/*.part"))):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    beginning = sum(path.stat().st_size for path in tmp_path.glob(".download/*.part"))
    assert 0 < beginning < len(content)
    assert not (tmp_path / files.AUDIO).exists()
    server.answers[files.AUDIO].slow = False
    server.requests.clear()
    fetch.download([source], tmp_path)
    assert (f"/{files.AUDIO}", f"bytes={beginning}-") in server.requests
    assert (tmp_path / files.AUDIO).read_bytes() == content


def test_a_run_killed_while_verifying_does_not_fetch_again(server, tmp_path):
    source = serve(server, files.AUDIO, audio_file())
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / files.AUDIO).write_bytes(audio_file())
    fetch.download([source], tmp_path)
    assert (tmp_path / files.AUDIO).exists()
    assert not server.requests


def test_two_downloads_do_not_share_a_folder(server, tmp_path):
    (tmp_path / ".download").mkdir()
    with held(tmp_path / ".download" / "lock", "busy"):
        assert "another download" in failure([serve(server, files.AUDIO, audio_file())], tmp_path)


def checkpoint(value: float = 1.0) -> bytes:
    content = io.BytesIO()
    torch.save({"module.v_fc.weight": torch.full((4, 4), value, dtype=torch.float64)}, content)
    return content.getvalue()


def test_a_checkpoint_goes_to_its_own_folder(server, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.base.paths.ROOT", tmp_path)  # the project's, wherever the user stands
    source = serve(server, "Supervised_model.pth.tar", checkpoint())._replace(folder=Path("Exps/Supv/exp1"))
    fetch.download([source], tmp_path / "data")
    assert (tmp_path / "Exps/Supv/exp1/Supervised_model.pth.tar").read_bytes() == checkpoint()
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!doctype html>", "HTML page"),
        (checkpoint()[:300], "not a checkpoint"),
        (checkpoint(np.nan), "NaN or infinity"),
    ],
)
def test_a_bad_checkpoint_is_refused(server, tmp_path, content, reason):
    assert reason in failure([serve(server, "Supervised_model.pth.tar", content)], tmp_path)
    assert not list(tmp_path.iterdir())


def videos(names: tuple[str, ...]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, name.encode() * 100)
    return content.getvalue()


def test_videos_are_unpacked_into_one_folder(server, tmp_path):
    names = ("AVE_Dataset/AVE/a1.mp4", "../../b2.mp4", "AVE_Dataset/Annotations.txt")
    source = serve(server, "AVE_Dataset.zip", videos(names))
    fetch.download([source], tmp_path)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["a1.mp4", "b2.mp4"]
    assert (tmp_path / "videos" / "b2.mp4").read_bytes() == b"../../b2.mp4" * 100
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]
    server.requests.clear()
    fetch.download([source], tmp_path)
    assert not server.requests


def test_what_macos_adds_is_no_video_and_two_of_one_name_are_refused(server, tmp_path):
    source = serve(server, "AVE_Dataset.zip", videos(["AVE/a.mp4", "__MACOSX/AVE/._a.mp4"]))
    fetch.download([source], tmp_path)
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["a.mp4"]
    shutil.rmtree(tmp_path / "videos")
    message = failure([serve(server, "AVE_Dataset.zip", videos(["x/a.mp4", "y/a.mp4"]))], tmp_path)
    assert "holds several files named a.mp4; unpack it by hand into" in message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [(6, 1, "is an encrypted archive"), (8, 9, "is compressed in a way that Python can't read")],  # 9 is deflate64
)
def test_an_archive_that_cannot_be_unpacked_is_named(server, tmp_path, field, value, said):
    content = bytearray(videos(["AVE/a.mp4"]))
    for signature, shift in ((b"PK\3\4", 0), (b"PK\1\2", 2)):  # the member's own header and the table of contents
        content[content.index(signature) + field + shift] = value
    assert said in failure([serve(server, "AVE_Dataset.zip", bytes(content))], tmp_path)
    assert not (tmp_path / "videos").exists()


def test_a_damaged_archive_is_refused(server, tmp_path):
    content = bytearray(videos(("AVE/a1.mp4",)))
    content[60] ^= 255
    message = failure([serve(server, "AVE_Dataset.zip", bytes(content))], tmp_path)
    assert "damaged zip archive" in message
    assert f"put it at {tmp_path / '.download' / 'AVE_Dataset.zip'} and run this again" in message


@pytest.fixture
def drive(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """Google Drive's two hosts, played by the server (their pages are written from memory of the real ones)."""
    real = requests.adapters.HTTPAdapter.send

    def send(self: object, request: requests.PreparedRequest, **kwargs: object) -> requests.Response:
        for host, path in (
            ("https://drive.google.com/", "drive/"),
            ("https://drive.usercontent.google.com/", "content/"),
        ):
            if request.url.startswith(host):
                request.url = server.url(path + request.url.removeprefix(host))
        return real(self, request, **kwargs)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", send)
    monkeypatch.setattr(sys.modules["gdown.download"], "DEFAULT_COOKIES_FILE", str(tmp_path / "cookies.txt"))
    return server


FORM = b"""<!DOCTYPE html><html><body><form id="download-form" action="https://drive.usercontent.google.com/download"
 method="get"><input type="submit" value="Download anyway"/><input type="hidden" name="id" value="AbC"/>
<input type="hidden" name="confirm" value="t"/></form></body></html>
""".replace(b"\n ", b" ")
QUOTA = b"""<!DOCTYPE html><html><body><p class="uc-error-caption">Sorry, you can't view or download this file</p>
<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>"""
HTML = {"Content-Type": "text/html; charset=utf-8"}


def test_google_drives_question_about_large_files_is_answered_and_its_download_goes_on(drive, tmp_path):
    content = audio_file()
    drive.answers["drive/uc"] = Answer(FORM, headers=HTML)
    attachment = {"Content-Type": "application/octet-stream", "Content-Disposition": 'attachment; filename="x.h5"'}
    drive.answers["content/download"] = Answer(content, breaks_after=len(content) // 2 + 1, headers=attachment)
    fetch.download([Source(files.AUDIO, sources._DRIVE + "AbC", len(content))], tmp_path / "data")
    assert (tmp_path / "data" / files.AUDIO).read_bytes() == content
    assert any(path.startswith("/content/") and asked for path, asked in drive.requests)


def test_google_drives_quota_page_is_quoted(drive, tmp_path):
    drive.answers["drive/uc"] = Answer(QUOTA, headers=HTML)
    source = Source(files.VISUAL, sources._DRIVE + "AbC", 10)
    message = failure([source], tmp_path / "data")
    assert "Google Drive does not give it out (Too many users have viewed" in message
    assert f"fetch {source.url} by hand (in a browser)" in message
    assert not (tmp_path / "data" / files.VISUAL).exists()


def test_every_flag_adds_its_files(monkeypatch, tmp_path):
    asked: list[str] = []
    monkeypatch.setattr(download_command, "download", lambda wanted, to: asked.extend(source.name for source in wanted))
    assert download_command.main(["--to", str(tmp_path)]) == 0
    assert asked == [source.name for source in sources.SUPERVISED]
    asked.clear()
    assert download_command.main(["--weak", "--checkpoints", "--videos"]) == 0
    assert set(asked) == {
        *(files.order_file(split) for split in files.SPLITS),
        *(files.VISUAL, files.AUDIO, files.LABELS, files.ANNOTATIONS),
        *(files.CLIP_LABELS, files.NOISY_VISUAL, files.NOISY_AUDIO, files.NOISY_LABELS),
        *("Supervised_model.pth.tar", "WeaklySupervised_model.pth.tar", "AVE_Dataset.zip"),
    }


def test_the_known_blob_ids_are_those_of_aves_files(ave_files):
    checked = [source for source in (*sources.SUPERVISED, *sources.WEAK) if (ave_files / source.name).exists()]
    assert len(checked) >= 7
    for source in checked:
        assert verify.blob_id(ave_files / source.name) == source.blob
        assert (ave_files / source.name).stat().st_size == source.size
