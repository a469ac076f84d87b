"""The format of the authors' AVEL checkpoints, all of whose tensors are used."""

from __future__ import annotations

from model.avel import SupervisedAVEL, SupervisedDMRN, WeaklySupervisedAVEL
from model.official.format import Format

# Authors' beginning of a key -> ours.
ATTENTION = {
    "affine_video.": "attention.visual_projection.",
    "affine_audio.": "attention.audio_projection.",
    "affine_v.": "attention.of_visual.",
    "affine_g.": "attention.of_audio.",
    "affine_h.": "attention.score.",
}
LSTMS = {"lstm_audio.": "lstm.audio.", "lstm_video.": "lstm.visual."}
_SEQUENCES = {theirs: f"sequences.{ours}" for theirs, ours in (ATTENTION | LSTMS).items()}
_CONCATENATION = Format({**_SEQUENCES, "L1.": "fusion.hidden.", "L2.": "fusion.classifier."}, unused={})

FORMATS = {
    SupervisedAVEL: _CONCATENATION,
    SupervisedDMRN: Format(
        {**_SEQUENCES, "U_v.": "fusion.visual.", "U_a.": "fusion.audio.", "L2.": "fusion.classifier."}, unused={}
    ),
    WeaklySupervisedAVEL: _CONCATENATION,
}
