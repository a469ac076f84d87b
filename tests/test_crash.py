"""A short form of `python tests/crash.py --kills 100`, which is run by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_few_kills():
    script = Path(__file__).parent / "crash.py"
    done = subprocess.run(
        [sys.executable, script, "--kills", "4", "--epochs", "5"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 of them lost; 0 problems" in done.stdout
