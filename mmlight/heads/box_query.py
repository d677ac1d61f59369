"""A detection head of the DETR family: queries that each find one object or none.

Shapes as in `mmlight.batch`: B samples, G boxes; A positions of all levels, Q queries, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers import RTDetrConfig
from transformers.models.rt_detr.modeling_rt_detr import (
    RTDetrDecoder,
    RTDetrHybridEncoder,
    RTDetrMLPPredictionHead,
)

from mmlight.batch import Boxes
from mmlight.errors import UserError
from mmlight.heads.box_head import BoxHead
from mmlight.heads.feature_pyramid import FeaturePyramid, erase_padding
from mmlight.heads.rt_detr_parts import (
    Layer,
    MaskedAttention,
    Noised,
    anchors,
    initialise,
    make_copies,
    start_boxes,
    start_classes,
)


@dataclass(frozen=True)
class QueryOutputs:
    """Predictions of the queries.

    Attributes:
        layers: of the selection of queries, then of every decoder layer; the last one counts.
        noised: of noised copies of the objects, in training.
        canvas: height and width of the padded images in pixels.
    """

    layers: list[Layer]
    noised: Noised | None
    canvas: tuple[int, int]


class BoxQuery(BoxHead):
    """RT-DETR's encoder and decoder (arXiv 2304.08069), out of transformers, on the shared tower.

    Where it departs from transformers': padding is erased, not attended to and not proposed; and
    layers start as torch starts them (transformers starts norms near zero, in view of checkpoints).
    Modules have the names of ``RTDetrModel``.

    Args:
        dim: width of maps and queries, a multiple of 4 and of `num_heads`.
        strides: strides of the maps that are attended to, in pixels.
        num_queries: queries Q, more than there are objects in an image.
        num_layers: decoder layers.
        num_heads: attention heads.
        ffn_dim: hidden width of the feed-forward layers.
        num_denoising: noised copies of objects per image in training; 0 has none.
        dropout: dropout of encoder and decoder.
    """

    kind = "query"
    needs_nms = False

    def __init__(
        self,
        *,
        dim: int = 256,
        strides: tuple[int, ...] = (8, 16, 32),
        num_queries: int = 300,
        num_layers: int = 6,
        num_heads: int = 8,
        ffn_dim: int = 1024,
        num_denoising: int = 100,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % 4 or dim % num_heads:
            raise UserError(
                f"model.head dim must be a multiple of 4 and of num_heads ({num_heads}), not {dim}"
            )
        if min(num_queries, num_layers, ffn_dim) < 1 or num_denoising < 0:
            raise UserError(
                "model.head num_queries, num_layers and ffn_dim must be 1 or more, num_denoising 0 "
                f"or more, not {num_queries}, {num_layers}, {ffn_dim} and {num_denoising}"
            )
        if not 0 <= dropout < 1:
            raise UserError(f"model.head dropout must be in [0, 1), not {dropout}")
        if len(strides) < 2:
            raise UserError(f"model.head strides must be two or more, not {list(strides)}")
        self.strides = tuple(strides)
        self.num_queries = num_queries
        self.num_denoising = num_denoising
        count = len(strides)
        self._config_args: dict[str, Any] = {
            "d_model": dim,
            "encoder_hidden_dim": dim,
            "encoder_in_channels": [dim] * count,
            "decoder_in_channels": [dim] * count,
            "feat_strides": list(strides),
            "num_feature_levels": count,
            "encode_proj_layers": [count - 1],
            "num_queries": num_queries,
            "decoder_layers": num_layers,
            "encoder_attention_heads": num_heads,
            "decoder_attention_heads": num_heads,
            "encoder_ffn_dim": ffn_dim,
            "decoder_ffn_dim": ffn_dim,
            "num_denoising": num_denoising,
            "dropout": dropout,
            "attention_dropout": dropout,
        }
        self.dim = dim

    def build(self, *, in_dims: Sequence[int], in_strides: Sequence[int], num_classes: int) -> None:
        """Create projections, encoder, query selection and decoder."""
        dim = self.dim
        config: Any = RTDetrConfig(**self._config_args)
        self.uses = self.strides
        if len(in_dims) == 1:
            self.pyramid: FeaturePyramid | None = FeaturePyramid(
                in_dims, in_strides=in_strides, strides=self.strides, dim=dim
            )
            self.uses = self.pyramid.uses
            in_dims, in_strides = [dim] * len(self.strides), self.strides
        else:
            self.pyramid = None
        missing = [stride for stride in self.strides if stride not in in_strides]
        if missing:
            raise UserError(
                f"model.head strides {list(self.strides)}: the tower has maps of strides "
                f"{list(in_strides)}, none of {missing[0]}"
            )
        self.encoder_input_proj = nn.ModuleList(
            _projection(in_dims[list(in_strides).index(stride)], dim) for stride in self.strides
        )
        self.encoder = RTDetrHybridEncoder(config)
        self.encoder.aifi = nn.ModuleList([MaskedAttention(config)])
        self.decoder_input_proj = nn.ModuleList(_projection(dim, dim) for _ in self.strides)
        self.enc_output = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.enc_score_head = nn.Linear(dim, num_classes)
        self.enc_bbox_head = RTDetrMLPPredictionHead(dim, dim, 4, num_layers=3)
        layers = range(config.decoder_layers)
        classes = [nn.Linear(dim, num_classes) for _ in layers]
        boxes = [RTDetrMLPPredictionHead(dim, dim, 4, num_layers=3) for _ in layers]
        self.decoder = cast(Any, RTDetrDecoder(config))
        self.decoder.class_embed = nn.ModuleList(classes)
        self.decoder.bbox_embed = nn.ModuleList(boxes)
        initialise(self, decoder=self.decoder)
        start_classes(self.enc_score_head, *classes)
        start_boxes(self.enc_bbox_head, *boxes)
        if self.num_denoising:
            self.denoising_class_embed = nn.Embedding(num_classes + 1, dim, padding_idx=num_classes)

    def forward(
        self,
        maps: Sequence[Tensor],
        *,
        area_B2: Tensor,
        canvas: tuple[int, int],
        boxes: Boxes | None,
    ) -> QueryOutputs:
        """Return the predictions; in training, `boxes` are also denoised."""
        levels = self._levels(maps, area_B2)
        clean, masks = erase_padding(levels, area_B2, self.strides)
        attended_B11L = masks[-1].flatten(1)[:, None, None]
        encoded = self.encoder(inputs_embeds=clean, attended_B11L=attended_B11L).last_hidden_state
        projected = [
            _gradient_in_order(layer(part))
            for layer, part in zip(self.decoder_input_proj, encoded, strict=True)
        ]
        sizes = [(int(part.shape[2]), int(part.shape[3])) for part in projected]
        real_BA = torch.cat([mask.flatten(1) for mask in masks], 1)
        memory_BAD = torch.cat([part.flatten(2).transpose(1, 2) for part in projected], 1)
        memory_BAD = memory_BAD.masked_fill(~real_BA[..., None], 0)

        selected = self._select(memory_BAD, real_BA, sizes)
        query_BQD, reference_BQ4 = selected.query_BQD, selected.reference_BQ4
        copies = None
        if self.training and boxes is not None and self.num_denoising:
            copies = make_copies(
                boxes,
                canvas=canvas,
                embed=self.denoising_class_embed,
                num_copies=self.num_denoising,
                num_queries=query_BQD.shape[1],
            )
        if copies is not None:
            query_BQD = torch.cat([copies.query_BND, query_BQD], 1)
            reference_BQ4 = torch.cat([copies.reference_BN4, reference_BQ4], 1)
        sizes_S2 = torch.tensor(sizes, device=memory_BAD.device)
        starts_S = torch.cat([sizes_S2.new_zeros(1), sizes_S2.prod(1).cumsum(0)[:-1]])
        decoded = self.decoder(
            inputs_embeds=query_BQD,
            encoder_hidden_states=memory_BAD,
            encoder_attention_mask=copies.attention_QQ if copies is not None else None,
            reference_points=reference_BQ4.detach(),
            spatial_shapes=sizes_S2,
            spatial_shapes_list=sizes,
            level_start_index=starts_S,
        )
        logits, points = decoded.intermediate_logits, decoded.intermediate_reference_points
        both = list(zip(logits.unbind(1), points.unbind(1), strict=True))
        if copies is None:
            return QueryOutputs([selected.layer, *both], None, canvas)
        count = copies.query_BND.shape[1]
        return QueryOutputs(
            layers=[selected.layer, *((logit[:, count:], box[:, count:]) for logit, box in both)],
            noised=Noised(
                layers=[(logit[:, :count], box[:, :count]) for logit, box in both],
                pairs=copies.pairs,
                num_groups=copies.num_groups,
            ),
            canvas=canvas,
        )

    def scored_boxes(self, outputs: QueryOutputs) -> tuple[Tensor, Tensor]:
        """Return the boxes of the last layer's queries."""
        logit_BQK, box_BQ4 = outputs.layers[-1]
        score_BQK = logit_BQK.float().sigmoid()
        height, width = outputs.canvas
        scale_4 = score_BQK.new_tensor([width, height, width, height])
        return box_convert(box_BQ4.float(), "cxcywh", "xyxy") * scale_4, score_BQK

    def _levels(self, maps: Sequence[Tensor], area_B2: Tensor) -> list[Tensor]:
        if self.pyramid is not None:
            chosen = self.pyramid(maps, area_B2)
        else:
            chosen, _ = erase_padding(maps, area_B2, self.uses)
        for fine, coarse in pairwise(chosen):
            if fine.shape[2:] != torch.Size(2 * side for side in coarse.shape[2:]):
                raise UserError(
                    "model.head: the maps do not halve from one stride to the next; make the sides "
                    f"of the images whole multiples of {self.strides[-1]}"
                )
        return [
            _gradient_in_order(layer(part))
            for layer, part in zip(self.encoder_input_proj, chosen, strict=True)
        ]

    def _select(
        self, memory_BAD: Tensor, real_BA: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> "_Selected":
        """Take the positions whose own class scores are highest as queries."""
        anchor_A4, inside_A = anchors(sizes, device=memory_BAD.device)
        usable_BA = real_BA & inside_A
        output_BAD = self.enc_output(memory_BAD.masked_fill(~usable_BA[..., None], 0))
        logit_BAK = self.enc_score_head(output_BAD)
        score_BA = logit_BAK.max(-1).values.masked_fill(~usable_BA, -torch.inf)
        place_BQ = score_BA.topk(min(self.num_queries, score_BA.shape[1]), dim=1).indices

        def chosen(values_BAx: Tensor) -> Tensor:
            places = place_BQ[..., None].expand(-1, -1, values_BAx.shape[-1])
            return values_BAx.gather(1, places)

        reference_BQ4 = self.enc_bbox_head(chosen(output_BAD)) + chosen(
            torch.logit(anchor_A4).expand(memory_BAD.shape[0], -1, -1)
        )
        return _Selected(
            query_BQD=chosen(output_BAD).detach(),
            reference_BQ4=reference_BQ4,
            layer=(chosen(logit_BAK), reference_BQ4.sigmoid()),
        )


def _gradient_in_order(map_BDHW: Tensor) -> Tensor:
    """Have the gradient arrive without gaps at the batch norm that a map comes from.

    With a single image, torch's batch norm on a CPU (2.11) gives wrong gradients for one that was
    transposed on its way, as that of flattened positions is.
    """
    if map_BDHW.requires_grad:
        map_BDHW.register_hook(torch.Tensor.contiguous)
    return map_BDHW


@dataclass(frozen=True)
class _Selected:
    query_BQD: Tensor
    reference_BQ4: Tensor  # before the sigmoid
    layer: Layer


def _projection(in_dim: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_dim, dim, 1, bias=False), nn.BatchNorm2d(dim))
