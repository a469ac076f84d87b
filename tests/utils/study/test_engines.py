"""Studies on the engines of submitit: who makes a run, what comes of a stop, a kill and a time limit, and SLURM."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import ROOT
from helpers_runs import difference, outcome

from utils.base.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_USER_ERROR
from utils.base.locks import hold
from utils.study import __main__ as study_command
from utils.study.engines import python_of_jobs
from utils.study.job_record import Record, read_record, write_record
from utils.study.jobs import Job
from utils.study.runs import Run, Study
from utils.study.states import State, states


def pretended(codes: dict[int, int]):
    """A `Job._call` that ends as the run's seed says: with two epochs done if all is well, else with one."""

    def call(job: Job, run: Run, arguments: list[str]) -> int:
        run.out.write_text(f"began\nerror: {run.seed} is a bad seed\n")
        run.folder.mkdir(parents=True, exist_ok=True)
        epochs = (1,) if codes[run.seed] else (1, 2)
        lines = [f'{{"epoch": {epoch}, "test_accuracy": 50.0, "seconds": 90.0}}\n' for epoch in epochs]
        (run.folder / "metrics.jsonl").write_text("".join(lines))
        return codes[run.seed]

    return call


def words(path: str) -> list[str]:
    return [state.word for state in states([Study(path)])]


def test_a_run_that_failed_is_named_and_not_counted_and_the_others_go_on(write_study, tmp_path, monkeypatch, capsys):
    path = write_study(seeds=[1, 2, 3])
    monkeypatch.setattr(Job, "_call", pretended({1: 2, 2: 0, 3: EXIT_INTERRUPTED}))
    assert words(path) == ["waiting"] * 3
    assert study_command.main([path, "--cluster", "debug"]) == EXIT_USER_ERROR
    assert words(path) == ["failed", "done", "stopped"]
    output = capsys.readouterr()
    assert "CMBS, seed 1 ended with exit code 2: error: 1 is a bad seed" in output.err
    assert "1 more runs failed" in output.err
    assert "1/3 CMBS, seed 2: authors' protocol 50.00 %" in output.out
    table = (tmp_path / "study" / "table.md").read_text()
    assert "50.00 (1 of 3 seeds)" in table
    assert "not counted: CMBS, seed 1: failed, ended with exit code 2: error: 1 is a bad seed" in table
    assert "not counted: CMBS, seed 3: stopped, epoch 2 of 2, about 0:01:30 left" in table
    assert "% not counted: CMBS, seed 1" in (tmp_path / "study" / "table.tex").read_text()

    assert study_command.main([path, "--status"]) == EXIT_DONE
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith(f"failed, ended with exit code 2: error: 1 is a bad seed ({Study(path).runs[0].out})")
    assert said[1] == "CMBS, seed 2: done, authors' protocol 50.00 %, validation protocol not available"


def test_what_another_study_has_is_left_to_it(write_study, tmp_path, monkeypatch, capsys):
    path = write_study(set={"train": {"n_epoch": 3}})
    monkeypatch.setattr(Job, "_call", pretended({1: 2, 2: 2}))
    first, second = Study(path).runs
    first.folder.mkdir(parents=True)
    (first.folder / "metrics.jsonl").write_text('{"epoch": 1, "test_accuracy": 50.0, "seconds": 90.0}\n')
    theirs = hold(first.lock, "held")
    before = {file: file.read_bytes() for file in first.folder.parent.rglob("*") if file.is_file()}
    assert study_command.main([path, "--cluster", "debug"]) == EXIT_USER_ERROR
    assert "CMBS, seed 2 ended" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in before} == before
    assert states([Study(path)])[0] == State(first, "running", "epoch 2 of 3, about 0:03:00 left")
    assert "not counted: CMBS, seed 1: running" in (tmp_path / "study" / "table.md").read_text()
    write_record(second, Record(engine="local", began=time.time(), ended=time.time() + 1000, code=0))
    Job([[second]], [None], {}, submitted=time.time())()  # of two jobs with the same runs the second makes none again
    assert read_record(second).ended > time.time()
    theirs.release()


def test_devices_take_each_run_once_and_go_on_after_one_that_failed(write_study, tmp_path, capsys):
    path = write_study(seeds=[1, 2, 3], set={"data": {"root": str(tmp_path / "nowhere")}})
    assert study_command.main([path, "--gpu", "cpu,cpu"]) == EXIT_USER_ERROR
    assert "2 more runs failed" in capsys.readouterr().err
    assert [run.out.read_text().count("error: ") for run in Study(path).runs] == [1, 1, 1]


