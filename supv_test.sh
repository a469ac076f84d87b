#!/usr/bin/env bash
# Evaluate fully supervised CMBS: the run's best checkpoint, else the authors', or the one that --resume names.
. "$(dirname "$0")/utils/env.sh"
use_python requirements.txt
exec "$PYTHON" supv_main.py --evaluate "$@"
