#!/usr/bin/env bash
# Train weakly supervised CMBS and evaluate its best checkpoint. Any flag of weak_main.py may follow (see --help).
. "$(dirname "$(readlink -f "$0")")/utils/env.sh"
use_python requirements.txt
exec "$PYTHON" "$PROJECT/weak_main.py" "$@"
