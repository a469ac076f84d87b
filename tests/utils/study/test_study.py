"""Studies: what is run, what is left alone, what goes on, and the tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys

import h5py
import pytest
from helpers_bad import one_line, refused
from helpers_runs import pretend

import weak_main
from dataset import files, fingerprint
from model import build_model
from utils.base import cores
from utils.base.checkpoint import Checkpoint
from utils.base.cores import share_of_cores
from utils.base.errors import EXIT_DONE, EXIT_USER_ERROR, UserError
from utils.base.paths import BEST, LAST
from utils.base.tables import latex, markdown
from utils.study import __main__ as study_command
from utils.study import engines, jobs
from utils.study.job_record import Record, write_record
from utils.study.jobs import Job
from utils.study.results import result_of
from utils.study.runs import Study
from utils.study.states import states


def test_a_study_runs_stops_at_nothing_and_goes_on(write_study, tmp_path, capsys):
    path = write_study(seeds=[1], set={"train": {"n_epoch": 1}})
    assert study_command.main([path, "--gpu", "cpu"]) == EXIT_DONE
    table = (tmp_path / "study" / "table.md").read_text()
    assert "1/1 CMBS, seed 1" in capsys.readouterr().out
    out = tmp_path / "study" / "cmbs" / "seed-1.out"
    once = out.read_text()

    assert study_command.main([path, "--gpu", "cpu"]) == EXIT_DONE
    assert out.read_text() == once  # it is finished: nothing ran
    assert (tmp_path / "study" / "table.md").read_text() == table

    longer = write_study(seeds=[1], set={"train": {"n_epoch": 2}})
    assert "waiting, epoch 2 of 2, about" in str(states([Study(longer)])[0])
    assert study_command.main([longer, "--gpu", "cpu"]) == EXIT_DONE
    assert "going on after epoch 1" in out.read_text().removeprefix(once)
    lines = [json.loads(line) for line in (out.parent / "seed-1" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert f"{max(line['test_accuracy'] for line in lines):.2f}" in (tmp_path / "study" / "table.md").read_text()


def test_the_command_line_names_the_data_of_all_runs(write_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_study()
    assert {run.config.data.root for run in Study(path, "mine").runs} == {str(tmp_path / "mine")}
    assert study_command.main([path, "--table", "--data_root", "mine"]) == EXIT_DONE


def test_a_failed_run_is_named_with_its_reason(write_study, tmp_path, capsys):
    path = write_study(seeds=[1], set={"data": {"root": str(tmp_path / "nowhere")}})
    error = refused(capsys, study_command.main, path, "--gpu", "cpu")
    assert re.search(r"CMBS, seed 1 ended with exit code 2: error: .*nowhere", error)


def test_an_unfinished_run_has_no_result(write_study):
    run = Study(write_study()).runs[0]
    pretend(run, [(50.0, 60.0)])
    assert result_of(run) is None
    with open(run.folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "val')  # killed while writing
    assert result_of(run) is None


def test_results_of_other_settings_are_refused(write_study):
    run = Study(write_study()).runs[0]
    pretend(run, [(50.0, 60.0), (60.0, 60.0)], lr=0.1)
    with pytest.raises(UserError, match=r"train\.lr"):
        result_of(run)


@pytest.mark.parametrize(("said", "threads"), [(None, 4), ("0", 4), ("all", 4), ("", 4), ("3", 3), ("16,2", "16,2")])
def test_runs_side_by_side_share_the_cores(write_study, monkeypatch, said, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    run = Study(write_study()).runs[0]
    run.out.parent.mkdir(parents=True)
    asked = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    assert Job([], [None], share_of_cores(2), submitted=0.0)._call(run, asked) == 0
    assert run.out.read_text() == f"{threads}\n"


def test_a_run_whose_folder_was_removed_waits(write_study):
    path = write_study(seeds=[1])
    (run,) = Study(path).runs
    pretend(run, [(50.0, 60.0)])
    jobs.commands(run, None)  # notes its settings
    write_record(run, Record(engine="local", began=1.0, ended=2.0, code=0))
    assert states([Study(path)])[0].word == "failed"  # its one epoch isn't all that is asked for
    shutil.rmtree(run.folder)
    waits = "CMBS, seed 1: waiting, epoch 1 of 2; its folder was removed since it was done"
    assert [str(state) for state in states([Study(path)])] == [waits]


def test_localizations_take_the_weights_of_a_run(write_study, tiny_config, tmp_path, monkeypatch):
    def call(job, run, arguments):  # in this process: starting one costs seconds
        return weak_main.main(arguments[2:])

    monkeypatch.setattr(Job, "_call", call)
    weak = tiny_config("weak_main_model").name
    relative = tmp_path / "relative.json"
    # It tells of another network and of other data; those that are evaluated are the run's.
    other = {"model": {"quirks": {"own_gate": False}}, "data": {"root": "other"}, "train": {"precision": "float64"}}
    other["eval"] = {"localize": "relative"}
    relative.write_text(json.dumps({"extends": weak, **other}))
    path = write_study(seeds=[1], runs={"weak": weak}, localizations={"relative": ["weak", relative.name]})
    trained, read = Study(path).runs
    assert read.config.model_copy(update={"eval": trained.config.eval, "train": trained.config.train}) == trained.config
    assert read.config.train.precision == trained.config.train.precision
    assert weak_main.main(["--config", str(tmp_path / weak), "--seed", "1", "--n_epoch", "2", "--gpu", "cpu",
                           "--snapshot_pref", str(trained.folder)]) == EXIT_DONE  # fmt: skip
    assert result_of(read) is None
    assert study_command.main([path, "--cluster", "debug"]) == EXIT_DONE
    for split, accuracy in zip(("best", "best-val"), result_of(read)[:2], strict=True):
        metrics = json.loads((read.folder / split / "metrics.json").read_text())
        assert metrics["localize"] == "relative"
        assert metrics["checkpoint"] == str(trained.folder / f"{split}.pth.tar")
        assert metrics["accuracy"] == accuracy
    written = (tmp_path / "study" / "table.md").read_text()
    parameters = f"{sum(p.numel() for p in build_model(read.config.model).parameters()) / 1e6:.2f} M"
    assert f"| relative | {parameters} | {result_of(read).authors:.2f} |" in written

    # The study asks for another rule now, and is interrupted before its evaluation begins.
    activation = tmp_path / "activation.json"
    activation.write_text(json.dumps({"extends": weak, "eval": {"localize": "activation"}}))
    other = write_study(seeds=[1], runs={"weak": weak}, readings={"relative": ["weak", activation.name]})
    asked = Study(other).runs[1]
    assert result_of(asked) is None
    changed = ": waiting, evaluates weak, seed 1; its settings or weights have changed since it was done"
    assert str(states([Study(other)])[1]).endswith(changed)
    assert len(jobs.commands(asked, None)) == 2
    assert result_of(asked) is None
    assert study_command.main([other, "--table"]) == EXIT_DONE
    assert f"| relative | {parameters} | not measured |" in (tmp_path / "study" / "table.md").read_text()
    jobs.commands(read, None)  # back again: the evaluations are older than their settings, and are made anew
    assert result_of(read) is None
    assert study_command.main([path, "--cluster", "debug"]) == EXIT_DONE
    assert result_of(read) is not None

    (trained.folder / "best.pth.tar").touch()  # newer weights: the evaluation is of older ones
    assert result_of(read) is None
    assert str(states([Study(path)])[1]).endswith(changed)
    os.utime(trained.folder / "best.pth.tar", (4e9, 4e9))
    with pytest.raises(UserError, match=r"best\.pth\.tar: was written in the future"):
        result_of(read)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"localizations": {"b": ["none", "supv_main_model.json"]}}, "none of its runs"),
        ({"seeds": []}, "'seeds'"),
        ({"sedes": [1]}, "unknown key 'sedes'; did you mean 'seeds'?"),
        ({"published": {"CMBS": {"acuracy": 79.3}}}, "did you mean 'published.CMBS.accuracy'?"),
        (
            {"published": {"CMBS": {"accuracy": 79.3, "year": 1}}},
            "'published.CMBS' has accuracy, source, protocol, runs",
        ),
        ({"runs": {"a": "none.json"}}, "no such config"),
        ({"runs": {"a b": "supv_main_model.json", "A-B": "supv_main_model.json"}}, "rename one"),
        ({"published": {"other": 1.0}}, "none of its runs"),
        ({"set": {"train": {"epochs": 3}}}, "train.epochs"),
    ],
)
def test_what_is_wrong_in_a_study(changes, message, write_study, capsys):
    assert study_command.main([write_study(**changes), "--table"]) == EXIT_USER_ERROR
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["..", ".", "...", "Ä", "***", "table.md", "a" * 201])
def test_a_name_that_gives_no_folder_of_its_own_is_refused(name, write_study, tiny_config, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    path = write_study(runs={name: tiny_config().name})
    assert "gives no name of a folder" in refused(capsys, study_command.main, path, "--gpu", "cpu")
    assert {path.name for path in tmp_path.iterdir()} - {path.name for path in before} == {
        "study0.json",
        "supv_main_model.json",
    }


def test_text_that_is_no_single_line_is_refused(write_study, tiny_config, capsys):
    for changes in ({"title": "two\nlines"}, {"runs": {"red \x1b[31m": tiny_config().name}}):
        assert "printable" in refused(capsys, study_command.main, write_study(**changes), "--table")


def test_a_study_that_is_named_twice_is_refused(write_study, capsys):
    path = write_study()
    assert "both write there" in refused(capsys, study_command.main, path, path)


def test_a_folder_with_something_of_somebody_else_is_left_alone(write_study, tmp_path, capsys):
    path = write_study()
    run = Study(path).runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "notes.txt").write_text("mine")
    assert "notes.txt" in refused(capsys, study_command.main, path, "--gpu", "cpu")
    assert [path.name for path in run.folder.iterdir()] == ["notes.txt"]


def test_a_run_whose_checkpoint_is_gone_is_left_alone(write_study, capsys):
    path = write_study()
    run = Study(path).runs[0]
    pretend(run, [(50.0, 60.0)] * 3, n_epoch=1)
    run.folder.joinpath("metrics.jsonl").write_text('{"epoch": 1}\n' * 2)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    assert "no last.pth.tar to go on from" in refused(capsys, study_command.main, path, "--gpu", "cpu")
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_another_run_that_only_began_is_left_alone(write_study, capsys):
    path = write_study()
    run = Study(path).runs[0]
    pretend(run, [], lr=0.1)
    assert "train.lr" in refused(capsys, study_command.main, path, "--gpu", "cpu")


def test_a_run_that_was_killed_in_its_first_epoch_begins_again(write_study, tmp_path):
    path = write_study(seeds=[1], set={"train": {"n_epoch": 1}})
    (run,) = Study(path).runs
    pretend(run, [(50.0, 60.0)])  # the line is written before the checkpoint
    for name in ("log.txt", ".lock", ".last.pth.tar.a1b2c3d4.part"):
        (run.folder / name).write_text("")
    assert jobs.commands(run, None)[0][-2:] == ["--config", str(run.settings)]
    engines._check_free(run)


@pytest.mark.parametrize("thing", ["run", "out"])
def test_what_is_in_the_way_is_one_line(thing, write_study, capsys):
    path = write_study()
    run = Study(path).runs[1]
    if thing == "run":
        run.folder.parent.mkdir(parents=True)
        run.folder.write_text("a file")
    else:
        run.out.mkdir(parents=True)
    assert study_command.main([path, "--gpu", "cpu"]) == EXIT_USER_ERROR
    assert "in the way" in (error := one_line(capsys)) or "is a file" in error
    assert not Study(path).runs[0].folder.exists(), "nothing was begun"


def test_an_error_in_a_job_ends_the_study(write_study, monkeypatch, capsys):
    def call(job, run, arguments):
        run.out.mkdir()  # since the study looked
        return call_it(job, run, arguments)

    call_it = Job._call
    monkeypatch.setattr(Job, "_call", call)
    assert "seed-" in refused(capsys, study_command.main, write_study(), "--gpu", "cpu", "--cluster", "debug")


def test_an_epoch_whose_weights_were_never_saved_does_not_count(write_study):
    run = Study(write_study(set={"train": {"n_epoch": 3}})).runs[0]
    pretend(run, [(50.0, 60.0), (40.0, 50.0), (70.0, 80.0)])
    weights = {"config": run.config.model_dump(), "network": {}}
    Checkpoint(**weights, epoch=2).save(run.folder / LAST)
    assert result_of(run) is None
    Checkpoint(**weights, epoch=3).save(run.folder / LAST)
    assert result_of(run).authors == 80.0
    Checkpoint(**weights, epoch=1).save(run.folder / BEST)  # killed between the two
    assert result_of(run) is None
    Checkpoint(**weights, epoch=3).save(run.folder / BEST)
    assert result_of(run).authors == 80.0


def test_a_row_of_different_data_is_refused(write_study, tiny_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    path = write_study(set={"train": {"n_epoch": 1}, "data": {"root": str(data)}})
    first, second = Study(path).runs
    for run in (first, second):
        pretend(run, [(50.0, 60.0)])
        made_on = {"data": fingerprint.fingerprint(data, None), "starts": []}
        (run.folder / "run.json").write_text(json.dumps(made_on))
    assert study_command.main([path]) == EXIT_DONE

    with h5py.File(data / files.LABELS, "r+") as file:
        file[files.KEY][0, 0] = file[files.KEY][1, 0]
    for arguments in ([path], [path, "--table"]):
        capsys.readouterr()
        assert study_command.main(arguments) == EXIT_USER_ERROR
        error = one_line(capsys)
        assert f"other data than what {data} holds now: {files.LABELS}" in error

    # Without run.json the checkpoint tells.
    (second.folder / "run.json").unlink()
    header = {"network": {}, "config": second.config.model_dump(), "epoch": 1}
    Checkpoint(**header, data=made_on["data"]).save(second.folder / LAST)
    on_new_data = {"data": fingerprint.fingerprint(data, None), "starts": []}
    (first.folder / "run.json").write_text(json.dumps(on_new_data))
    assert f"{second.folder}: was trained on other data" in refused(capsys, study_command.main, path, "--table")
    (first.folder / "run.json").write_text(json.dumps(made_on))

    made_on["data"] = fingerprint.fingerprint(data, None)
    (second.folder / "run.json").write_text(json.dumps(made_on))
    shutil.rmtree(data)  # with nothing there to compare with, the seeds are compared with one another
    assert f"{second.folder}: was trained on other data than {first.folder}" in refused(
        capsys, study_command.main, path, "--table"
    )


@pytest.mark.parametrize("loop", ["study/cmbs", "study/cmbs/seed-1", "study/cmbs/seed-1.out", "supv_main_model.json"])
def test_a_link_to_itself_is_one_line(loop, write_study, tmp_path, capsys):
    path = write_study(seeds=[1])
    (tmp_path / loop).unlink(missing_ok=True)
    (tmp_path / loop).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / loop).symlink_to(tmp_path / loop)
    assert loop in refused(capsys, study_command.main, path, "--gpu", "cpu")


def test_val_numbers_do_not_come_into_columns_of_the_test_split(write_study, tiny_config, capsys):
    weak = tiny_config("weak_main_model").name
    changes = {"runs": {"weak": weak}, "readings": {"again": ["weak", weak]}, "set": {"eval": {"split": "val"}}}
    assert "eval.split 'val'" in refused(capsys, study_command.main, write_study(**changes), "--table")


def test_no_name_breaks_a_table():
    header, body = ["network", "x | y"], [["[a] \\ *b* | <c>", "1"], ["*", "2"]]
    lines = markdown(header, body).splitlines()
    assert [len(re.split(r"(?<!\\)\|", line)) for line in lines] == [4] * 4
    assert lines[2] == r"| \[a\] \\ \*b\* \| \<c\> | 1 |"
    assert r"{[}a] \textbackslash{} {*}b{*} \textbar{} \textless{}c\textgreater{} & 1 \\" in latex(header, body)


def test_tables_are_well_formed():
    header, body = ["network", "s/epoch_%"], [["a & b", "1.0 ± 0.5"]]
    assert markdown(header, body) == "| network | s/epoch_% |\n| --- | ---: |\n| a & b | 1.0 ± 0.5 |\n"
    text = latex(header, body)
    assert r"network & s/epoch\_\% \\" in text
    assert r"a \& b & 1.0 $\pm$ 0.5 \\" in text
    assert text.startswith(r"\begin{tabular}{lr}")
