#!/usr/bin/env bash
# A study of six short runs by each engine of `python -m utils.study`: debug, local, and a SLURM of one node that this
# script sets up, where one run reaches its time limit and one is cancelled. All must give the same table, and the same runs
# bit for bit. It takes some minutes.
#
# For a machine that may be thrown away, as root on Debian (slurm-wlm and munge are installed): bash tests/slurm.sh [FOLDER]
. "$(dirname "$(readlink -f "$0")")/../utils/env.sh"
use_python requirements.txt tests/requirements.txt
cd "$PROJECT" || exit
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
export OMP_NUM_THREADS=1 SLURM_CONF=$folder/slurm.conf

command -v slurmctld munged > /dev/null || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends slurm-wlm munge > /dev/null
}
cat > "$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$(hostname -s)
SlurmUser=root
AuthInfo=cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MessageTimeout=60
KillWait=60
ReturnToService=2
NodeName=$(hostname -s) CPUs=$(nproc --all) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
end() {
  for file in slurmd slurmctld munged; do kill "$(cat "$folder/$file.pid")" 2> /dev/null || true; done
}
trap end EXIT
mkdir -p "$folder/state" "$folder/spool" /run/munge
chown munge: /run/munge
munged --force --pid-file "$folder/munged.pid" --socket /run/munge/munge.socket.2 --log-file "$folder/munged.log"
slurmctld
slurmd
for _ in $(seq 30); do [ "$(sinfo --noheader --format=%T)" = idle ] && break; sleep 1; done
sinfo

study() { # ENGINE, further arguments
  echo "== $*"
  "$PYTHON" -m utils.study "$folder/$1.json" --gpu "${GPU:-cpu}" "${@:2}"
}
for engine in debug local slurm; do
  cat > "$folder/$engine.json" <<JSON
{
  "title": "generated clips", "output": "$folder/$engine", "seeds": [1, 2, 3],
  "runs": {"full": "configs/main.json", "weak": "configs/weak.json"},
  "localizations": {"combined": ["weak", "configs/localization/combined.json"]},
  "set": {
    "model": {"categories": 3, "video_inputdim": 16, "audio_inputdim": 8, "d_model": 16},
    "data": {"root": "$folder/data", "generate": {
      "train": 48, "val": 16, "test": 16, "background_only": 8, "categories": 3, "grid": [2, 2], "visual_dim": 16, "audio_dim": 8
    }},
    "train": {"n_epoch": 4, "batch_size": 8}
  },
  "cluster": {"time": 30, "signal-delay-s": 60, "cpus-per-task": 1}
}
JSON
done

waiting() { # SECONDS, CONDITION: until it holds
  for _ in $(seq "$((10 * $1))"); do if eval "$2"; then return; fi; sleep 0.1; done
  echo "error: still not so after $1 s: $2" >&2
  exit 1
}
process_of() { pgrep --full "main.py --config $1.json" | head -n 1; }
job_of() { "$PYTHON" -c 'import json, sys; print(json.load(open(sys.argv[1]))["job"])' "$1.job.json"; }
hold_after_an_epoch() { # RUN: however fast the machine is, it is still at work when SLURM's signal comes
  waiting 900 "[ -s $1/metrics.jsonl ]"
  kill -STOP "$(process_of "$1")"
}
all_ended() { said=$(squeue --noheader) && [ -z "$said" ]; }

study slurm --cluster slurm
study slurm --cluster slurm | grep "already; nothing was submitted"
late=$folder/slurm/full/seed-1 cancelled=$folder/slurm/full/seed-2
hold_after_an_epoch "$late"
hold_after_an_epoch "$cancelled"
job=$(job_of "$late")
echo "== $job reaches its time limit, $(job_of "$cancelled") is cancelled"
scancel "$(job_of "$cancelled")"
scontrol update JobId="$job" TimeLimit=1
waiting 180 "grep -q 'Caught signal SIGUSR2' $folder/slurm/submitit_jobs/${job}_0_log.out"
kill -CONT "$(process_of "$late")"
waiting 180 "squeue --noheader --format='%i %T' | grep -q '$job PENDING'"
scontrol update JobId="$job" TimeLimit=30 # SLURM's signal would come again at once
waiting 900 all_ended
study slurm --status | tee "$folder/status.txt"
grep "full, seed 2: stopped" "$folder/status.txt"
study slurm --table | grep "not counted: full, seed 2"
grep "Requeued job $job" "$folder/slurm/submitit_jobs/${job}_0_log.out"
grep "going on after epoch" "$late.out"

study slurm --cluster slurm
waiting 900 all_ended
study slurm --table
study debug --cluster debug
GPU=cpu,cpu study local

numbers() { sed 's/|[^|]*|$//' "$folder/$1/table.md"; } # without the last column, seconds per epoch
diff <(numbers debug) <(numbers local)
diff <(numbers slurm) <(numbers local)
PYTHONPATH=tests "$PYTHON" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

from helpers_runs import difference, outcome

folders = [Path(sys.argv[1], engine) for engine in ("debug", "local", "slurm")]
for run in sorted(folders[0].glob("[fw]*/seed-?")):
    whole, *others = (outcome(folder / run.relative_to(folders[0])) for folder in folders)
    assert [difference(whole, other) for other in others] == [None, None], run
PYTHON
echo "the same tables by debug, local and SLURM, and the same runs bit for bit"
