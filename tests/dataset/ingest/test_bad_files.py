"""What an ingest can't take: one line, exit code 2, and no file under a final name."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_bad import Code
from made_clips import WRITERS as FILES
from made_clips import MadeClip, flags, pickled, write_ave_pm, write_csv, write_general, write_vggsound_avel, zipped

from dataset import files
from dataset.ingest import __main__ as ingest
from dataset.ingest import make, reading

NAMES = ["Drum", "Bark"]


def made(number: int) -> list[MadeClip]:
    random = np.random.default_rng(0)
    return [
        MadeClip(
            f"c{i}", files.SPLITS[i % 3], i % 2, 1, 3, random.random((10, 2, 2, 3), np.float32),
            random.random((10, 5), np.float32),
        )
        for i in range(number)
    ]  # fmt: skip


WRITERS = {"ave-pm": write_ave_pm, "vggsound-avel": write_vggsound_avel, "general": write_general}
Change = Callable[[Path], object]
CASES: dict[str, tuple[str, Change, list[str]]] = {}


def case(name: str, form: str, change: Change, *words: str) -> None:
    assert name not in CASES
    CASES[name] = (form, change, list(words))


def text(name: str, old: str, new: str) -> Change:
    """Replace something in a text file."""

    def change(folder: Path) -> None:
        content = (folder / name).read_text()
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1))

    return change


def encoded(name: str, encoding: str) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_text().encode(encoding))


def content(name: str, value: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(value)


def marked(value: bytes, local: int, central: int) -> bytes:
    """A zip with another field in its two headers, at these distances from their beginnings."""
    archive = zipped(b"", "a.pkl")
    for place in (archive.index(b"PK\3\4") + local, archive.index(b"PK\1\2") + central):
        archive = archive[:place] + value + archive[place + len(value) :]
    return archive


def array(name: str, value: object) -> Change:
    return lambda folder: np.save(folder / name, value)


def instead(name: str, make_it: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make_it(folder / name)

    return change


def ave_pm(**changes: object) -> Change:
    """Another content of the pickle of clip c3; None takes an array away."""

    def change(folder: Path) -> None:
        value = {
            "video_features": np.ones((10, 2, 2, 3), np.float32), "audio_features": np.ones((10, 5), np.float32),
            "onehot_labels": np.zeros((10, 2)), **changes,
        }  # fmt: skip
        kept = {key: item for key, item in value.items() if item is not None}
        (folder / "features/c3.pkl").write_bytes(pickled(kept))

    return change


TABLE, MAPPING = "train.csv", "class_name_mapping.csv"
case("no table", "ave-pm", instead(TABLE, lambda path: None), "train.csv: no such file")
case("a column that isn't there", "ave-pm", text(TABLE, "onset", "begin"), "no column 'onset'", "'begin'")
case("a column twice", "ave-pm", text(TABLE, "offset", "onset"), "several columns 'onset'")
case("an id twice", "ave-pm", text(TABLE, "c3,", "c0,"), "line 3", "'c0'", "line 2 too")
case("an id twice, in two tables", "ave-pm", text("val.csv", "c1,", "c0,"), "val.csv, line 2", "train.csv, line 2 too")
case("an id that leads elsewhere", "ave-pm", text(TABLE, "c3,", "../c3,"), "line 3", "'../c3' can't be the name")
case("an id with an ampersand", "ave-pm", text(TABLE, "c3,", "c&3,"), "line 3", "'c&3' can't stand in Annotations.txt")
case("an id with a line break", "ave-pm", text(TABLE, "c3,", '"c\n3",'), "can't stand in Annotations.txt")
case("an empty id", "ave-pm", text(TABLE, "c3,", ","), "line 3", "'sample_id' is empty")
case("an unknown class id", "ave-pm", text(TABLE, "c3,1,3,1", "c3,1,3,7"), "line 3", "'7' isn't in")
case("an end before the start", "ave-pm", text(TABLE, "c3,1,3", "c3,4,3"), "line 3", "from '4' to '3'")
case("a time that is no number", "ave-pm", text(TABLE, "c3,1,3", "c3,nan,3"), "line 3", "from 'nan' to '3'")
case("a negative time", "ave-pm", text(TABLE, "c3,1,3", "c3,-1,3"), "line 3", "from '-1' to '3'")
case("a time without end", "ave-pm", text(TABLE, "c3,1,3", "c3,1,inf"), "line 3", "from '1' to 'inf'")
case("a field too few", "ave-pm", text(TABLE, "c3,1,3,1", "c3,1,3"), "line 3", "has 3 fields")
case("a table that isn't closed", "ave-pm", text(TABLE, "c3,", '"c3,'), "is no CSV")
case("a table in UTF-16", "ave-pm", encoded(TABLE, "utf-16"), "train.csv: is UTF-16 text")
case("a table in Latin-1", "ave-pm", content(TABLE, b"sample_id\xe9"), "train.csv: is not UTF-8 text")
case("a table that is a pipe", "ave-pm", instead(TABLE, os.mkfifo), "is a pipe")
case("an empty table", "ave-pm", content(TABLE, b""), "train.csv: is empty; its first line must name its columns")
case("no class", "ave-pm", content(MAPPING, b"class_id,class_name\n"), "class_name_mapping.csv: lists no class")
case("a table with semicolons", "ave-pm", text(TABLE, "sample_id,onset,", "sample_id;onset;"), "no column 'sample_id'")
case("a class id twice", "ave-pm", text(MAPPING, "1,Bark", "0,Bark"), "class_id '0' is there twice")
case("class ids with a gap", "ave-pm", text(MAPPING, "1,Bark", "2,Bark"), "whole numbers from 0 to 1")
case("two names that become one", "ave-pm", text(MAPPING, "Bark", '" Drum\n"'), "'Drum'", "the same name")
case("no features folder", "ave-pm", lambda folder: (folder / "features").rename(folder / "x"), "features: no such")
case("no file at all", "ave-pm", lambda folder: [p.unlink() for p in (folder / "features").iterdir()], "none of .npy")
case("two kinds of files", "ave-pm", content("features/x.npy", b""), "files of several kinds (.npy, .pkl)")
case("no file of any clip", "ave-pm", lambda folder: [
    p.rename(p.with_name(f"x{p.name}")) for p in (folder / "features").iterdir()
], "none of the 9 clips can be used: 9: no file")  # fmt: skip
case("code in a pickle", "ave-pm", lambda folder: (folder / "features/c3.pkl").write_bytes(
    pickle.dumps({"video_features": Code(folder / "canary")})
), "c3.pkl: holds code (posix.system), which is not run")  # fmt: skip
case("an empty pickle", "ave-pm", content("features/c3.pkl", b""), "c3.pkl: is damaged, or no .pkl file (EOFError")
case("a cut pickle", "ave-pm", lambda folder: os.truncate(folder / "features/c3.pkl", 200), "c3.pkl: is damaged")
case("a web page", "ave-pm", content("features/c3.pkl", b"<!DOCTYPE html>"), "c3.pkl: is damaged, or no .pkl file")
case(
    "no visual features", "ave-pm", ave_pm(video_features=None), "c3.pkl: holds no 'video_features' (it holds 'audio_f"
)
case("text for features", "ave-pm", ave_pm(video_features="x"), "c3.pkl: holds no array of numbers (a str)")
case("ragged lists", "ave-pm", ave_pm(audio_features=[[1.0], [1.0, 2.0]]), "lists of different lengths")
case("NaN", "ave-pm", ave_pm(audio_features=np.full((10, 5), np.nan)), "c3.pkl: holds NaN or infinity")
case("too large for float32", "ave-pm", ave_pm(audio_features=np.full((10, 5), 1e300)), "a value too large for float32")
case("another grid", "ave-pm", ave_pm(video_features=np.ones((10, 3, 3, 4))), "[10, 3, 3, 4]", "has [10, 2, 2, 3]")
case("no grid", "ave-pm", ave_pm(video_features=np.ones((10, 3))), "visual features of shape [10, 3]", "one shape")
case("too many segments", "ave-pm", ave_pm(video_features=np.ones((11, 2, 2, 3))), "[11, 2, 2, 3]")
case("audio of too many segments", "ave-pm", ave_pm(audio_features=np.ones((11, 5))), "audio features of shape [11, 5]")
case("one dimension", "ave-pm", ave_pm(video_features=np.ones(10)), "taken are [T, h, w, D], [T, D, h, w]")
case("audio with a grid", "ave-pm", ave_pm(audio_features=np.ones((10, 5, 5))), "taken are [T, D]")
case("labels of other categories", "ave-pm", ave_pm(onehot_labels=np.zeros((10, 5))), "labels of shape [10, 5]")
case("labels of shares", "ave-pm", ave_pm(onehot_labels=np.full((10, 2), 0.5)), "labels other than 0 and 1")
case("a file that is a pipe", "ave-pm", instead("features/c3.pkl", os.mkfifo), "c3.pkl: is no file that lies on a disk")

case(
    "an unknown category",
    "vggsound-avel",
    text("table.csv", "Bark", "Barks"),
    "line 3",
    "'Barks' isn't in",
    "names.txt",
)
case(
    "an unknown split", "vggsound-avel", text("table.csv", "7,train", "7,dev"), "line 2", "'dev', not one of train, val"
)
case(
    "a name twice",
    "vggsound-avel",
    content("names.txt", b"Drum\nBark\nDrum\n"),
    "line 3: the name 'Drum' is there twice",
)
case("no labels", "vggsound-avel", lambda folder: (folder / "labels").rename(folder / "x"), "labels: no such folder")
ZIP = "visual/c3.zip"
case("two pickles in a zip", "vggsound-avel", lambda folder: zipfile.ZipFile(folder / ZIP, "a").writestr("b.pkl", b""),
     "c3.zip: is a zip with 2 .pkl files")  # fmt: skip
case("no pickle in a zip", "vggsound-avel", content(ZIP, zipped(b"", "a.txt")), "c3.zip: is a zip with 0 .pkl files")
case("no zip", "vggsound-avel", content(ZIP, b"PK"), "c3.zip: is damaged, or no .zip file (BadZipFile")
case("an encrypted zip", "vggsound-avel", content(ZIP, marked(b"\1\0", 6, 8)), "c3.zip: is an encrypted archive")
case("a zip packed by deflate64", "vggsound-avel", content(ZIP, marked(b"\t\0", 8, 10)), "method is not supported")
case("a zip bomb", "vggsound-avel", content(ZIP, zipped(bytes(300 * 2**20), "a.pkl")), "more than 256 MiB")
case("code in a zip", "vggsound-avel", lambda folder: (folder / ZIP).write_bytes(
    zipped(pickle.dumps(Code(folder / "canary"), 0), "a.pkl")
), "c3.zip: holds code (posix.system)")  # fmt: skip

NPY = "visual/c3.npy"
case("Python objects in an array", "general", array(NPY, np.array([{}])), "c3.npy: holds an array of the type object")
case(
    "a cut array",
    "general",
    lambda folder: os.truncate(folder / NPY, 300),
    "its array's size isn't that of its content",
)
case("a size that is only claimed", "general", lambda folder: (folder / NPY).write_bytes(
    (folder / NPY).read_bytes().replace(b"(10, 2, 2, 3), }      ", b"(1000000000000, 3), }")
), "c3.npy: is damaged")  # fmt: skip
case("a large file", "general", lambda folder: os.truncate(folder / NPY, 2**30), "c3.npy: holds more than 256 MiB")
case("complex numbers", "general", array(NPY, np.ones((10, 2, 2, 3), complex)), "the type complex128")
case("float32 after float16", "general", array("visual/c0.npy", np.ones((10, 2, 2, 3), np.float16)),
     "has float32 visual features where the first clip's are float16", "--dtype float32 or --dtype")  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_one_line_and_nothing_looks_made(name, tmp_path, capsys):
    form, change, words = CASES[name]
    arguments = WRITERS[form](tmp_path / "from", made(9), NAMES)
    change(tmp_path / "from")
    code = ingest.main([*arguments, "--to", str(tmp_path / "data")])
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert not (tmp_path / "from" / "canary").exists()
    assert not (tmp_path / "data").exists() or [p.name for p in (tmp_path / "data").iterdir()] in ([], [make.WORK])


def tensors(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.eye(3).to_sparse(), "a sparse tensor"),
        (torch.ones(1).expand(2**30), "more than 256 MiB"),
        (np.ones(3), "holds code (numpy"),
        ([torch.ones(3), "x"], "holds no array of numbers"),
    ],
)
def test_tensors_that_are_no_features(value, said, tmp_path):
    (tmp_path / "a.pt").write_bytes(tensors(value))
    with pytest.raises(reading.UserError, match=r"a\.pt: ") as refused:
        reading.part_of(reading.read_content(tmp_path / "a.pt"), None, tmp_path / "a.pt")
    assert said in str(refused.value)


def test_code_among_tensors_is_refused_by_name_and_not_run(tmp_path):
    for number, zipped_file in enumerate((True, False)):
        path = tmp_path / f"{number}.pt"
        torch.save({"a": Code(tmp_path / "canary")}, path, _use_new_zipfile_serialization=zipped_file)
        with pytest.raises(reading.UserError, match=r"holds code \(posix\.system\), which is not run"):
            reading.read_content(path)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("ending", FILES)
def test_any_cut_or_changed_byte_is_refused_by_file_or_read(ending, tmp_path):
    path, random, refused = tmp_path / f"a{ending}", np.random.default_rng(0), []
    FILES[ending](path, np.arange(48, dtype=np.float32).reshape(4, 2, 2, 3))
    whole = path.read_bytes()
    for _ in range(100):
        changed = bytearray(whole[: random.choice([len(whole), random.integers(1, len(whole))])])
        for _ in range(random.integers(1, 4)):
            changed[random.integers(len(changed))] = random.integers(256)
        path.write_bytes(changed)
        try:
            reading.part_of(reading.read_content(path), None, path)
        except reading.UserError as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert all(said.startswith(str(path)) for said in refused)


def test_bfloat16_and_several_tensors(tmp_path):
    (tmp_path / "a.pt").write_bytes(tensors({"x": torch.full((2, 3), 1.5, dtype=torch.bfloat16), "y": torch.ones(1)}))
    content = reading.read_content(tmp_path / "a.pt")
    assert reading.part_of(content, "x", tmp_path / "a.pt").tolist() == [[1.5] * 3] * 2
    with pytest.raises(reading.UserError, match=r"holds several arrays \(it holds 'x', 'y'\)"):
        reading.part_of(content, None, tmp_path / "a.pt")


def test_tables_as_editors_save_them(tmp_path, capsys):
    arguments = write_ave_pm(tmp_path / "from", made(9), NAMES)
    for name in (TABLE, MAPPING):
        path = tmp_path / "from" / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert ingest.main([*arguments, "--to", str(tmp_path / "data")]) == 0
    assert "9 clips of 9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"start": "from"}, "--start and --end: give the columns of both"),
        ({"audio": "x"}, "--visual is missing: name the folder of its files, or --features"),
        ({"visual": "x", "audio": "x"}, "--labels is missing: name the folder of its files (or --start and --end"),
        ({"features": "x", "audio": "x"}, "--features and --audio"),
        ({"features": "x", "workers": 0}, "--workers 0"),
        ({"features": "x", "segments": 3}, "--segments 3: the networks need clips of at least 4 segments"),
        ({"features": "x", "preset": "ave-pm"}, "--preset ave-pm: needs --names"),
    ],
)
def test_flags_that_do_not_fit(given, said, tmp_path, capsys):
    write_csv(tmp_path / "table.csv", ("id", "category", "split", "from"), [("a", "Bark", "train", 1)])
    arguments = flags(table=tmp_path / "table.csv", to=tmp_path / "data", **given)
    assert ingest.main(arguments) == 2
    assert said in capsys.readouterr().err
