"""The card of a released network, README.md: YAML for model hubs, then what its reader wants to know."""

from __future__ import annotations

import json
from typing import Any

from dataset.files import in_words
from utils.base import nested
from utils.base.tables import markdown
from utils.evaluation.clip_scores import ACCURACY, SCORES
from utils.evaluation.intervals import Interval
from utils.evaluation.protocols import PROTOCOLS
from utils.evaluation.results import GENERATED

_TASK = "audio-visual-event-localization"


def card(facts: dict[str, Any]) -> str:
    """The card as Markdown, from `utils.release.facts`."""
    parts = [
        _front_matter(facts),
        f"# {facts['model']}, {_TASK.replace('-', ' ').replace('audio visual', 'audio-visual')}",
        *([f"> **Trained on generated clips**: {GENERATED}."] if facts["generated"] else []),
        _what(facts),
        "## Numbers",
        _numbers(facts),
        "## Use",
        _use(facts),
        "## How it was made",
        _made(facts),
        "## Licence",
        f"`{facts['license']}`. The network and its recipe are its authors'; the data are not part of this folder.",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(facts: dict[str, Any]) -> str:
    """The metadata that model hubs read; each value is JSON, which YAML includes."""
    tags = [_TASK, f"{facts['supervision']}-supervision", facts["model"]]
    results = []
    for result in facts["results"]:
        kind = "generated" if result["generated"] else "other"
        scores = {name: interval[0] for name, interval in result["scores"].items() if interval[0] is not None}
        results.append(
            {
                "task": {"type": _TASK},
                "dataset": {
                    "name": f"{_clips(result)} of {result['data_root']}",
                    "type": kind,
                    "split": result["split"],
                },
                "metrics": [{"type": name, "name": SCORES[name], "value": round(scores[name], 2)} for name in scores],
            }
        )
    values = {
        "license": facts["license"],
        "library_name": "pytorch",
        "tags": tags + (["generated-data"] if facts["generated"] else []),
        "model-index": [{"name": facts["model"], "results": results}],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def _clips(about: dict[str, Any]) -> str:
    """What clips are called, by whether they are generated."""
    return "generated clips" if about["generated"] else "clips"


def _what(facts: dict[str, Any]) -> str:
    data = facts["data"]
    counts = f"{_clips(facts)} of `{data['root']}`"
    counts = f"{data['train']:,} {counts}" if data["train"] else counts
    if data["clips"]:
        counts += f" ({data['clips']:,} clips of {data['segments']} segments, {data['categories']} categories)"
    protocol = PROTOCOLS[facts["protocol"]]
    warned = protocol.rule.replace("on the test split", "**on the test split**, which is optimistic")
    labels = "labels of segments" if facts["supervision"] == "full" else in_words(facts["label_regime"])
    return "\n".join(
        [
            f"- **Network**: `{facts['model']}`, {facts['parameters']:,} parameters",
            f"- **Trained on**: {counts}; fingerprint in `release.json`",
            f"- **Supervision**: {facts['supervision']}; it learned from {labels}",
            f"- **Weights**: epoch {facts['epoch']} of {facts['n_epoch']}, chosen by the {protocol.name}: the {warned}",
        ]
    )


def _numbers(facts: dict[str, Any]) -> str:
    header = ["evaluated on", "events read off", *(f"{name}, %" for name in SCORES.values())]
    body = [
        [
            f"{result['clips']:,} {_clips(result)}, {result['split']} split",
            result["localization"],
            *(Interval(*result["scores"][name]).text() for name in SCORES),
        ]
        for result in facts["results"]
    ]
    lines = [
        markdown(header, body).rstrip("\n"),
        "In brackets: 95 % intervals by the bootstrap over clips, of these weights alone: one training, one seed "
        f"({facts['seed']}). `{ACCURACY}` in the metadata is the share of segments that are right; the two F1 are "
        "open-vocabulary AVEL's.",
    ]
    authors, validation = (facts["protocols"] or {}).get("authors"), (facts["protocols"] or {}).get("validation")
    if authors:
        by_test, by_val = (protocol.name for protocol in PROTOCOLS.values())
        said = f"{by_test} {authors['test_accuracy']:.2f} % (epoch {authors['epoch']}), {by_val} "
        said += f"{validation['test_accuracy']:.2f} % (epoch {validation['epoch']})" if validation else "not available"
        lines.append(f"The run by both protocols, on the test split: {said}.")
    return "\n\n".join(lines)


def _use(facts: dict[str, Any]) -> str:
    script = "supv" if facts["supervision"] == "full" else "weak"
    lines = [
        "# evaluate; train from it",
        f"bash {script}_test.sh --config FOLDER/config.json --resume FOLDER --data_root DATA",
        f"bash {script}_train.sh --config FOLDER/config.json --resume FOLDER --data_root DATA --snapshot_pref RUN",
    ]
    if facts["fits_videos"]:
        lines += ["# find the events of a video", "python -m utils.predict VIDEO --checkpoint FOLDER"]
    return (
        "With the code that made it, where FOLDER is this folder:\n\n```bash\n" + "\n".join(lines) + "\n```\n\n"
        "`sha256sum -c SHA256SUMS` checks the files; the code does so whenever it reads them."
    )


def _made(facts: dict[str, Any]) -> str:
    start = facts["start"]
    if start is None:
        return "Not recorded: the run folder held no `run.json`."
    git = start.get("git")
    commit = "not recorded (no git checkout)"
    if isinstance(git, dict):
        commit = f"`{git.get('commit')}`{', with changes that are not committed' if git.get('dirty') else ''}"
    packages = nested.flat({"Python": start.get("python"), "packages": start.get("packages")})
    versions = ", ".join(f"{name.removeprefix('packages.')} {version}" for name, version in packages.items())
    lines = [
        "````bash",
        str(start.get("command")),
        "````",
        "",
        f"- **Commit**: {commit}",
        f"- **Versions**: {versions}",
        f"- **Device**: {start.get('device')}, {start.get('processes')} process(es), {facts['precision']}",
        f"- **Started**: {start.get('time')}",
    ]
    if facts["starts"] > 1:
        lines.append(f"- The run went on after stops: this is the last of its {facts['starts']} starts.")
    return "\n".join(lines)
