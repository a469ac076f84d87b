"""The benchmark's table, and the rates of the matrix products behind its rooflines."""

from __future__ import annotations

from collections.abc import Iterator

from utils.benchmark.rows import Row


def table(rows: list[Row]) -> Iterator[str]:
    """The lines of a Markdown table of measured rows."""
    times = "s a step: median (fastest to slowest, steps)"
    yield f"| | {times} | clips/s | ratio to authors | roofline | x roofline | memory | |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    authors = {row.name.rpartition("/")[0]: row for row in rows if row.name.endswith("/authors")}
    for row in rows:
        first = authors.get(row.name.rpartition("/")[0])
        ratio = f"{row.clips_per_second / first.clips_per_second:.2f}" if first else ""
        limit = (f"{row.roofline:.4g}", f"{row.seconds / row.roofline:.2f}") if row.roofline else ("", "")
        memory = f"{row.host_bytes / 2**30:.1f} GiB"
        if row.device_bytes is not None:
            memory += f", GPU {row.device_bytes / 2**30:.1f} GiB"
        notes = [row.note] if row.note else []
        if row.loading_seconds is not None:
            notes.append(f"{row.features}, loaded in {row.loading_seconds:.1f} s")
        spread = f"{row.seconds:.4g} ({row.fastest:.4g} to {row.slowest:.4g}, {row.steps})"
        name = row.name.replace("|", r"\|")  # of a config's file
        cells = [name, spread, f"{row.clips_per_second:.4g}", ratio, *limit, memory, "; ".join(notes)]
        yield f"| {' | '.join(cells)} |"


def rates(rows: list[Row]) -> Iterator[str]:
    """A line for each roofline: how fast its matrix products are alone."""
    for row in rows:
        if row.roofline:
            copies = f"; copies move {row.copy_rate / 1e9:.0f} GB/s" if row.copy_rate else ""
            yield (
                f"{row.name}: the roofline is {row.flops / 1e9:.0f} GFLOP {row.bound}: "
                f"{row.rate / 1e9:.0f} GFLOP/s (its fastest kind {row.fastest_rate / 1e9:.0f}){copies}"
            )
