#!/usr/bin/env bash
# Train fully supervised CMBS and evaluate its best checkpoint. Any flag of supv_main.py may follow (see --help).
. "$(dirname "$(readlink -f "$0")")/utils/env.sh"
use_python requirements.txt
exec "$PYTHON" "$PROJECT/supv_main.py" "$@"
