"""The format of the authors' CACE-Net checkpoints: CMBS's, and the audio's guidance and the event encoder.

Never used in them is what CMBS doesn't use either, a linear layer of the audio and a second LayerNorm of the cells.
"""

from __future__ import annotations

from model.cace import CACENet
from model.official.cmbs import SUPERVISED, UNUSED
from model.official.format import Format

_ATTENTION = "spatial_channel_att."
_USED = {
    **{theirs: ours for theirs, ours in SUPERVISED.items() if ours != "attention.norm."},
    f"{_ATTENTION}v_norm.": "attention.norm.",
    f"{_ATTENTION}audio_query.": "guidance.audio_query.",
    f"{_ATTENTION}audio_key.": "guidance.audio_key.",
    f"{_ATTENTION}audio_value.": "guidance.audio_value.",
    f"{_ATTENTION}a_norm.": "guidance.audio_norm.",
    f"{_ATTENTION}video_query2.": "guidance.cell_query.",
    f"{_ATTENTION}video_key2.": "guidance.cell_key.",
    f"{_ATTENTION}video_value2.": "guidance.cell_value.",
    f"{_ATTENTION}v_query.": "guidance.query.",
    f"{_ATTENTION}vaudio_key.": "guidance.key.",
    f"{_ATTENTION}vaudio_value.": "guidance.value.",
    "localize_module.encoder_q.0.": "event_encoder.",
}
_UNUSED = {**UNUSED, f"{_ATTENTION}v_norm2.": f"{_ATTENTION}v_norm.", "a_fc.": f"{_ATTENTION}audio_query."}

FORMATS = {CACENet: Format(_USED, _UNUSED)}
