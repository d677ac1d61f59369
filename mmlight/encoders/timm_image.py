"""Image encoders of timm."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from mmlight.batch import Images
from mmlight.encoders.encoder import Encoded, MapSpec
from mmlight.encoders.pixels import PixelEncoder, PretrainedInputs
from mmlight.encoders.pool import on_first
from mmlight.encoders.timm_import import ResNet
from mmlight.encoders.timm_inputs import timm_inputs
from mmlight.encoders.timm_layers import (
    TimmLayers,
    fixed_size,
    timm_feature_maps,
    timm_map_specs,
)
from mmlight.encoders.timm_model import create_timm, registered
from mmlight.errors import UserError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class TimmImage(PixelEncoder, TimmLayers):
    """Any image model of timm, without its classifier.

    Args:
        name: a model of timm, such as ``vit_base_patch32_clip_224`` or ``resnet50.a1_in1k``.
        pretrained: start from the weights that timm has for this name; needs a network or a
            filled cache.
        weights: start from a local file instead (safetensors or a state dict of the same
            model); position embeddings are resized to `img_size`. How its images were prepared is
            read from a ``config.json`` beside it, else taken from what timm has for this name.
        img_size: height and width of the images in pixels; by default what the model was made
            for. Models that take any size check it only.
        in_chans: number of image channels.
        stem: ``small`` replaces a ResNet's first convolution by one of 3 x 3 at stride 1, and
            its pooling by nothing, as ResNets for CIFAR have it (arXiv 1512.03385, section 4.2):
            images below 64 px would keep only a few positions.
        pool: timm's ``global_pool`` (``avg``, ``max``, ``token``, ``map``, ...); by default
            the model's own.
        mean: mean of each channel, of pixels between 0 and 1; by default that of the
            pretrained weights, and for random ones that of CLIP for three channels, otherwise 0.5.
        std: standard deviation of each channel; by default likewise.
        patch_drop_rate: share of patches left out in training (FLIP, arXiv 2212.00794); only
            for models that have patches.
        drop_path_rate: largest rate of stochastic depth; by default the model's own.
        kwargs: further arguments of the timm model, such as ``depth`` or ``act_layer``.

    Attributes:
        token_dim: width of the tokens, which for a few CNNs is not `out_dim`.

    Raises:
        UserError: unknown model, arguments that it does not take, or weights that do not fit.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        img_size: int | None = None,
        in_chans: int = 3,
        stem: Literal["model", "small"] = "model",
        pool: str | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        patch_drop_rate: float = 0.0,
        drop_path_rate: float | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        options = {
            "img_size": img_size,
            "in_chans": in_chans,
            "global_pool": pool,
            "patch_drop_rate": patch_drop_rate or None,
            "drop_path_rate": drop_path_rate,
        }
        twice = sorted(options.keys() & (kwargs or {}).keys())
        if twice:
            raise UserError(f"kwargs: '{twice[0]}' has a setting of its own; use that")
        self.model = create_timm(
            name, pretrained=pretrained, weights=weights, options=options | (kwargs or {})
        )
        if stem == "small":
            if pretrained:
                raise UserError("stem: small replaces layers that pretrained would load")
            make_small_stem(self.model, name=name)
        self.load(pretrained=pretrained, weights=weights)
        self.img_size = (img_size, img_size) if img_size else fixed_size(self.model)
        self.in_chans = in_chans
        self._side = self.img_size[0] if self.img_size else None
        self._channels_last = not hasattr(self.model, "patch_embed")
        self.token_dim = int(self.model.num_features)
        default = (CLIP_MEAN, CLIP_STD) if in_chans == 3 else ((0.5,) * in_chans,) * 2
        inputs = PretrainedInputs(*default, {})
        if self.is_pretrained:
            inputs = timm_inputs(self.model, weights=weights, in_chans=in_chans)
            self._note_own(inputs, mean=mean, std=std)
        self.set_inputs(inputs, mean=mean, std=std)
        self._init_args = registered(name, kwargs) | {
            "img_size": img_size,
            "in_chans": in_chans,
            "stem": stem,
            "pool": pool,
            "patch_drop_rate": patch_drop_rate,
            "drop_path_rate": drop_path_rate,
        }

    def _note_own(self, inputs: PretrainedInputs, **given: list[float] | None) -> None:
        """Say where a user's normalisation is not that of the weights."""
        for key, theirs in (("mean", inputs.mean), ("std", inputs.std)):
            own = given[key]
            if own is not None and [round(v, 3) for v in own] != [round(v, 3) for v in theirs]:
                shown = ", ".join(f"{value:g}" for value in theirs)
                self.origin = f"{self.origin}; {key} is set, the weights' own is [{shown}]"

    def forward(self, inputs: Images, *, tokens: bool = False) -> Encoded:
        """Encode images; tokens are a ViT's patches or the positions of a CNN's last map.

        Args:
            inputs: uint8 pixels (B, C, H, W), normalised here, on their device.
            tokens: also return the tokens (all of them real, fewer under patch dropout).

        Raises:
            UserError: images of another size or number of channels than the model's.
        """
        normal_BCHW = self.observed(self._normalise(inputs.pixels_BCHW), axes=(2, 3))
        features = self.model.forward_features(normal_BCHW)
        pooled_BD = self.model.forward_head(features, pre_logits=True)
        if pooled_BD.ndim != 2:
            raise UserError(
                f"pool: {self._init_args['pool']!r} leaves features of shape "
                f"{tuple(pooled_BD.shape)} unpooled; use avg, max or what the model has"
            )
        if not tokens:
            return Encoded(pooled_BD)
        tokens_BLD = self.to_tokens(features)
        return Encoded(pooled_BD, tokens_BLD, tokens_BLD.new_ones(tokens_BLD.shape[:2]).bool())

    def map_specs(self) -> list[MapSpec]:
        """Return what the maps of `feature_maps` look like, finest first.

        Raises:
            UserError: the model has none, or leaves patches out.
        """
        if self._init_args["patch_drop_rate"]:
            raise UserError("patch_drop_rate: feature maps need every patch; set it to 0")
        return list(timm_map_specs(self.model).values())

    def feature_maps(self, inputs: Images, *, strides: Sequence[int] | None = None) -> list[Tensor]:
        """Return maps at several strides (one for a plain ViT), finest first.

        Args:
            inputs: uint8 pixels (B, C, H, W); H and W multiples of the coarsest stride. A ViT takes
                other sizes than its own with ``kwargs: {dynamic_img_size: true}``.
            strides: those wanted, out of `map_specs`; None means all.

        Raises:
            UserError: images of another size or number of channels than the model's.
        """
        specs = timm_map_specs(self.model)
        wanted = [n for n, spec in specs.items() if strides is None or spec.stride in strides]
        return timm_feature_maps(self.model, self._normalise(inputs.pixels_BCHW), wanted)

    def _position_grids(self) -> dict[str, tuple[int, int]]:
        grid = getattr(getattr(self.model, "patch_embed", None), "grid_size", None)
        return {"model.pos_embed": (int(grid[0]), int(grid[1]))} if grid is not None else {}

    def _check_size(self, size: tuple[int, int]) -> None:
        if self.img_size and size != self.img_size:
            may_differ = hasattr(getattr(self.model, "patch_embed", None), "strict_img_size")
            remedy = " (or leave img_size out and set kwargs: {dynamic_img_size: true})"
            raise UserError(
                f"img_size: the encoder takes {self.img_size[0]} x {self.img_size[1]} pixels, "
                f"but the images are {size[0]} x {size[1]}; make the two equal"
                f"{remedy if may_differ else ''}"
            )

    def pooling_weights(self, mask_BL: Tensor) -> Tensor:
        """Return all of the class token where it is what is pooled."""
        if self.model.global_pool != "token":
            return super().pooling_weights(mask_BL)
        return on_first(mask_BL)

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture without any weights file."""
        return self._init_args | {"mean": self._mean, "std": self._std}


def make_small_stem(model: Any, *, name: str) -> None:
    """Give a ResNet a first layer for small images (see `TimmImage`).

    Raises:
        UserError: the model is none of timm's ResNets.
    """
    first = getattr(model, "conv1", None)
    if not isinstance(model, ResNet) or first is None:
        raise UserError(f"stem: small is for timm's ResNets, not for {name}")
    if isinstance(first, nn.Sequential):
        raise UserError(
            "stem: small replaces one convolution, but this model has three there; set "
            "kwargs: {stem_type: ''}"
        )
    small = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")
    changed: Any = model
    changed.conv1, changed.maxpool = small, nn.Identity()
    for level in changed.feature_info:  # what a feature map's pixel covers
        level["reduction"] = max(1, level["reduction"] // 4)