def test_runs_begin_before_torch_is_imported(write_study):
    """Importing it takes seconds, and the study itself needs none."""
    code = (
        "import sys; from utils.study import __main__, engines\n"
        "def begin(*_): sys.exit(str({'torch', 'tensorboard', 'matplotlib'} & sys.modules.keys()))\n"
        f"engines._run_on_devices = begin; __main__.main([{write_study()!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"


def test_a_run_that_was_killed_with_its_job_has_failed(write_study, tmp_path):
    path = write_study(seeds=[1])
    (run,) = Study(path).runs
    run.folder.parent.mkdir(parents=True)
    (tmp_path / "log").write_text("slurmstepd: error: Detected 1 oom_kill event\n")
    write_record(run, Record(engine="local", job="1", log=str(tmp_path / "log"), began=1.0))
    assert states([Study(path)]) == [
        State(run, "failed", "its job ended without a word, maybe killed: slurmstepd: error: Detected 1 oom_kill event "
              f"({tmp_path / 'log'})")
    ]  # fmt: skip
    run.record.write_text("{")
    assert study_command.main([path, "--status"]) == EXIT_USER_ERROR


def _wait_for(what) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _epochs(run: Run) -> int:
    metrics = run.folder / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def test_a_study_that_is_stopped_and_a_job_whose_time_is_over_go_on_bit_for_bit(write_study, tiny_config, tmp_path):
    epochs = 8
    path = write_study(seeds=[1], set={"train": {"n_epoch": epochs}})
    (run,) = Study(path).runs

    def start() -> subprocess.Popen:
        command = [sys.executable, "-m", "utils.study", path, "--gpu", "cpu"]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    study = start()
    _wait_for(lambda: _epochs(run))
    study.send_signal(signal.SIGINT)
    _, error = study.communicate(timeout=300)
    assert study.returncode == EXIT_INTERRUPTED, error
    assert error == "stopped; the same command goes on where the runs were\n"
    assert words(path) == ["stopped"]
    stopped_at = _epochs(run)
    assert 1 <= stopped_at < epochs

    study = start()
    _wait_for(lambda: _epochs(run) > stopped_at)
    (job,) = psutil.Process(int(read_record(run).job)).children()
    job.send_signal(signal.SIGUSR2)  # as SLURM does
    output, error = study.communicate(timeout=300)
    assert study.returncode == EXIT_DONE, error
    assert "1/1 CMBS, seed 1" in output
    assert run.out.read_text().count("going on after epoch") == 2

    whole = tmp_path / "whole"
    flags = ["--config", str(run.settings), "--snapshot_pref", str(whole), "--gpu", "cpu"]
    subprocess.run([sys.executable, "supv_main.py", *flags], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    assert difference(outcome(whole), outcome(run.folder)) is None


SBATCH = """#!/bin/sh
cat "$1" > "{folder}/asked"
echo "Submitted batch job 7"
"""
SQUEUE = """#!/bin/sh
echo "7_0 PENDING"
"""


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch) -> Path:
    """Commands that look like SLURM's; what sbatch was asked for is in the file `asked`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "squeue": SQUEUE, "srun": "#!/bin/sh\n"}.items():
        (folder / name).write_text(text.format(folder=tmp_path))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_slurm_is_asked_for_a_job_array_once(write_study, tmp_path, fake_slurm, capsys):
    path = write_study(cluster={"partition": "slow", "time": 90, "mem": "16G", "gpus-per-node": 1, "qos": "low"})
    flags = ["--cluster", "slurm", "--sbatch", "partition=fast", "hint=nomultithread"]
    assert study_command.main([path, *flags]) == EXIT_DONE
    assert "submitted 2 jobs to SLURM: 7_0 to 7_1" in capsys.readouterr().out
    asked = {line.removeprefix("#SBATCH --") for line in (tmp_path / "asked").read_text().splitlines()}
    wanted = {"partition=fast", "time=90", "mem=16G", "gpus-per-node=1", "qos=low", "hint=nomultithread"}
    assert wanted | {"array=0-1%2", "signal=USR2@90"} <= asked
    assert any(f"{python_of_jobs()} -u -m submitit" in line for line in asked)
    assert [state.text for state in states([Study(path)])] == [
        "SLURM job 7_0, PENDING; epoch 1 of 2",
        "epoch 1 of 2; the study goes on with it when it is started again",  # cancelled before it began
    ]
    (tmp_path / "asked").unlink()
    assert study_command.main([path, *flags]) == EXIT_DONE
    assert "submitted 1 jobs to SLURM" in capsys.readouterr().out
    (fake_slurm / "squeue").write_text("#!/bin/sh\necho '7_0 PENDING'\necho '7 RUNNING'\n")
    (tmp_path / "asked").unlink()
    assert study_command.main([path, *flags]) == EXIT_DONE
    assert "2 runs are with SLURM or another study already" in capsys.readouterr().out
    assert not (tmp_path / "asked").exists()
    (fake_slurm / "squeue").write_text("#!/bin/sh\nexit 1\n")
    assert study_command.main([path, *flags]) == EXIT_USER_ERROR
    assert "squeue doesn't say" in capsys.readouterr().err
    assert "of which squeue says nothing" in states([Study(path)])[0].text


def test_a_signal_does_not_kill_a_job_before_submitit_waits_for_it():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); print('alive')"
    command = [*shlex.split(python_of_jobs()), "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "alive\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sbatch", "time=1:00:00"], "'1:00:00': is not a whole number of minutes"),
        (["--sbatch", "partition"], "is not KEY=VALUE"),
        ([], "SLURM doesn't take the runs: sbatch: error: invalid partition specified"),
    ],
)
def test_what_slurm_does_not_take_is_one_line(flags, message, write_study, fake_slurm, capsys):
    (fake_slurm / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified' >&2\nexit 1\n")
    assert study_command.main([write_study(), "--cluster", "slurm", *flags]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_machine_without_slurm_is_one_line(write_study, monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert study_command.main([write_study(), "--cluster", "slurm"]) == EXIT_USER_ERROR
    assert "are you indeed on a slurm cluster" in capsys.readouterr().err
