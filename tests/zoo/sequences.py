"""Recurrent and attention networks of the zoo, from torch's own layers."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence


class LanguageModel(nn.Module):
    """Embedding, LSTM, and a head that shares the embedding's weight."""

    def __init__(self, vocabulary: int = 30, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width, padding_idx=0)
        self.lstm = nn.LSTM(width, width, num_layers=2, dropout=0.2, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, state = self.lstm(self.embed(tokens))
        return self.head(hidden), state


class PackedGRU(nn.Module):
    """A bidirectional GRU over sequences of different lengths; returns the PackedSequence and the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[PackedSequence, Tensor]:
        packed, last = self.gru(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        return packed, self.head(torch.cat([last[0], last[1]], dim=-1))


class Cells(nn.Module):
    """One LSTM cell stepped through time: the same module called for every token, with a tuple as its output."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = (x.new_zeros(x.shape[0], 6), x.new_zeros(x.shape[0], 6))
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0])


def encoder(*, activation: str = "relu", norm_first: bool = False) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.1, activation=activation, batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=not norm_first)


def translator() -> nn.Transformer:
    return nn.Transformer(
        16, 4, num_encoder_layers=1, num_decoder_layers=2, dim_feedforward=24, dropout=0.1, batch_first=True
    )


class Attention(nn.Module):
    """Self-attention that returns its weights, then cross-attention that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(12, 3, dropout=0.1, batch_first=True)
        self.cross = nn.MultiheadAttention(12, 3, kdim=8, vdim=8, batch_first=True)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        mixed, weights = self.own(x, x, x, need_weights=True, average_attn_weights=False)
        out, _ = self.cross(mixed, memory, memory, need_weights=False)
        return out, weights
