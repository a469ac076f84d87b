"""One page to look at an evaluation."""

from pathlib import Path


def write_report(folder: Path) -> None:
    """Write `report.html` and the figures into an evaluation's folder. Raises UserError where that can't be."""
    from utils.report import page  # only now: what draws figures takes a second to import

    page.write(folder)
