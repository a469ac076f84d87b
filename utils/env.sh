# shellcheck shell=bash
# Sourced by the scripts. `use_python FILE ...` finds a Python that has the packages named in these requirements files of the
# project, or makes one in .venv, and sets $PYTHON. $PROJECT is the project's folder; the current folder stays the user's.

set -euo pipefail
PROJECT=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# A training on a CPU then takes a quarter less memory: see `without_tcache` in utils/base/memory.py.
case ${GLIBC_TUNABLES:-} in
*tcache_count*) ;;
*) export GLIBC_TUNABLES=${GLIBC_TUNABLES:+$GLIBC_TUNABLES:}glibc.malloc.tcache_count=0 ;;
esac

# has_packages PYTHON FILE ...: has it everything that the files name? (Versions are pinned for .venv; an environment of the
# user's own may hold others, but torch must be 2.11 or later.)
has_packages() {
  "$1" -c '
import sys
sys.path.insert(0, sys.argv[1])
from utils.base.packages import problem
sys.exit(problem(sys.argv[2:]) is not None)' "$PROJECT" "${@:2}" 2>/dev/null
}

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

use_python() {
  local candidate base file files arguments venv=$PROJECT/.venv
  files=("${@/#/$PROJECT/}")
  PYTHON=
  for candidate in python python3 "$venv/bin/python"; do
    if has_packages "$candidate" "${files[@]}"; then PYTHON=$candidate; break; fi
  done
  if [ -z "$PYTHON" ]; then
    base=
    for candidate in python3 python3.12 python3.11 python3.13 python; do
      if fits "$candidate"; then base=$candidate; break; fi
    done
    if [ -z "$base" ]; then
      echo "error: no Python 3.11, 3.12 or 3.13 found; install one (for example python3.12) and run this again" >&2
      exit 2
    fi
    echo "the packages are not all there: installing them into .venv, once (a few minutes)"
    arguments=()
    for file in "${files[@]}"; do arguments+=(-r "$file"); done
    if ! "$base" -m venv "$venv" || ! "$venv/bin/python" -m pip install --disable-pip-version-check "${arguments[@]}"; then
      echo "error: .venv could not be set up; the lines above say why. It is finished by running this again" >&2
      exit 2
    fi
    PYTHON=$venv/bin/python
  fi
}
