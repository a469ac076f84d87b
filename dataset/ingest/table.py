"""The clips of a data set, from its table: ids, splits, categories, and times of events."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dataset import files
from dataset.ingest.forms import Form
from dataset.labels import read_categories
from utils.base.atomic import inside
from utils.base.errors import UserError
from utils.base.text import read_text

_MAPPING = ("class_id", "class_name")  # columns of a names file that is a table


class Names:
    """The categories of a data set: the name of each in the table, its index, and its name in the data folder.

    Without a file they are numbered as `index` is asked for them: by first appearance in the table.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self._named = path, {}
        if path is not None:
            is_table = path.suffix.lower() == ".csv"
            self._named = _read_mapping(path) if is_table else {name: name for name in read_categories(path)}
        self._index = {category: i for i, category in enumerate(self._named)}

    def index(self, category: str, where: str) -> int:
        """The index of a category that a table names. Raises UserError for one that the names file hasn't."""
        if self.path is None:
            return self._index.setdefault(category, len(self._index))
        if category not in self._index:
            raise UserError(f"{where}: the category {category!r} isn't in {self.path}; name the file that lists it")
        return self._index[category]

    def names(self) -> list[str]:
        """Names by index, as `Annotations.txt` can hold them. Raises UserError where two become the same."""
        by_name: dict[str, str] = {}
        for category in self._index:
            name = self._named.get(category, category)
            plain = " ".join(name.replace("&", " and ").split())
            if not plain or plain in by_name:
                other = f"and {by_name[plain]!r} are the same name" if plain else "is no name"
                raise UserError(f"{self.path or 'the table'}: the category {name!r} {other} in {files.ANNOTATIONS}")
            by_name[plain] = name
        return list(by_name)


def _read_mapping(path: Path) -> dict[str, str]:
    """The name of each class_id of a table, in the order of these numbers. Raises UserError where one isn't there."""
    named: dict[str, str] = {}
    for where, (id, name) in read_table(path, _MAPPING):
        if id in named:
            raise UserError(f"{where}: the class_id {id!r} is there twice; give each class one line")
        named[id] = name
    if not named:
        raise UserError(f"{path}: lists no class")
    wanted = [str(i) for i in range(len(named))]
    if set(named) != set(wanted):
        raise UserError(f"{path}: its class_id must be the whole numbers from 0 to {len(named) - 1}, each once")
    return {id: named[id] for id in wanted}


class Clip(NamedTuple):
    """A line of the table: the clip's id, split, category index, and times of its event (seconds) if there are any."""

    id: str
    split: str
    category: int
    event: tuple[float, float] | None


def read_clips(table: Path, form: Form, names: Names) -> list[Clip]:
    """The clips of a table, in its order: a CSV, or a folder of train.csv, val.csv and test.csv in this order.

    Raises UserError that names the line: a column or a field that isn't there, an id that is there twice or names no
    file, an unknown split or category, times that are none.
    """
    clips: list[Clip] = []
    lines: dict[str, str] = {}
    for where, split, row in _rows(table, form):
        id, category, *times = row
        try:
            inside(table, id)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if "&" in id or not id.isprintable():
            raise UserError(f"{where}: the id {id!r} can't stand in {files.ANNOTATIONS}; rename the clip and its files")
        if id in lines:
            raise UserError(f"{where}: the id {id!r} is that of {lines[id]} too; an id names one clip and its files")
        if split not in files.SPLITS:
            raise UserError(f"{where}: the split is {split!r}, not one of {', '.join(files.SPLITS)}; rename it")
        lines[id] = where
        clips.append(Clip(id, split, names.index(category, where), _event(times, where) if times else None))
    if not clips:
        raise UserError(f"{table}: lists no clip")
    return clips


def _rows(table: Path, form: Form) -> Iterator[tuple[str, str, list[str]]]:
    """(file and line, split, [id, category, start, end]) of each line; without the times where the form has none."""
    columns = [form.id, form.category, *(name for name in (form.start, form.end) if name is not None)]
    if table.is_dir():
        for split in files.SPLITS:
            for where, row in read_table(table / f"{split}.csv", columns):
                yield where, split, row
    else:
        for where, (*row, split) in read_table(table, [*columns, form.split]):
            yield where, split, row


def _event(times: list[str], where: str) -> tuple[float, float]:
    try:
        start, end = map(float, times)
    except ValueError:
        start = end = math.nan
    if not 0 <= start <= end < math.inf:
        raise UserError(f"{where}: an event from {times[0]!r} to {times[1]!r} s; give seconds, 0 <= start <= end")
    return start, end


def read_table(path: Path, columns: list[str] | tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """(file and line, fields) of each line of a CSV: the fields of some columns, without spaces around them.

    Raises UserError where a column is missing, a line has another number of fields than the first, or a field is empty.
    """
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not header:
            raise UserError(f"{path}: is empty; its first line must name its columns")
        if missing := [name for name in columns if header.count(name) != 1]:
            count = "several columns" if missing[0] in header else "no column"
            raise UserError(f"{path}: has {count} {missing[0]!r} (it has {', '.join(map(repr, header[:12]))})")
        positions = [header.index(name) for name in columns]
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(f"{where}: has {len(row)} fields, but the first line has {len(header)} columns")
            fields = [row[position].strip() for position in positions]
            if "" in fields:
                raise UserError(f"{where}: its {columns[fields.index('')]!r} is empty")
            yield where, fields
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: is no CSV ({error}); save it again") from error
