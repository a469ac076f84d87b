"""Whether a data folder can be trained on: `python -m dataset.check [--data_root data] [--weak [LABEL_REGIME]]`.

`require_trainable` runs the cheap checks of `dataset.check.folder` when a training starts; the command shows
them as a table, a row a file, and also reads the feature files from end to end for values that aren't
finite.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from dataset import files, made_with
from dataset.check.file_report import FileReport
from dataset.check.folder import check_folder, problems
from dataset.check.scan import Scan, scan
from utils.base.errors import UserError, command
from utils.base.flags import Parser

WEAK = next(iter(files.LABEL_REGIMES))  # the label regime of the field's weak networks, and the default
VGGISH = 128  # features of VGGish


def _table(reports: dict[str, FileReport]) -> Iterator[str]:
    rows = [("file", "present", "key", "shape", "type", "finite", "belongs")]
    for name, report in reports.items():
        opened = report.shape is not None
        rows.append(
            (
                name,
                "yes" if report.present else "no",
                report.key or "-",
                " x ".join(map(str, report.shape)) if opened else "-",
                report.dtype if opened else "-",
                "-" if report.finite is None else "yes" if report.finite else "NO",
                "-" if not report.present else "NO" if report.problems else "yes",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


@command
def main(argv: list[str] | None = None) -> None:
    parser = Parser(prog="python -m dataset.check", description="Can this data folder be trained on?")
    parser.add_data_root("root")
    parser.add_argument(
        "--weak", nargs="?", const=WEAK, choices=files.LABEL_REGIMES, metavar="LABEL_REGIME",
        help=f"can weakly supervised training start? (default: supervised; of {', '.join(files.LABEL_REGIMES)} as "
        f"data.label_regime the first)",
    )  # fmt: skip
    args = parser.parse_args(argv)

    reports, scans = check_folder(args.root), {}
    for name in files.FEATURES:
        report = reports[name]
        if report.shape is not None:
            try:
                found = scan(args.root / name)
            except UserError as error:  # damaged inside, where opening it didn't look
                found = Scan([str(error)])
            report.finite = not found.problems
            report.problems += found.problems
            scans[name] = found
    _note_kinds_of_audio(reports, scans)
    print(*_table(reports), sep="\n")
    for_supervised, for_weak = problems(reports, None), problems(reports, args.weak or WEAK)
    _print_list("Problems", for_supervised)
    _print_list("Problems for weakly supervised training alone", [p for p in for_weak if p not in for_supervised])
    notes = [note for report in reports.values() for note in report.notes]
    if (made := made_with.read(args.root)) is not None:
        notes.append(f"{args.root / files.MADE_WITH}: {made_with.in_words(made)}")
    _print_list("Worth knowing", notes)
    print(f"\nSupervised training: {_verdict(for_supervised)}\nWeakly supervised training: {_verdict(for_weak)}")
    if for_weak:
        for regime, (words, _) in files.LABEL_REGIMES.items():
            if not problems(reports, regime):
                print(f"- by {words} (--set data.label_regime={regime}): can start")
    if found := for_weak if args.weak else for_supervised:
        others = f" (and {len(found) - 1} more, see the list)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{others}")


def _note_kinds_of_audio(reports: dict[str, FileReport], scans: dict[str, Scan]) -> None:
    """Note which kind of VGGish features the audio files hold, and where the two hold different ones."""
    kinds: dict[str, str] = {}
    for name in (files.AUDIO, files.NOISY_AUDIO):
        report, found = reports[name], scans.get(name)
        if found is not None and not found.problems and report.shape[-1] == VGGISH:
            kinds[name] = made_with.kind_of_vggish(found.least, found.most, found.whole)
            report.note(f"values from {found.least:.3g} to {found.most:.3g}: VGGish {kinds[name]}")
    if len(set(kinds.values())) > 1:
        reports[files.NOISY_AUDIO].note(f"is of another kind than {files.AUDIO}; make both in one way")


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        print(f"\n{title}:", *(f"- {line}" for line in lines), sep="\n")


def _verdict(found: list[str]) -> str:
    return f"cannot start, {len(found)} to mend" if found else "can start"


if __name__ == "__main__":
    sys.exit(main())
