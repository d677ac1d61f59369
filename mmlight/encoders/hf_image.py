"""Image encoders of transformers: ViT, DeiT, DINOv2, Swin, CLIP's and SigLIP's vision towers.

Shapes as in `mmlight.batch`: B samples, C channels, L patches, D feature width.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModel,
    CLIPVisionModel,
    Siglip2VisionModel,
    SiglipVisionModel,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from mmlight.batch import Images
from mmlight.encoders.encoder import Encoded
from mmlight.encoders.hf_layers import HfLayers
from mmlight.encoders.hf_model import SAID, build_model, plain_config, read_source
from mmlight.encoders.pixels import PixelEncoder, PretrainedInputs
from mmlight.errors import UserError
from mmlight.published.hf.image_processor import geometry, normalisation

HfImagePool = Literal["model", "mean"]

# Tokens before the patches. Of each of these models a loaded checkpoint is tested.
_PREFIX = {
    "vit": 1,
    "deit": 2,
    "dinov2": 1,
    "clip_vision_model": 1,
    "siglip_vision_model": 0,
    "siglip2_vision_model": 0,
    "swin": 0,
}
_WHOLE = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel, "siglip2": Siglip2VisionModel}
_CLASSES = {f"{name}_vision_model": made for name, made in _WHOLE.items()}
IMAGE_TYPES = (*_WHOLE, *_PREFIX)
# Whose own pooling is not a token's, and what of it takes no part in the mean of the patches.
_HEADS = {
    "clip_vision_model": "post_layernorm",
    "siglip_vision_model": "head",
    "siglip2_vision_model": "head",
}
# These resize their position embeddings to any image by themselves.
_ANY_SIZE = ("dinov2", "swin", "siglip2_vision_model")


class HfImage(PixelEncoder, HfLayers):
    """An image model of transformers, with the normalisation of its own image processor.

    Args:
        config: start from random weights: a dict with ``model_type`` (``vit``, ``deit``,
            ``dinov2``, ``swin``, ``clip_vision_model``, ``siglip_vision_model`` or
            ``siglip2_vision_model``, SigLIP 2's NaFlex) and sizes, or a folder with a
            ``config.json``.
        pretrained: start from a checkpoint instead: a local folder or a hub id; a whole CLIP
            or SigLIP model gives its vision tower. Set exactly one of the two.
        pool: the ``model``'s own (its class token, SigLIP's attention, Swin's mean), or the
            ``mean`` of its patches.
        kwargs: fields of the config to change, such as dropout rates.
        mean: mean of each channel, of pixels between 0 and 1; by default that of the
            checkpoint's image processor, and 0.5 for random weights.
        std: standard deviation of each channel; by default likewise.

    Raises:
        UserError: no or two sources, a model that is not listed, unknown fields, a checkpoint
            that does not fit.
    """

    def __init__(
        self,
        *,
        config: dict[str, Any] | str | None = None,
        pretrained: str | None = None,
        pool: HfImagePool = "model",
        kwargs: dict[str, Any] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__()
        if pool not in get_args(HfImagePool):
            raise UserError(f"pool: '{pool}'; use {', '.join(get_args(HfImagePool))}")
        whole, key = read_source(config, pretrained, changes=kwargs)
        built = whole
        if built.model_type in _WHOLE:
            built = built.vision_config
        self.kind = built.model_type
        if self.kind not in _PREFIX:
            raise UserError(
                f"{key}: '{self.kind}' is no image encoder that mmlight knows; use one of "
                + ", ".join((*_WHOLE, *_PREFIX))
            )
        model_class = _CLASSES.get(self.kind, AutoModel)
        self.model, self.origin = build_model(model_class, built, pretrained=pretrained, key=key)
        self.is_pretrained = pretrained is not None
        self.vision_pool = pool
        self.out_dim = int(built.hidden_size)
        self.in_chans = int(built.num_channels)
        self._patch = int(built.patch_size) if self.kind == "siglip2_vision_model" else None
        side = self._patch * math.isqrt(built.num_patches) if self._patch else built.image_size
        self._side = None if self.kind in _ANY_SIZE else int(side)
        self._leave_out_unused()
        half = (0.5,) * self.in_chans
        inputs = PretrainedInputs(half, half, {"size": int(side)})
        if pretrained is not None:
            inputs = _read_inputs(pretrained, whole, key=key)
        self.set_inputs(inputs, mean=mean, std=std)

    def _leave_out_unused(self) -> None:
        """Keep what takes no part in a step from waiting for gradients, which stops DDP."""
        names = ["mask_token"]
        if self.vision_pool == "mean" and self.kind in _HEADS:
            names.append(_HEADS[self.kind])
        for name, parameter in self.model.named_parameters():
            if any(part in names for part in name.split(".")):
                parameter.requires_grad_(False)

    def forward(self, inputs: Images, *, tokens: bool = False) -> Encoded:
        """Encode images; tokens are the patches.

        Args:
            inputs: uint8 pixels (B, C, H, W), normalised here, on their device.
            tokens: also return the last hidden states of the patches.

        Raises:
            UserError: images of another size or number of channels than the model's.
        """
        normal_BCHW = self.observed(self._normalise(inputs.pixels_BCHW), axes=(2, 3))
        output = self._run(normal_BCHW)
        hidden_BLD = output.last_hidden_state
        patches_BLD = hidden_BLD[:, _PREFIX[self.kind] :]
        pooled_BD = patches_BLD.mean(1)
        if self.vision_pool == "model" and self.kind in _HEADS:
            pooled_BD = output.pooler_output
        elif self.vision_pool == "model" and _PREFIX[self.kind]:
            pooled_BD = hidden_BLD[:, 0]
        if not tokens:
            return Encoded(pooled_BD)
        return Encoded(pooled_BD, patches_BLD, patches_BLD.new_ones(patches_BLD.shape[:2]).bool())

    def _run(self, normal_BCHW: Tensor) -> Any:
        if self._patch is None:
            return self.model(pixel_values=normal_BCHW)
        # NaFlex's input: patches in rows, and how many of them lie above and beside one another.
        # All images of a batch have one size: nothing is padded, and the position embeddings are
        # resized once.
        batch, channels, height, width = normal_BCHW.shape
        rows, columns = height // self._patch, width // self._patch
        patches = normal_BCHW.reshape(batch, channels, rows, self._patch, columns, self._patch)
        return self.model(
            pixel_values=patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2),
            pixel_attention_mask=None,
            spatial_shapes=torch.tensor([[rows, columns]]),
        )

    def _position_grids(self) -> dict[str, tuple[int, int]]:
        patch = getattr(self.model.config, "patch_size", None)
        if self._side is None or not isinstance(patch, int):
            return {}
        grid = (self._side // patch,) * 2
        ends = ("embeddings.position_embedding.weight", "embeddings.position_embeddings")
        return {name: grid for name in self.state_dict() if name.endswith(ends)}

    def _check_size(self, size: tuple[int, int]) -> None:
        if self._side is not None and size != (self._side, self._side):
            raise UserError(
                f"the image encoder takes {self._side} x {self._side} pixels, but the images are "
                f"{size[0]} x {size[1]}; leave data.image.size out, or set it to {self._side}"
            )
        if self._patch is not None and (size[0] % self._patch or size[1] % self._patch):
            raise UserError(
                f"the image encoder takes multiples of {self._patch} pixels, but the images are "
                f"{size[0]} x {size[1]}; leave data.image.size out, or set it to such a number"
            )

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture without any checkpoint."""
        return {
            "config": plain_config(self.model),
            "pool": self.vision_pool,
            "mean": self._mean,
            "std": self._std,
        }


def _read_inputs(checkpoint: str, config: Any, *, key: str) -> PretrainedInputs:
    """Return what a checkpoint's image processor does; without one, what transformers has."""
    folder = Path(checkpoint).expanduser()
    there = not folder.is_dir() or any((folder / name).is_file() for name in SAID)
    try:
        if there:
            processor = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=False)
        else:
            processor = _default_class(config)()
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise UserError(f"{key}: no image processor at '{checkpoint}': {said}") from error
    settings = processor.to_dict()
    mean, std = normalisation(settings)
    return PretrainedInputs(mean, std, geometry(settings, key=key))


def _default_class(config: Any) -> Any:
    found = IMAGE_PROCESSOR_MAPPING[type(config)]
    return found["torchvision"] if isinstance(found, dict) else found[-1]
