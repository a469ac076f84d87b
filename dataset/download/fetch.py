"""Fetch and verify the AVE files: `python -m dataset.download [--to data] [--weak] [--checkpoints] [--videos]`.

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


class _Unreachable(Exception):
    """The source's host doesn't answer at all."""


def download(wanted: list[Source], to: str | os.PathLike) -> None:
    """Fetch what isn't there of `wanted`, into the data folder `to` (checkpoints into their own folders).

    A file that fails doesn't keep the others from being fetched, but a host that doesn't answer is asked
    once. Raises UserError, after one line on stderr for each further file, for files that couldn't be got:
    each line says what happened, the address to fetch by hand, and where to put the file.
    """
    failures = []
    missing = []
    for source in wanted:
        try:
            there = _is_there(source, source.path_in(to))
        except UserError as error:
            failures.append(str(error))
            continue
        if there:
            print(f"{source.path_in(to)}: already there")
        else:
            missing.append(source)
    for folder in {make_folder(source.path_in(to).parent) for source in missing}:
        waiting = [source for source in missing if source.path_in(to).parent == folder]
        require_free_space(folder, sum(max(0, source.size - _bytes_so_far(source, to)) for source in waiting))

    unreachable: dict[str, str] = {}
    for source in missing:
        target, host = source.path_in(to), str(urlsplit(source.url).hostname)
        try:
            if host in unreachable:
                raise _Unreachable(unreachable[host])
            _get(source, target)
            print(f"{target}: fetched and verified")
        except _Unreachable as error:
            unreachable[host] = str(error)
            failures.append(_by_hand(source, target, str(error)))
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


def _get(source: Source, target: Path) -> None:
    """Fetch a file, verify it and put it where it belongs. Raises UserError or _Unreachable."""
    folder = make_folder(target.parent / _STAGING)
    try:
        with held(folder / "lock", f"{folder}: another download is at work there; wait until it ends"):
            _get_into(folder, source, target)
    finally:
        with contextlib.suppress(OSError):  # the beginning of a file may be waiting there
            folder.rmdir()


def _get_into(folder: Path, source: Source, target: Path) -> None:
    staged = folder / source.name
    if not staged.exists():  # else a run was killed while verifying it, or someone put it there by hand
        _fetch(source, target, staged)
    try:
        verify.require_published(staged, source.blob)
    except UserError as error:
        staged.unlink()
        reason = str(error).removeprefix(f"{staged}: ").partition(";")[0]
        raise UserError(_by_hand(source, target, f"what came {reason}")) from error
    if source.is_archive:
        unpack_videos(staged, target)
        staged.unlink()
    else:
        # gdown's files can be read by their owner alone, but a data folder is often shared.
        staged.chmod(0o666 & ~_umask())
        os.replace(staged, target)


def _fetch(source: Source, target: Path, staged: Path) -> None:
    """Bring a file to `staged`, going on as long as bytes arrive. Raises UserError or _Unreachable."""
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
                gdown.download(source.url, str(staged), quiet=True, resume=True, timeout=TIMEOUT, progress=progress)
                return
            except gdown.exceptions.FileURLRetrievalError as error:
                raise UserError(
                    _by_hand(source, target, f"Google Drive does not give it out ({_quote(error)})")
                ) from error
            except requests.HTTPError as error:
                status = error.response.status_code
                if status < 500 or attempts >= ATTEMPTS:
                    raise UserError(_by_hand(source, target, f"the server answers {_quote(error)}")) from error
            except (requests.RequestException, gdown.exceptions.DownloadError, ConnectionError, TimeoutError) as error:
                if attempts >= ATTEMPTS:
                    if reached == 0 and isinstance(error, requests.ConnectionError | requests.Timeout):
                        raise _Unreachable(f"no connection to {urlsplit(source.url).hostname}") from error
                    raise UserError(
                        _by_hand(
                            source,
                            target,
                            f"broke off at {reached:,} bytes ({_quote(error)}); run this again to continue",
                        )
                    ) from error
                if isinstance(error, gdown.exceptions.DownloadError) and error.__cause__ is None and attempts > 1:
                    # The server doesn't continue what is there (or has another file now): begin again.
                    _discard_beginning(staged)
            except OSError as error:
                raise write_error(staged, error) from error
            time.sleep(PAUSE * 2 ** (attempts - 1))


def _by_hand(source: Source, target: Path, what: str) -> str:
    """The one line for a file that could not be got: what happened, and the way without this program."""
    put = (
        f"put it at {target.parent / _STAGING / source.name} and run this again"
        if source.is_archive
        else f"put it at {target}"
    )
    return f"{target}: {what}; try again later, or fetch {source.url} by hand (in a browser) and {put}"


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


def _discard_beginning(staged: Path) -> None:
    for path in _beginnings(staged):
        path.unlink()


def _bytes_so_far(source: Source, to: str | os.PathLike) -> int:
    staged = source.path_in(to).parent / _STAGING / source.name
    return sum(path.stat().st_size for path in (staged, *_beginnings(staged)) if path.exists())


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
