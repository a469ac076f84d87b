"""The format of the authors' CMRAN checkpoints, supervised and weak; its parts have the keys that they have in CMBS's.

Never used in them are the layer templates that nn.TransformerEncoder copied, every decoder's `self_attn`, and two
layers of the attention that are left over.
"""

from __future__ import annotations

from model.cmran import SupervisedCMRAN, WeaklySupervisedCMRAN
from model.official.cmbs import ATTENTION, CLASSIFIERS, ENCODERS, UNUSED_IN_ENCODERS
from model.official.format import Format

_FORMAT = Format(
    used={
        **ATTENTION,
        **ENCODERS,
        **CLASSIFIERS,
        "AVInter.video_multihead.": "interaction.attention.",
        "AVInter.norm1.": "interaction.norm.",
    },
    unused=UNUSED_IN_ENCODERS,
    unused_shapes={
        "spatial_channel_att.affine_video_guided_1.weight": (64, 512),
        "spatial_channel_att.affine_video_guided_1.bias": (64,),
        "spatial_channel_att.affine_video_guided_2.weight": (128, 64),
        "spatial_channel_att.affine_video_guided_2.bias": (128,),
    },
)
FORMATS = {SupervisedCMRAN: _FORMAT, WeaklySupervisedCMRAN: _FORMAT}
