#!/usr/bin/env bash
# Run all tests. Arguments go to pytest, e.g. `bash tests/run.sh -k golden`; paths are relative to the project's folder.
# The tests share the cores; `--numprocesses 0` runs them one after the other, as `--pdb` needs.
. "$(dirname "$(readlink -f "$0")")/../utils/env.sh"
use_python requirements.txt requirements-video.txt tests/requirements.txt
cd "$PROJECT" || exit
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
"$PYTHON" -c "from importlinter.cli import lint_imports_command; lint_imports_command()" --no-logo --no-cache
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the tests' networks are small, and each core has tests of its own
exec "$PYTHON" -m pytest --numprocesses logical --maxprocesses 4 --dist worksteal "$@"
