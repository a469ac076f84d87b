"""The format of the authors' CMBS checkpoints, supervised and weak, which are in float64.

Never used in them are the layer templates that nn.TransformerEncoder copied, every decoder's `self_attn`, and a few
layers left over.
"""

from __future__ import annotations

from model.cmbs import SupervisedCMBS, WeaklySupervisedCMBS
from model.official.format import Format

# Authors' beginning of a key -> ours, for what CMRAN and CACE-Net have too.
ATTENTION = {
    "spatial_channel_att.affine_video_1.": "attention.channel_visual.",
    "spatial_channel_att.affine_audio_1.": "attention.channel_audio.",
    "spatial_channel_att.affine_bottleneck.": "attention.channel_squeeze.",
    "spatial_channel_att.affine_v_c_att.": "attention.channel_excite.",
    "spatial_channel_att.affine_video_2.": "attention.spatial_visual.",
    "spatial_channel_att.affine_audio_2.": "attention.spatial_audio.",
    "spatial_channel_att.affine_v_s_att.": "attention.spatial_score.",
}
ENCODERS = {
    "v_fc.": "visual_projection.",
    "video_encoder.encoder.": "visual_encoder.encoder.",
    "video_encoder.affine_matrix.": "visual_encoder.projection.",
    "video_decoder.decoder.layers.0.multihead_attn.": "visual_relation.attention.",
    "video_decoder.decoder.layers.0.": "visual_relation.",
    "video_decoder.affine_matrix.": "visual_relation.projection.",
    "audio_encoder.encoder.": "audio_encoder.encoder.",
    "audio_encoder.affine_matrix.": "audio_encoder.projection.",
    "audio_decoder.decoder.layers.0.multihead_attn.": "audio_relation.attention.",
    "audio_decoder.decoder.layers.0.": "audio_relation.",
    "audio_decoder.affine_matrix.": "audio_relation.projection.",
}
CLASSIFIERS = {
    "localize_module.classifier.": "event_classifier.",
    "localize_module.event_classifier.": "category_classifier.",
}
# For what both CMBS networks have.
_COMMON = {
    **ATTENTION,
    **ENCODERS,
    "spatial_channel_att.video_query.": "attention.query.",
    "spatial_channel_att.video_key.": "attention.key.",
    "spatial_channel_att.video_value.": "attention.value.",
    "spatial_channel_att.affine_video_ave.": "attention.global_mean.",
    "spatial_channel_att.affine_video_3.": "attention.global_cell.",
    "spatial_channel_att.ave_v_att.": "attention.global_score.",
    "spatial_channel_att.norm.": "attention.norm.",
    "AVInter.video_multihead.": "fusion.visual_interaction.attention.",
    "AVInter.norm1.": "fusion.visual_interaction.norm.",
    "VAInter.video_multihead.": "fusion.audio_interaction.attention.",
    "VAInter.norm1.": "fusion.audio_interaction.norm.",
    "audio_cas.": "audio_activation.classifier.",
    "video_cas.": "visual_activation.classifier.",
}
SUPERVISED = {
    **_COMMON,
    **CLASSIFIERS,
    "audio_visual_rnn_layer.audio_rnn.": "lstm.audio.",
    "audio_visual_rnn_layer.visual_rnn.": "lstm.visual.",
    "audio_gated.0.": "audio_gate.score.",
    "video_gated.0.": "visual_gate.score.",
}
_WEAK = {
    **_COMMON,
    # Quirk: the authors' weak `audio_gated` reads the visual features and `video_gated` the audio features.
    "audio_gated.0.": "visual_gate.score.",
    "video_gated.0.": "audio_gate.score.",
    "CAS_model.classifier.0.": "fused_activation.classifier.",
}

# Authors' beginning, of what their network never uses -> the used one whose tensors have the same names and shapes.
UNUSED_IN_ENCODERS = {
    unused: used
    for modality in ("video", "audio")
    for unused, used in {
        f"{modality}_encoder.encoder_layer.": f"{modality}_encoder.encoder.layers.0.",
        f"{modality}_decoder.decoder.layers.0.self_attn.": f"{modality}_decoder.decoder.layers.0.multihead_attn.",
        f"{modality}_decoder.decoder_layer.self_attn.": f"{modality}_decoder.decoder.layers.0.multihead_attn.",
        f"{modality}_decoder.decoder_layer.": f"{modality}_decoder.decoder.layers.0.",
    }.items()
}
UNUSED = {**UNUSED_IN_ENCODERS, "spatial_channel_att.ave_bottleneck.": "spatial_channel_att.affine_video_ave."}

FORMATS = {
    SupervisedCMBS: Format(
        SUPERVISED,
        {**UNUSED, "video_norm.": "AVInter.norm1.", "audio_norm.": "AVInter.norm1."},
        files=("Supervised_model.pth.tar", "*task_Supervised_best_model.pth.tar"),
    ),
    WeaklySupervisedCMBS: Format(
        _WEAK,
        {**UNUSED, "classifier.": "audio_gated.0."},
        convolutions=("CAS_model.",),
        files=("WeaklySupervised_model.pth.tar", "*task_WeaklySupervised_best_model.pth.tar"),
    ),
}
