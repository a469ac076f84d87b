"""The formats of the authors' PSP and CPSP checkpoints.

Never used in them are a few layers left over: the other supervision's, and classifiers that nothing reads.
"""

from __future__ import annotations

from model.cpsp import CPSP
from model.official.avel import ATTENTION, LSTMS
from model.official.format import Format
from model.psp import SupervisedPSP, WeaklySupervisedPSP

# Authors' beginning of a key -> ours.
_COMMON = {
    **{f"attention.{theirs}": ours for theirs, ours in ATTENTION.items()},
    **{f"lstm_a_v.{theirs}": ours for theirs, ours in LSTMS.items()},
    "psp.v_L1.": "propagation.visual_1.",
    "psp.v_L2.": "propagation.visual_2.",
    "psp.a_L1.": "propagation.audio_1.",
    "psp.a_L2.": "propagation.audio_2.",
    "psp.layer_norm.": "propagation.norm.",
}
_SUPERVISED = {
    **{theirs: f"features.{ours}" for theirs, ours in _COMMON.items()},
    "psp.v_fc.": "features.propagation.visual_output.",
    "psp.a_fc.": "features.propagation.audio_output.",
    "fa.": "features.audio_projection.",
    "fv.": "features.visual_projection.",
}
_CLASSIFIER = {"L1.": "classifier.hidden.", "L2.": "classifier.classifier."}

# Authors' key of what their network never uses -> its shape.
_UNUSED_SUPERVISED = {
    "linear_v.weight": (128, 512),
    "linear_v.bias": (128,),
    **{f"{modality}_classify.L1.weight": (64, 256) for modality in "va"},
    **{f"{modality}_classify.L2.weight": (28, 64) for modality in "va"},
}

FORMATS = {
    SupervisedPSP: Format(
        {**_SUPERVISED, **_CLASSIFIER},
        unused={},
        unused_shapes={
            **_UNUSED_SUPERVISED,
            "L3.weight": (64, 256),
            "L3.bias": (64,),
            "L4.weight": (2, 64),
            "L4.bias": (2,),
        },
    ),
    WeaklySupervisedPSP: Format(
        {**_COMMON, **_CLASSIFIER, "linear_v.": "visual_projection.", "W3.": "weight."},
        unused={},
        unused_shapes={"temperature": (1, 29), "W1.weight": (1, 256), "W2.weight": (1, 64)},
    ),
    CPSP: Format(
        {
            **_SUPERVISED,
            "event_classifier.0.": "event_classifier.",
            "category_classifier.0.": "category_classifier.",
        },
        unused={},
        unused_shapes={**_UNUSED_SUPERVISED, "L1.weight": (64, 256), "L2.weight": (28, 64)},
    ),
}
