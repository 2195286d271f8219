"""A text's states do not depend on what it is padded beside."""

from __future__ import annotations

import torch

from polytask.parts.bilstm import BiLSTM


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    layer = BiLSTM(3, 8)
    x = torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    states, (state, cell) = layer(x, mask)
    alone, (state_alone, cell_alone) = layer(x[1:, :3], mask[1:, :3])
    torch.testing.assert_close(states[1:, :3], alone)
    torch.testing.assert_close(state[1:], state_alone)
    torch.testing.assert_close(cell[1:], cell_alone)
    assert not states[1, 3:].any()


def test_the_last_states_are_the_ends_of_both_directions() -> None:
    torch.manual_seed(0)
    states, (state, _) = BiLSTM(3, 8)(torch.randn(2, 5, 3), torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(state, torch.cat([states[:, -1, :4], states[:, 0, 4:]], dim=1))
