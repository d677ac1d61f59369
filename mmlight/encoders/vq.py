"""A convolutional VQ-VAE over pictures or spectrograms (arXiv 1711.00937).

Shapes as in `mmlight.batch`: B samples, C channels, H and W places, h x w = L codes, D features.
"""

from abc import ABC
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmlight.encoders.codebook import Codebook
from mmlight.encoders.codes import Rebuilt, TrainedCodes
from mmlight.encoders.depth import cut_into_blocks
from mmlight.encoders.encoder import Block
from mmlight.errors import UserError


class _Residual(nn.Module):
    """A convolution of 3 x 3 and one of 1 x 1, added to what comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.narrow = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.narrow(torch.relu(self.wide(torch.relu(maps_BCHW))))
        return maps_BCHW + out_BCHW


class VqNet(TrainedCodes, ABC):
    """The network of a tokenizer: halved often enough, residual layers, the codebook, and back.

    Args:
        in_chans: channels C of what is encoded.
        stride: places of the input per code, each way; a power of two.
        grid: h and w.
        num_codes: K.
        code_dim: width D of a code's vector.
        channels: of the finest maps; those of the grid have twice as many.
        num_layers: residual layers before the codes, and as many behind.
        decay: see `mmlight.encoders.codebook.Codebook`.
    """

    def __init__(
        self,
        *,
        in_chans: int,
        stride: int,
        grid: tuple[int, int],
        num_codes: int,
        code_dim: int,
        channels: int,
        num_layers: int,
        decay: float,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("num_codes", num_codes, 2),
            ("code_dim", code_dim, 1),
            ("channels", channels, 1),
            ("num_layers", num_layers, 0),
        ):
            if value < least:
                raise UserError(f"{name}: {value} must be {least} or more")
        halvings = stride.bit_length() - 1
        if stride != 1 << halvings or stride < 2:
            raise UserError(f"each code stands for {stride} places; 2, 4, 8 or 16 work")
        self.num_codes, self.grid, self.in_chans = num_codes, grid, in_chans
        self.out_dim = self.token_dim = code_dim
        self.stride = stride
        widths = [channels] * (halvings - 1) + [2 * channels]
        down: list[nn.Module] = []
        for before, after in zip([in_chans, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
        wide = widths[-1]
        self.down = nn.Sequential(*down[:-1])
        self.layers = nn.ModuleList(_Residual(wide) for _ in range(num_layers))
        self.to_code = nn.Conv2d(wide, code_dim, 1)
        self.codebook = Codebook(num_codes, code_dim, decay=decay)
        self.from_code = nn.Conv2d(code_dim, wide, 3, padding=1)
        self.back_layers = nn.ModuleList(_Residual(wide) for _ in range(num_layers))
        up: list[nn.Module] = []
        for before, after in zip(widths[::-1], [*widths[-2::-1], in_chans], strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1)]
        self.up = nn.Sequential(*up)
        self._recompute = False

    def codes(self, inputs: Any) -> Tensor:
        """Return the codes of `Images` or `Audio`, int64 (B, L)."""
        return self._look_up(self._vectors(inputs))

    def vectors(self, codes_BL: Tensor) -> Tensor:
        """Return the vectors of codes (B, L, D)."""
        return self.codebook.vectors(codes_BL)

    def decode(self, codes_BL: Tensor) -> Tensor:
        """Return what codes stand for (B, C, H, W)."""
        return self._decode_grid(codes_BL.unflatten(1, self.grid))

    def rebuild(self, inputs: Any) -> Rebuilt:
        """Return what comes back; in training the codebook moves, so that every rank calls it."""
        vector_BDHW = self._vectors(inputs)
        flat_MD = vector_BDHW.movedim(1, -1).flatten(0, -2)
        if self.training:
            self.codebook.learn(flat_MD)
        codes_BL = self._look_up(vector_BDHW)
        near_BDHW = self._maps(codes_BL.unflatten(1, self.grid)).to(vector_BDHW.dtype)
        commitment_B = (vector_BDHW - near_BDHW).square().mean((1, 2, 3))
        # Gradients pass through the codes as if they were not there.
        passed_BDHW = vector_BDHW + (near_BDHW - vector_BDHW).detach()
        values_BCHW = self._back(passed_BDHW)
        if self.training:
            self.codebook.follow(flat_MD, codes_BL.flatten())
        return Rebuilt(values_BCHW, codes_BL, commitment_B)

    def patches(self) -> Tensor:
        """Return what each code looks like among its like (K, C, stride, stride)."""
        code_K = torch.arange(self.num_codes, device=self.codebook.code_KD.device)
        values_KCHW = self._decode_grid(code_K[:, None, None].expand(-1, 3, 3))
        middle = slice(self.stride, 2 * self.stride)
        return values_KCHW[:, :, middle, middle]

    def blocks(self) -> list[Block]:
        """Return the way down, each layer, and what stands behind the codes."""
        numbers = range(len(self.layers))
        parts: list[tuple[str, ...]] = [
            ("down.",),
            *((f"layers.{n}.",) for n in numbers),
            ("to_code.", "from_code."),
            *((f"back_layers.{n}.",) for n in numbers),
            ("up.",),
        ]
        names = [name for name, _ in self.named_parameters()]
        groups = [[name for name in names if name.startswith(part)] for part in parts]
        return cut_into_blocks(self, groups)

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the residual layers in backward."""
        self._recompute = enabled

    def _input(self, inputs: Any) -> Tensor:
        """Return what the network reads (B, C, H, W)."""
        raise NotImplementedError

    def _vectors(self, inputs: Any) -> Tensor:
        """Return the vectors that codes are found for (B, D, h, w)."""
        dtype = self.to_code.weight.dtype
        maps_BCHW = self._through(self.layers, self.down(self._input(inputs).to(dtype)))
        vector_BDHW: Tensor = self.to_code(torch.relu(maps_BCHW))
        return vector_BDHW

    def _look_up(self, vector_BDHW: Tensor) -> Tensor:
        flat_MD = vector_BDHW.movedim(1, -1).flatten(0, -2)
        return self.codebook.nearest(flat_MD).unflatten(0, (-1, self.num_tokens))

    def _maps(self, code_BHW: Tensor) -> Tensor:
        return self.codebook.vectors(code_BHW).movedim(-1, 1)

    def _decode_grid(self, code_BHW: Tensor) -> Tensor:
        return self._back(self._maps(code_BHW).to(self.from_code.weight.dtype))

    def _back(self, vector_BDHW: Tensor) -> Tensor:
        maps_BCHW = self._through(self.back_layers, self.from_code(vector_BDHW))
        values_BCHW: Tensor = self.up(maps_BCHW)
        return values_BCHW if values_BCHW.dtype == torch.float64 else values_BCHW.float()

    def _through(self, layers: nn.ModuleList, maps_BCHW: Tensor) -> Tensor:
        for layer in layers:
            if self._recompute and self.training:
                maps_BCHW = checkpoint(layer, maps_BCHW, use_reentrant=False)
            else:
                maps_BCHW = layer(maps_BCHW)
        return maps_BCHW
