"""Recurrent layers as a scan over time, which exports with any number of frames.

Shapes: B clips, L frames, D input width, H hidden width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmlight.trainer.internals import scan


class ScanGru(nn.Module):
    """What a one-layer `nn.GRU` computes from a zero state.

    `torch.export` unrolls an `nn.GRU` frame by frame, for the number of frames of the example.

    Args:
        gru: the layer to stand in for: batch first, one direction.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        own: Any = gru
        self.from_input = nn.Linear(gru.input_size, 3 * gru.hidden_size)
        self.from_state = nn.Linear(gru.hidden_size, 3 * gru.hidden_size)
        for layer, end in ((self.from_input, "ih_l0"), (self.from_state, "hh_l0")):
            layer.weight = getattr(own, f"weight_{end}")
            layer.bias = getattr(own, f"bias_{end}")
        self.hidden_size = gru.hidden_size

    def forward(self, frames_BLD: Tensor) -> tuple[Tensor, None]:
        """Return the states of all frames (B, L, H), and nothing for the last one."""
        weight, bias = self.from_state.weight, self.from_state.bias

        def step(state_BH: Tensor, input_B3H: Tensor) -> tuple[Tensor, Tensor]:
            reset_i, update_i, new_i = input_B3H.chunk(3, dim=1)
            gates_B3H = nn.functional.linear(state_BH, weight, bias)
            reset_h, update_h, new_h = gates_B3H.chunk(3, dim=1)
            reset_BH = torch.sigmoid(reset_i + reset_h)
            update_BH = torch.sigmoid(update_i + update_h)
            new_BH = torch.tanh(new_i + reset_BH * new_h)
            after_BH = new_BH + update_BH * (state_BH - new_BH)
            return after_BH, after_BH.clone()

        inputs_LB3H = self.from_input(frames_BLD).transpose(0, 1)
        start_BH = frames_BLD.new_zeros((frames_BLD.shape[0], self.hidden_size))
        _, states_LBH = scan(step, start_BH, inputs_LB3H)
        states_BLH: Tensor = states_LBH.transpose(0, 1)
        return states_BLH, None


def replace_recurrent(module: nn.Module) -> None:
    """Put a `ScanGru` in the place of each `nn.GRU` that it can stand in for."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GRU) and child.num_layers == 1 and child.batch_first:
                if not child.bidirectional and child.bias:
                    setattr(parent, name, ScanGru(child))
