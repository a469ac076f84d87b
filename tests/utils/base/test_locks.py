"""A lock file is one process's until it ends, however it ends."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import time

import filelock
import pytest
from conftest import ROOT

from utils.base.errors import UserError
from utils.base.locks import held, hold


def elsewhere(path: str, then: str) -> subprocess.Popen:
    """Another process that holds `path`, then runs `then`; returned when it does hold it."""
    code = (
        f"import os, time; from utils.base.locks import hold\nlock = hold({str(path)!r}, 'busy')\nprint(flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code + then], cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_one_process_at_a_time_and_none_after_a_kill(tmp_path):
    with elsewhere(tmp_path / "lock", "time.sleep(60)") as process:
        with pytest.raises(UserError, match="somebody is there"):
            hold(tmp_path / "lock", "somebody is there")
        process.send_signal(signal.SIGKILL)
        process.wait()
    hold(tmp_path / "lock", "somebody is there").release()


def test_a_process_forked_off_holds_nothing(tmp_path):
    """A loader's worker outlives a killed run by seconds."""
    fork = "child = os.fork()\nif child == 0: time.sleep(60)\nos.write(1, b'%d' % child)\nos._exit(0)"
    with elsewhere(tmp_path / "lock", fork) as process:
        child = int(process.stdout.read1())
        process.wait()
        try:
            deadline = time.monotonic() + 5
            while True:
                try:
                    hold(tmp_path / "lock", "busy").release()
                    break
                except UserError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            os.kill(child, 0)  # it lives
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_lock_for_a_while_leaves_nothing(tmp_path):
    with held(tmp_path / "lock", "busy"), pytest.raises(UserError, match="busy"):
        hold(tmp_path / "lock", "busy")
    assert list(tmp_path.iterdir()) == []


def test_no_planted_link_is_followed(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "lock").symlink_to("victim")
    with pytest.raises(UserError, match="lock: could not be written"):
        hold(tmp_path / "lock", "busy")
    assert (tmp_path / "victim").read_text() == "precious"


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, caplog):
    def acquire(lock, **_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with caplog.at_level(logging.WARNING):
        hold(tmp_path / "lock", "busy").release()
    assert "its file system has no locks" in caplog.text
