"""The packages that every command needs, looked for before the first import that would fail with a traceback."""

import importlib.util
import os
import sys

from utils.base.errors import EXIT_USER_ERROR

_NEEDED = ("torch", "h5py", "numpy", "pydantic", "tqdm", "tensorboard")


def require_packages() -> None:
    """End a command of this project, in one line, where this Python lacks packages: `.venv` isn't active, most likely.

    Importing the modules into other programs is left alone.
    """
    if sys.argv[0] != "-m" and os.path.basename(sys.argv[0]) not in ("supv_main.py", "weak_main.py"):
        return
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"error: {sys.executable} lacks the packages {', '.join(missing)}; activate the project's environment "
            f"(`source .venv/bin/activate`, which the .sh scripts make) or run `pip install -r requirements.txt`",
            file=sys.stderr,
        )
        sys.exit(EXIT_USER_ERROR)
