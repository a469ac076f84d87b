"""Names in figures, whatever characters they hold, shown as they are written. It imports no matplotlib."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from utils.base.output import printable

_LONGEST = 40  # characters of a name


def label(name: str, longest: int = _LONGEST) -> str:
    """A name short enough to stand beside a figure, with nothing that matplotlib would obey or read as mathematics."""
    shown = printable(name)
    return (shown if len(shown) <= longest else shown[: longest - 1] + "…").replace("$", r"\$")


@contextlib.contextmanager
def any_script() -> Iterator[None]:
    """Within the block a name in a script that the font lacks is drawn as boxes, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield
