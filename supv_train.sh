#!/usr/bin/env bash
# Train fully supervised CMBS and evaluate its best checkpoint. Any flag of supv_main.py may follow (see --help).
. "$(dirname "$0")/utils/env.sh"
use_python requirements.txt
exec "$PYTHON" supv_main.py "$@"
