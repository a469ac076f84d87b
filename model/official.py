"""The authors' checkpoint format, in and out.

Their file is the state_dict of the network inside nn.DataParallel (hence "module."), in float64. It also
holds tensors that their network never uses: the layer templates that nn.TransformerEncoder copied, every
decoder's `self_attn`, and a few layers left over. Those are not part of our networks. Loading skips
exactly those; exporting writes neutral values (norm weights 1, all else 0) in their places.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.cmbs import SupervisedCMBS, WeaklySupervisedCMBS
from utils.base.errors import UserError

PREFIX = "module."

# Authors' prefix -> ours, for what both networks have.
_COMMON = {
    "spatial_channel_att.affine_video_1.": "attention.channel_visual.",
    "spatial_channel_att.affine_audio_1.": "attention.channel_audio.",
    "spatial_channel_att.affine_bottleneck.": "attention.channel_squeeze.",
    "spatial_channel_att.affine_v_c_att.": "attention.channel_excite.",
    "spatial_channel_att.affine_video_2.": "attention.spatial_visual.",
    "spatial_channel_att.affine_audio_2.": "attention.spatial_audio.",
    "spatial_channel_att.affine_v_s_att.": "attention.spatial_score.",
    "spatial_channel_att.video_query.": "attention.query.",
    "spatial_channel_att.video_key.": "attention.key.",
    "spatial_channel_att.video_value.": "attention.value.",
    "spatial_channel_att.affine_video_ave.": "attention.global_mean.",
    "spatial_channel_att.affine_video_3.": "attention.global_cell.",
    "spatial_channel_att.ave_v_att.": "attention.global_score.",
    "spatial_channel_att.norm.": "attention.norm.",
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
    "AVInter.video_multihead.": "fusion.visual_interaction.attention.",
    "AVInter.norm1.": "fusion.visual_interaction.norm.",
    "VAInter.video_multihead.": "fusion.audio_interaction.attention.",
    "VAInter.norm1.": "fusion.audio_interaction.norm.",
    "audio_cas.": "audio_activation.classifier.",
    "video_cas.": "visual_activation.classifier.",
}
_SUPERVISED = _COMMON | {
    "audio_visual_rnn_layer.audio_rnn.": "lstm.audio.",
    "audio_visual_rnn_layer.visual_rnn.": "lstm.visual.",
    "audio_gated.0.": "audio_gate.score.",
    "video_gated.0.": "visual_gate.score.",
    "localize_module.classifier.": "event_classifier.",
    "localize_module.event_classifier.": "category_classifier.",
}
_WEAK = _COMMON | {
    # Quirk: the authors' weak `audio_gated` reads the visual features and `video_gated` the audio features.
    "audio_gated.0.": "visual_gate.score.",
    "video_gated.0.": "audio_gate.score.",
    "CAS_model.classifier.0.": "fused_activation.classifier.",
}

# Authors' prefix that their network never uses -> the used prefix whose tensors have the same names and shapes.
_UNUSED_COMMON = {"spatial_channel_att.ave_bottleneck.": "spatial_channel_att.affine_video_ave."} | {
    unused: used
    for modality in ("video", "audio")
    for unused, used in {
        f"{modality}_encoder.encoder_layer.": f"{modality}_encoder.encoder.layers.0.",
        f"{modality}_decoder.decoder.layers.0.self_attn.": f"{modality}_decoder.decoder.layers.0.multihead_attn.",
        f"{modality}_decoder.decoder_layer.self_attn.": f"{modality}_decoder.decoder.layers.0.multihead_attn.",
        f"{modality}_decoder.decoder_layer.": f"{modality}_decoder.decoder.layers.0.",
    }.items()
}
_UNUSED_SUPERVISED = _UNUSED_COMMON | {"video_norm.": "AVInter.norm1.", "audio_norm.": "AVInter.norm1."}
_UNUSED_WEAK = _UNUSED_COMMON | {"classifier.": "audio_gated.0."}


def load_official(network: SupervisedCMBS | WeaklySupervisedCMBS, state_dict: Mapping[str, Tensor]) -> None:
    """Load an authors' state_dict into `network`, keeping the network's own precision.

    Args:
        state_dict: the authors' keys, each with or without the prefix "module.", float64 or float32.

    Raises:
        UserError: names every tensor that is missing, extra (unused ones are expected) or misshapen; the
            network is unchanged then.
    """
    theirs = {key.removeprefix(PREFIX): tensor for key, tensor in state_dict.items()}
    used, unused = _shapes(network)
    missing = sorted(used.keys() - theirs.keys())
    extra = sorted(theirs.keys() - used.keys() - unused.keys())
    misshapen = [
        f"{key} is {list(tensor.shape)} and should be {list(shape)}"
        for key, tensor in theirs.items()
        if (shape := used.get(key, unused.get(key))) is not None and tensor.shape != shape
    ]
    problems = [
        f"{title}: {', '.join(keys)}"
        for title, keys in (("missing", missing), ("not known", extra), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise UserError(
            f"not a checkpoint of the authors' {type(network).__name__} with these settings; tensors "
            + "; ".join(problems)
        )
    ours = network.state_dict()
    network.load_state_dict({name: theirs[key].reshape(ours[name].shape) for key, name in _names(network).items()})


def to_official(network: SupervisedCMBS | WeaklySupervisedCMBS) -> dict[str, Tensor]:
    """The authors' state_dict of `network`, complete: a strict load of theirs inside nn.DataParallel accepts it.

    Keys begin with "module."; tensors are copies on the CPU in the network's precision.
    """
    ours = network.state_dict()
    used, unused = _shapes(network)
    dtype = next(network.parameters()).dtype
    exported = {key: ours[name].detach().cpu().reshape(used[key]).clone() for key, name in _names(network).items()}
    for key, shape in unused.items():
        is_norm_weight = "norm" in key.split(".")[-2] and key.endswith(".weight")
        exported[key] = torch.full(shape, 1.0 if is_norm_weight else 0.0, dtype=dtype)
    return {PREFIX + key: tensor for key, tensor in exported.items()}


def _names(network: nn.Module) -> dict[str, str]:
    """Authors' key -> our key, for every tensor of our network. Raises UserError for a network without some part."""
    prefixes = _SUPERVISED if isinstance(network, SupervisedCMBS) else _WEAK
    absent = [part for part in prefixes.values() if not any(name.startswith(part) for name in network.state_dict())]
    if absent:
        raise UserError(
            f"the authors' format is that of their whole network; these settings leave out {absent[0].rstrip('.')} "
            f"(look at model.time_level, event_level, self_attention and beta)"
        )
    # The longest of our prefixes decides: "audio_relation.attention." before "audio_relation.".
    by_ours = sorted(((ours, theirs) for theirs, ours in prefixes.items()), key=lambda pair: -len(pair[0]))
    names = {}
    for name in network.state_dict():
        ours, theirs = next(pair for pair in by_ours if name.startswith(pair[0]))
        names[theirs + name.removeprefix(ours)] = name
    return names


def _shapes(network: nn.Module) -> tuple[dict[str, torch.Size], dict[str, torch.Size]]:
    """Shapes of the authors' tensors for a network of these sizes: those it uses, and those it never uses."""
    ours = network.state_dict()
    used = {key: ours[name].shape for key, name in _names(network).items()}
    for key, shape in used.items():
        if key.startswith("CAS_model."):  # theirs is a 1x1 convolution, ours the same thing as a linear layer
            used[key] = torch.Size((*shape, 1))
    unused: dict[str, torch.Size] = {}
    templates = _UNUSED_SUPERVISED if isinstance(network, SupervisedCMBS) else _UNUSED_WEAK
    for template, like in templates.items():
        for key, shape in used.items():
            if key.startswith(like) and not key.startswith(f"{like}affine"):
                unused.setdefault(template + key.removeprefix(like), shape)
    return used, unused
