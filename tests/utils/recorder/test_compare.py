"""What `python -m utils.recorder compare` says of folders that can't be compared (see tests/utils/training too)."""

from __future__ import annotations

import json

import pytest
from helpers_bad import one_line

from utils.recorder import __main__ as recorder_command

FILES = {
    "config.json": {"model": {"name": "supv_main_model"}},
    "run.json": {"data": {}, "starts": [{}]},
    "metrics.jsonl": {"epoch": 1},
}


@pytest.mark.parametrize("name", ["", *FILES])
def test_a_run_that_may_not_be_read_is_named(name, tmp_path, unprivileged, capsys):
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        for file, content in FILES.items():
            (tmp_path / run / file).write_text(json.dumps(content))
    arguments = ["compare", str(tmp_path / "first"), str(tmp_path / "second")]
    assert recorder_command.main(arguments) == 0
    (tmp_path / "second" / name).chmod(0)
    assert recorder_command.main(arguments) == 2
    assert "cannot be read (Permission denied)" in one_line(capsys)
    (tmp_path / "second").chmod(0o755)
