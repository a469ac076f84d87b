"""Output that can't be written, that nobody reads, and text in it that isn't ours."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

import pytest
from conftest import ROOT
from helpers_bad import COMMANDS, main_of
from tqdm import tqdm

from utils.base.errors import EXIT_CLOSED_PIPE, UserError, command
from utils.base.output import log_to_terminal, printable, when_output_is_lost


def closed_pipe() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def full_disk() -> TextIO:
    return open("/dev/full", "w")


def outcome(main: Callable[..., int], out: TextIO, arguments: list[str] | None = None) -> int:
    """The exit code that a shell would see, where standard output is `out`."""
    with out, redirect_stdout(out):
        try:
            return main(arguments) if arguments is not None else main()
        except SystemExit as ended:
            return ended.code


@pytest.mark.parametrize("name", [*COMMANDS, "supv_main", "weak_main"])
def test_every_command_can_lose_its_output(name, capfd):
    assert outcome(main_of(name), closed_pipe(), ["--help"]) == 0
    assert capfd.readouterr().err == ""
    assert outcome(main_of(name), full_disk(), ["--help"]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: standard output: could not be written; the disk is full")
    assert error.count("\n") == 1


@pytest.mark.parametrize("say", [lambda text: print(text, flush=True), tqdm.write])
@pytest.mark.parametrize(("open_output", "code", "lines"), [(closed_pipe, EXIT_CLOSED_PIPE, 0), (full_disk, 2, 1)])
def test_a_command_ends_where_it_loses_its_output(say, open_output, code, lines, capfd):
    @command
    def main() -> None:
        for _ in range(1000):
            say("x" * 100)
        pytest.fail("went on")

    assert outcome(main, open_output()) == code
    assert capfd.readouterr().err.count("\n") == lines


def test_a_message_that_cannot_be_logged_ends_the_command(capfd):
    @command
    def main() -> None:
        log_to_terminal()
        logging.getLogger("utils.x").info("lost")
        pytest.fail("went on")

    assert outcome(main, closed_pipe()) == EXIT_CLOSED_PIPE
    assert outcome(main, full_disk()) == 2
    assert capfd.readouterr().err.count("\n") == 1


def test_what_a_library_wants_to_tell_is_not_printed_but_its_warnings_are(capsys):
    @command
    def main() -> None:
        log_to_terminal()
        for name in ("matplotlib.font_manager", "utils.x"):
            logging.getLogger(name).info("%s tells", name)
            logging.getLogger(name).warning("%s warns", name)

    main()
    assert capsys.readouterr().out == "matplotlib.font_manager warns\nutils.x tells\nutils.x warns\n"


def test_a_long_run_is_asked_to_stop_once(capfd):
    asked = []

    @command
    def main() -> None:
        with when_output_is_lost(lambda: asked.append(1)):
            for _ in range(3):
                print("lost", flush=True)

    assert outcome(main, closed_pipe()) == 0
    assert asked == [1]
    assert outcome(main, full_disk()) == 2
    assert asked == [1, 1]
    assert capfd.readouterr().err.count("\n") == 1


def test_an_error_line_that_cannot_be_written_keeps_its_exit_code():
    @command
    def main() -> None:
        for _ in tqdm(range(3), disable=False):
            print("warning", file=sys.stderr)
        raise UserError("mistake")

    for lost in (closed_pipe(), full_disk()):
        with lost, redirect_stderr(lost):
            assert main() == 2


def test_text_of_others_is_shown_not_obeyed(capfd):
    @command
    def main() -> None:
        print("Dog\x1b[2J\rCat\u202e\tM\u00fcller")
        raise UserError("no clip \x1b]0;owned\x07 in \x9bhere\n")

    assert main() == 2
    out, error = capfd.readouterr()
    assert out == "Dog\\x1b[2J\\rCat\\u202e\tM\u00fcller\n"
    assert error == "error: no clip \\x1b]0;owned\\x07 in \\x9bhere\n"
    assert printable("a\nb\x7f") == "a\nb\\x7f"


def test_a_terminal_without_accents(capfd):
    @command
    def main() -> None:
        print("M\u00fcller \udce9")
        raise UserError("M\u00fcller")

    out, error = (io.TextIOWrapper(io.BytesIO(), "ascii") for _ in range(2))
    with redirect_stdout(out), redirect_stderr(error):
        assert main() == 2
    assert out.buffer.getvalue() == b"M\\xfcller \\xe9\n"
    assert error.buffer.getvalue() == b"error: M\\xfcller\n"


def shell(line: str, *arguments: str | Path, **settings) -> subprocess.CompletedProcess:
    """Run a line of bash in the project's folder; in it, "$@" is a command of this Python."""
    command = ["bash", "-c", line, "bash", sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, **settings)


def test_a_training_without_a_reader_stops_and_goes_on(tiny_config, tmp_path):
    flags = ["supv_main.py", "--config", tiny_config(), "--gpu", "cpu"]
    done = shell('"$@" --n_epoch 100000 | head -4; exit ${PIPESTATUS[0]}', *flags)
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("stopped after epoch ")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "run" / "last.pth.tar").exists()


def test_the_streams_of_a_process_that_has_none(tiny_data):
    """What a library writes to standard error must not land in a file that took its number."""
    code = "import os; from utils.base.output import guarded_output as g\nwith g(): file = open('x', 'w')\n"
    code += "assert file.fileno() > 2; print('said'); os.write(2, b'x'); os.write(1, b'x')"
    done = shell('"$@" <&- >&- 2>&-', "-c", code.replace("'x'", f"{str(tiny_data.parent / 'x')!r}"))
    assert done.returncode == 0
    assert (tiny_data.parent / "x").read_bytes() == b""
    done = shell('"$@" >&- 2>&-', "-m", "dataset.stats", "--root", tiny_data, "--figure", tiny_data.parent / "x.png")
    assert done.returncode == 0
    assert shell('"$@" >&- 2>&-', "-m", "dataset.stats", "--root", tiny_data / "nowhere").returncode == 2


@pytest.mark.parametrize(
    ("command", "module"), [("-m dataset.stats", "h5py"), ("supv_main.py", "pydantic"), ("supv_main.py", "numpy")]
)
def test_ctrl_c_while_modules_are_imported(command, module):
    """Ctrl-C ends a command without a traceback as soon as this project's code runs."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command.split()], cwd=ROOT, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    said, sent = [], False
    for line in process.stderr:
        if not line.startswith("import time:"):
            said.append(line)
        elif module in line and not sent:
            sent = True
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert said == ["interrupted\n"]
