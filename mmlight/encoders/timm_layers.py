"""What the encoders around a model of timm have in common: its layers, tokens and maps."""

from abc import ABC
from contextlib import AbstractContextManager
from typing import Any, Literal

from torch import Tensor

from mmlight.encoders.attention import timm_attention
from mmlight.encoders.canvas import Canvas, TokenGrid
from mmlight.encoders.depth import cut_into_blocks
from mmlight.encoders.encoder import Block, Encoder, MapSpec
from mmlight.encoders.timm_import import group_parameters
from mmlight.encoders.timm_model import load_weights, timm_origin
from mmlight.errors import UserError

_FINEST = 4


class TimmLayers(Encoder, ABC):
    """An encoder around a `model` of timm, maybe with a learned `pool` behind it."""

    outside = ("pretrained", "weights")
    model: Any

    def load(self, *, pretrained: bool, weights: str | None) -> None:
        """Take the weights of a file, if there is one, and say where they are from."""
        if weights:
            self.origin = load_weights(self.model, weights)
        elif pretrained:
            self.origin = timm_origin(self.model)
        self.is_pretrained = pretrained or weights is not None
        self.out_dim = int(getattr(self.model, "head_hidden_size", self.model.num_features))

    def blocks(self) -> list[Block]:
        """Return stem, layers and head as timm groups them, and the pooling."""
        groups = group_parameters(self.model, self.model.group_matcher(coarse=False))
        named = [[f"model.{name}" for name in groups[depth]] for depth in sorted(groups)]
        if self.learned_pooling is not None:
            named.append([f"pool.{name}" for name, _ in self.learned_pooling.named_parameters()])
        return cut_into_blocks(self, named)

    def no_weight_decay(self) -> set[str]:
        """Return what timm's own recipes exclude (position embeddings, ...), and a query."""
        has_list = hasattr(self.model, "no_weight_decay")
        listed = self.model.no_weight_decay() if has_list else set()
        query = {"pool.query_D"} if self.learned_pooling is not None else set()
        return query | {
            f"model.{name}"
            for name, _ in self.model.named_parameters()
            if any(name == entry or name.endswith(f".{entry}") for entry in listed)
        }

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute blocks in backward.

        Raises:
            UserError: a model that cannot.
        """
        try:
            self.model.set_grad_checkpointing(enabled)
        except (AssertionError, AttributeError) as error:
            raise UserError(
                f"checkpointing: timm's {self.network_name} cannot recompute activations; "
                "turn it off for this tower"
            ) from error

    def token_grid(self, canvas: Canvas) -> TokenGrid | None:
        """Return the grid of a vision transformer's patches."""
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        # A Swin's windows have a grid too, but no sequence of tokens.
        if grid is None or not hasattr(self.model, "num_prefix_tokens"):
            return None
        return TokenGrid(int(self.model.num_prefix_tokens), int(grid[0]), int(grid[1]))

    @property
    def map_layout(self) -> Literal["NCHW", "NHWC"]:
        """How a CNN's or Swin's maps are laid out."""
        return "NHWC" if getattr(self.model, "output_fmt", "NCHW") == "NHWC" else "NCHW"

    def explicit_attention(self) -> AbstractContextManager[list[Tensor]]:
        """Return the attention of a plain vision transformer."""
        return timm_attention(self.model)

    def to_tokens(self, features: Tensor) -> Tensor:
        """Flatten unpooled features to (B, L, D), rows of the map one after another."""
        if features.ndim == 3:
            return features[:, getattr(self.model, "num_prefix_tokens", 0) :]
        if self.map_layout == "NHWC":
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)


def fixed_size(model: Any) -> tuple[int, int] | None:
    """Return the height and width that a model insists on, or None if it takes any."""
    embed = getattr(model, "patch_embed", None)
    size = getattr(embed, "img_size", None)
    if size is None or not getattr(embed, "strict_img_size", True):
        return None
    height, width = size
    return int(height), int(width)


def timm_map_specs(model: Any) -> dict[int, MapSpec]:
    """Return the maps that a timm model has to offer, by their index in its ``feature_info``.

    Of a CNN or another model in stages, the last map of each stride from 4 on; of a plain ViT,
    whose maps have all one stride, its last one.

    Args:
        model: a timm model.

    Raises:
        UserError: the model cannot return its intermediate maps.
    """
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        raise UserError(
            f"name: timm's {type(model).__name__} has no intermediate feature maps; choose a "
            "model with forward_intermediates, such as a ResNet, ConvNeXt, Swin or ViT"
        )
    last: dict[int, int] = {}
    entries = [info[number] for number in range(len(info))]
    for number, entry in enumerate(entries):
        if int(entry["reduction"]) >= _FINEST:
            last[int(entry["reduction"])] = number
    return {
        number: MapSpec(channels=int(entries[number]["num_chs"]), stride=stride)
        for stride, number in sorted(last.items())
    }


def timm_feature_maps(model: Any, normal_BCHW: Tensor, wanted: list[int]) -> list[Tensor]:
    """Run a timm model and return its maps, finest first.

    Args:
        model: a timm model.
        normal_BCHW: normalised pixels.
        wanted: indices of `timm_map_specs`; what comes after the last of them isn't computed.
    """
    # A ViT's last map is normalised as its tokens are; other models know no such norm.
    norm = {"norm": True} if len(wanted) == 1 and hasattr(model, "num_prefix_tokens") else {}
    maps: list[Tensor] = model.forward_intermediates(
        normal_BCHW,
        indices=wanted,
        stop_early=True,
        intermediates_only=True,
        output_fmt="NCHW",
        **norm,
    )
    return maps
