"""Along time, within one modality: bidirectional LSTMs and the temporal encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.dropout import Dropout


class AudioVisualLSTM(nn.Module):
    """A one-layer bidirectional LSTM for each modality, half of its width a direction.

    audio [B, T, Da] -> [B, T, audio_width]; visual [B, T, Dv] -> [B, T, visual_width].
    """

    def __init__(self, audio_dim: int, visual_dim: int, audio_width: int, visual_width: int) -> None:
        super().__init__()
        self.audio = nn.LSTM(audio_dim, audio_width // 2, batch_first=True, bidirectional=True)
        self.visual = nn.LSTM(visual_dim, visual_width // 2, batch_first=True, bidirectional=True)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        if audio.device.type == "cuda":
            # Autocast to bfloat16 runs cuDNN's LSTMs in float16 all the same, whose small gradients become 0.
            dtype = self.audio.weight_ih_l0.dtype
            with torch.autocast("cuda", enabled=False):
                return self.audio(audio.to(dtype))[0], self.visual(visual.to(dtype))[0]
        return self.audio(audio)[0], self.visual(visual)[0]


class TemporalEncoder(nn.Module):
    """Intra-modal temporal encoder: Linear(in -> d), then 2 post-norm transformer encoder layers.

    [B, T, in] -> [B, T, d]. Without position encoding, as in the authors' network.
    """

    def __init__(self, in_dim: int, d_model: int, feedforward: int, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(in_dim, d_model)
        layer = nn.TransformerEncoderLayer(d_model, heads, feedforward, dropout, batch_first=True)
        layer.dropout, layer.dropout1, layer.dropout2 = (Dropout(dropout) for _ in range(3))
        # nn.TransformerEncoder deep-copies the layer: both start from equal weights, as the authors' do.
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.projection(x))
