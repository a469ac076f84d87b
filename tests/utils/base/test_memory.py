"""What processes are told about their memory."""

from __future__ import annotations

import subprocess

from utils.base.memory import without_tcache
from utils.base.paths import ROOT

NO_TCACHE = "glibc.malloc.tcache_count=0"


def test_a_process_keeps_its_variables_and_those_of_glibc():
    assert without_tcache({"A": "b"}) == {"A": "b", "GLIBC_TUNABLES": NO_TCACHE}
    assert without_tcache({"GLIBC_TUNABLES": "glibc.malloc.mxfast=0"}) == {
        "GLIBC_TUNABLES": f"glibc.malloc.mxfast=0:{NO_TCACHE}"
    }
    chosen = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=3"}
    assert without_tcache(chosen) == chosen


def test_the_scripts_say_the_same():
    for chosen in ("", "glibc.malloc.mxfast=0", "glibc.malloc.tcache_count=3"):
        before = {"GLIBC_TUNABLES": chosen}
        script = f". {ROOT / 'utils/env.sh'}; echo $GLIBC_TUNABLES"
        said = subprocess.run(["bash", "-c", script], env=before | {"PATH": "/usr/bin:/bin"}, capture_output=True)
        assert said.stdout.decode().strip() == without_tcache(before)["GLIBC_TUNABLES"]
