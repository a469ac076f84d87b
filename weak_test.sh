#!/usr/bin/env bash
# Evaluate weakly supervised CMBS: the run's best checkpoint, else the authors', or the one that --resume names.
. "$(dirname "$(readlink -f "$0")")/utils/env.sh"
use_python requirements.txt
exec "$PYTHON" "$PROJECT/weak_main.py" --evaluate "$@"
