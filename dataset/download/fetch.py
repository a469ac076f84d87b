"""Fetching files, going on where a download broke off: what `python -m dataset.download` does for each one.

A file is fetched into the folder `.download` beside its target, verified there (`dataset.download.verify`), and only
then renamed: what stands in the data folder is whole. A download that broke off or was killed continues
where it stopped, and a whole file that is there isn't fetched again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import gdown
import requests
from tqdm import tqdm

from dataset.download import verify
from dataset.download.archive import unpack_videos
from dataset.download.sources import Source
from utils.base.atomic import make_folder, require_free_space
from utils.base.errors import UserError, write_error
from utils.base.locks import held

ATTEMPTS = 3  # to get on with a file, in succession without a new byte
PAUSE = 1.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = 60.0  # seconds without a byte
_STAGING = ".download"


class _NotGot(Exception):
    """Why a file couldn't be got. `download` adds which file, and the way without this program."""


class _Unreachable(_NotGot):
    """The source's host doesn't answer at all."""


def download(wanted: list[Source], to: str | os.PathLike) -> None:
    """Fetch what isn't there of `wanted`, into the data folder `to` (checkpoints into their own folders).

    A file that fails doesn't keep the others from being fetched, but a host that doesn't answer is asked
    once. Raises UserError, after one line on stderr for each further file, for files that couldn't be got:
    each line says what happened, the address to fetch by hand, and where to put the file.
    """
    failures, missing = [], []
    for source in wanted:
        target = source.path_in(to)
        try:
            if _is_there(source, target):
                print(f"{target}: already there")
            else:
                missing.append((source, target, target.parent / _STAGING / source.name))
        except UserError as error:
            failures.append(str(error))
    for folder in {make_folder(target.parent) for _, target, _ in missing}:
        waiting = [(source, staged) for source, target, staged in missing if target.parent == folder]
        require_free_space(folder, sum(max(0, source.size - _bytes_so_far(staged)) for source, staged in waiting))

    unreachable = set()
    for source, target, staged in missing:
        host = str(urlsplit(source.url).hostname)
        try:
            if host in unreachable:
                raise _Unreachable(f"no connection to {host}")
            _get(source, target, staged)
            print(f"{target}: fetched and verified")
        except _NotGot as error:
            if isinstance(error, _Unreachable):
                unreachable.add(host)
            put = f"{staged} and run this again" if source.is_archive else target
            by_hand = f"try again later, or fetch {source.url} by hand (in a browser) and put it at {put}"
            failures.append(f"{target}: {error}; {by_hand}")
        except UserError as error:
            failures.append(str(error))
    for line in failures[:-1]:
        print(f"error: {line}", file=sys.stderr)
    if failures:
        raise UserError(failures[-1])


def _is_there(source: Source, target: Path) -> bool:
    """Whether a whole file stands at `target`; UserError when another one does that may be the user's own."""
    if not os.path.lexists(target):
        return False
    if source.is_archive:
        return True  # the folder of videos, which is renamed into place once it is whole
    try:
        verify.require_kind(target)
    except UserError as error:
        if target.is_dir() or not os.access(target, os.R_OK):
            raise
        print(f"{error}. Fetching it again.")
        return False
    if source.blob and (found := verify.blob_id(target)) != source.blob:
        raise UserError(
            f"{target}: isn't the published file (git blob {found[:10]} instead of {source.blob[:10]}); "
            f"move it away and run this again to get that"
        )
    return True


def _get(source: Source, target: Path, staged: Path) -> None:
    """Fetch a file, verify it and put it where it belongs. Raises UserError or _NotGot."""
    folder = make_folder(staged.parent)
    try:
        with held(folder / "lock", f"{folder}: another download is at work there; wait until it ends"):
            if not staged.exists():  # else a run was killed while verifying it, or someone put it there by hand
                _fetch(source.url, target, staged)
            _verify_and_place(source, target, staged)
    finally:
        with contextlib.suppress(OSError):  # the beginning of a file may be waiting there
            folder.rmdir()


def _verify_and_place(source: Source, target: Path, staged: Path) -> None:
    try:
        verify.require_published(staged, source.blob)
    except UserError as error:
        staged.unlink()
        raise _NotGot(f"what came {str(error).removeprefix(f'{staged}: ').partition(';')[0]}") from error
    if source.is_archive:
        unpack_videos(staged, target)
        staged.unlink()
    else:
        # gdown's files can be read by their owner alone, but a data folder is often shared.
        staged.chmod(0o666 & ~_umask())
        os.replace(staged, target)


def _fetch(url: str, target: Path, staged: Path) -> None:
    """Bring a file to `staged`, going on as long as bytes arrive. Raises UserError or _NotGot."""
    reached, attempts = 0, 0
    with tqdm(desc=f"fetching {target}", unit="B", unit_scale=True, disable=None) as bar:

        def progress(position: int, total: int | None) -> None:
            nonlocal reached, attempts
            if total is not None and bar.total != total:
                bar.reset(total)
                require_free_space(target.parent, total - position)
            bar.update(position - bar.n)
            if position > reached:
                reached, attempts = position, 0

        while True:
            attempts += 1
            try:
                gdown.download(url, str(staged), quiet=True, resume=True, timeout=TIMEOUT, progress=progress)
                return
            except gdown.exceptions.FileURLRetrievalError as error:
                raise _NotGot(f"Google Drive does not give it out ({_quote(error)})") from error
            except requests.HTTPError as error:
                if error.response.status_code < 500 or attempts >= ATTEMPTS:
                    raise _NotGot(f"the server answers {_quote(error)}") from error
            except (requests.RequestException, gdown.exceptions.DownloadError, ConnectionError, TimeoutError) as error:
                if attempts >= ATTEMPTS:
                    if reached == 0 and isinstance(error, requests.ConnectionError | requests.Timeout):
                        raise _Unreachable(f"no connection to {urlsplit(url).hostname}") from error
                    raise _NotGot(
                        f"broke off at {reached:,} bytes ({_quote(error)}); run this again to continue"
                    ) from error
                if isinstance(error, gdown.exceptions.DownloadError) and error.__cause__ is None and attempts > 1:
                    for beginning in _beginnings(staged):
                        beginning.unlink()  # the server doesn't continue it (or has another file now): begin again
            except OSError as error:
                raise write_error(staged, error) from error
            time.sleep(PAUSE * 2 ** (attempts - 1))


def _quote(error: Exception) -> str:
    """A library's message, on one line and short."""
    text = " ".join(str(error).split())
    text = text.removeprefix("Failed to retrieve file url: ")
    for advice in (" You may still be able", ". The received bytes are kept"):
        text = text.partition(advice)[0]
    return text[:200]


def _beginnings(staged: Path) -> list[Path]:
    """What broken downloads of a file have left: gdown adds 8 random characters and .part to the name."""
    return list(staged.parent.glob(f"{staged.name}{'?' * 8}.part"))


def _bytes_so_far(staged: Path) -> int:
    return sum(path.stat().st_size for path in (staged, *_beginnings(staged)) if path.exists())


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
