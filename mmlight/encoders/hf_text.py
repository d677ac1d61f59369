"""Text encoders of transformers: BERT-like and causal ones.

Shapes as in `mmlight.batch`: N captions, L tokens, D feature width.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlight.batch import Text
from mmlight.encoders.canvas import Canvas, TokenGrid
from mmlight.encoders.encoder import Encoded
from mmlight.encoders.hf_layers import HfLayers
from mmlight.encoders.hf_model import (
    build_model,
    plain_config,
    read_source,
    text_class,
    tokenizer_folder,
)
from mmlight.encoders.packed_text import (
    PackedText,
    args_of_packed,
    is_fused,
    pack,
    to_device,
    use_packed_attention,
)
from mmlight.encoders.pool import AttentionPool, last_token, masked_mean, on_first
from mmlight.encoders.text_batching import (
    TextBatching,
    check_batching,
    choose_layout,
    exact_layouts,
    has_collective_forwards,
    is_traced,
)
from mmlight.encoders.text_rows import GroupPlan, RowPlan
from mmlight.errors import UserError

TextPool = Literal["model", "mean", "cls", "attention", "last"]

# Padding on the right is out of sight of a causal model, and without a mask its attention takes
# the faster kernel.
_CAUSAL = ("clip_text_model", "gpt2")
# They see padding, up to all of their positions, and pool the last of these.
_FIXED_LENGTH = ("siglip_text_model", "siglip2_text_model")
_HAS_POOLER = ("bert", "roberta", "xlm-roberta", "camembert", *_FIXED_LENGTH)
_WHOLE = ("clip", "siglip", "siglip2")
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text")


class HfText(HfLayers):
    """A text model of transformers, pooled over real tokens.

    Args:
        config: start from random weights: a dict with ``model_type`` (``bert``,
            ``roberta``, ``distilbert``, ``modernbert``, ``clip_text_model``,
            ``siglip_text_model``, ``gpt2``, ...) and sizes, or a folder with a ``config.json``. A
            CLIP text model is initialised as open_clip does it.
        pretrained: start from a checkpoint instead: a local folder or a hub id; a whole
            CLIP or SigLIP model gives its text tower. Set exactly one of the two.
        pool: ``mean`` of the real tokens; ``cls``, the first token; ``attention`` of one
            learned query; ``last``, the last real token (the end-of-text token of a CLIP-like
            model); ``model``, what the model has of its own: a layer with tanh over the first token
            (BERT and RoBERTa), a layer over the last place (SigLIP, which sees padding).
        kwargs: fields of the config to change, such as dropout rates.
        batching: how captions of different lengths go through the model; features and
            gradients are the same up to rounding (dropout draws other numbers). ``packed`` puts
            several into a row, ``grouped`` calls the model for up to eight groups of like lengths,
            ``padded`` pads all to the longest. ``auto`` packs where that is exact and saves enough,
            else groups, else pads; models that are not known to be exact stay padded.

    Attributes:
        vocab_size: number of token ids.
        max_tokens: largest number of tokens of a caption, or None where there is no limit.
        embed_dim: width of the token embeddings.
        checkpoint: what it was `pretrained` by; None where it began from random weights.
        pad_token_id: the id that the model's embedding keeps at zero, or None.

    Raises:
        UserError: no or two sources, an unknown field, a checkpoint that does not fit, a
            `batching` that would change the model's features.
    """

    modality = "text"

    def __init__(
        self,
        *,
        config: dict[str, Any] | str | None = None,
        pretrained: str | None = None,
        pool: TextPool = "mean",
        kwargs: dict[str, Any] | None = None,
        batching: TextBatching = "auto",
    ) -> None:
        super().__init__()
        if pool not in get_args(TextPool):
            raise UserError(f"pool: '{pool}'; use one of {', '.join(get_args(TextPool))}")
        if batching not in get_args(TextBatching):
            known = ", ".join(get_args(TextBatching))
            raise UserError(f"batching: '{batching}'; use one of {known}")
        built, key = read_source(config, pretrained, changes=kwargs)
        if built.model_type in _WHOLE:
            built = built.text_config
        if hasattr(built, "use_cache"):
            built.use_cache = False
        self.causal = built.model_type in _CAUSAL
        if self.causal and pool == "cls":
            raise UserError(
                f"pool: cls is the first token, which in a causal '{built.model_type}' sees "
                "no other; use last, mean or attention"
            )
        if pool == "model" and built.model_type not in _HAS_POOLER:
            raise UserError(
                f"pool: a '{built.model_type}' has no pooling of its own that mmlight knows; use "
                "mean, cls, attention or last"
            )
        self.model, self.origin = build_model(
            text_class(built), built, pretrained=pretrained, key=key, pooler=pool == "model"
        )
        self.fixed_length = built.model_type in _FIXED_LENGTH
        if self.fixed_length and pool != "model":
            self.model.head.requires_grad_(False)  # takes no part
        if pretrained is None and built.model_type == "clip_text_model":
            init_as_open_clip(self.model)
        self.is_pretrained = pretrained is not None
        by_head = self.fixed_length and pool == "model"
        self.out_dim = int(built.projection_size if by_head else built.hidden_size)
        self.vocab_size = int(built.vocab_size)
        self.embed_dim = int(self.model.get_input_embeddings().weight.shape[1])
        self.checkpoint = pretrained
        self.pad_token_id: int | None = built.pad_token_id
        self.max_tokens = getattr(built, "max_position_embeddings", None)
        if self.max_tokens is not None and built.model_type in _POSITIONS_AFTER_PADDING:
            self.max_tokens -= built.pad_token_id + 1
        self.pooling = pool
        self.pool = AttentionPool(self.out_dim) if pool == "attention" else None
        self.text_batching = batching
        self._layouts = exact_layouts(self.model)
        check_batching(batching, self._layouts, model_type=built.model_type)
        self._folder = tokenizer_folder(pretrained)

    def preparation(self) -> dict[str, Any]:
        """Return where the checkpoint's tokenizer lies, if it is on this machine."""
        return {"tokenizer_folder": self._folder}

    def forward(self, inputs: Text, *, tokens: bool = False) -> Encoded:
        """Encode captions.

        Args:
            inputs: token ids (N, L), padded on the right, and their mask; or packed
                (`Text.sample_NL`), of which each token is right and what is pooled means nothing.
            tokens: also return the last hidden states; where there is padding they mean nothing.

        Raises:
            UserError: captions longer than the model's positions.
        """
        mask_NL = inputs.mask_NL
        if self.max_tokens is not None and mask_NL.shape[1] > self.max_tokens:
            raise UserError(
                f"a caption has {mask_NL.shape[1]} tokens, but the text encoder takes at most "
                f"{self.max_tokens}; lower the data's limit on tokens"
            )
        if self.fixed_length:
            inputs = self._to_full_length(inputs)
            mask_NL = inputs.mask_NL
        layout = self._layout(inputs) if inputs.sample_NL is None else None
        if inputs.sample_NL is not None:
            hidden_NLD = self._came_packed(inputs)
        elif isinstance(layout, RowPlan):
            packed = self._pack(inputs, layout)
            hidden_RCD = self.model(**packed.model_args()).last_hidden_state
            if not tokens and self.pooling in ("model", "cls", "last"):
                place_N = packed.last_N if self.pooling == "last" else packed.first_N
                place_ND = packed.take(hidden_RCD, place_N)
                if self.pooling == "model":
                    place_ND = self.model.pooler(place_ND.unsqueeze(1))
                return Encoded(place_ND)
            hidden_NLD = packed.unpack(hidden_RCD)
        elif isinstance(layout, GroupPlan):
            hidden_NLD = self._in_groups(inputs, layout)
        else:
            hidden_NLD = self._padded(inputs.token_ids_NL, mask_NL)
        if self.pooling == "model":
            own = self.model.head if self.fixed_length else self.model.pooler
            pooled_ND = own(hidden_NLD[:, -1] if self.fixed_length else hidden_NLD)
        elif self.pooling == "cls":
            pooled_ND = hidden_NLD[:, 0]
        elif self.pooling == "last":
            pooled_ND = last_token(hidden_NLD, mask_NL)
        elif self.pool is not None:
            pooled_ND = self.pool(hidden_NLD, mask_NL)
        else:
            pooled_ND = masked_mean(hidden_NLD, mask_NL)
        return Encoded(pooled_ND, hidden_NLD, mask_NL) if tokens else Encoded(pooled_ND)

    def token_logits(self, said_TE: Tensor) -> Tensor:
        """Return scores (T, V) of all tokens by their embeddings.

        Args:
            said_TE: as wide as the embeddings.
        """
        return F.linear(said_TE, self.model.get_input_embeddings().weight)

    @property
    def takes_packed(self) -> bool:  # type: ignore[override]
        """Whether texts that share rows see nothing of one another, with this model."""
        return self._layouts.packed

    def _came_packed(self, inputs: Text) -> Tensor:
        config, window = self.model.config, self._layouts.window
        has_masks = config.model_type == "modernbert"  # one for each kind of its layers
        seen_whole = window is None or has_masks or inputs.mask_NL.shape[1] <= window
        if not self.takes_packed or not seen_whole or not is_fused(self.model):
            raise UserError(
                f"texts in packed rows: not known to be exact for this {self.network_name}"
            )
        after_padding = config.model_type in _POSITIONS_AFTER_PADDING
        args = args_of_packed(
            inputs,
            causal=self._layouts.causal,
            first=config.pad_token_id + 1 if after_padding else 0,
            window=window if has_masks else None,
        )
        hidden_NLD: Tensor = self.model(**args).last_hidden_state
        return hidden_NLD

    def _to_full_length(self, inputs: Text) -> Text:
        """Pad captions to all positions with the id that the model was trained to see there."""
        mask_NL = inputs.mask_NL
        ids_NL = inputs.token_ids_NL.masked_fill(~mask_NL, self.pad_token_id or 0)
        right = (0, self.model.config.max_position_embeddings - mask_NL.shape[1])
        ids_NL = F.pad(ids_NL, right, value=self.pad_token_id or 0)
        return replace(inputs, token_ids_NL=ids_NL, mask_NL=F.pad(mask_NL, right))

    def _layout(self, inputs: Text) -> RowPlan | GroupPlan | None:
        layouts, mask_NL = self._layouts, inputs.mask_NL
        if (
            self.text_batching == "padded"
            or not layouts.grouped
            or self.is_observed
            or is_traced(mask_NL)
        ):
            return None
        lengths = inputs.lengths()
        if not lengths:
            return None
        if not is_fused(self.model):  # others would not understand the mask
            layouts = replace(layouts, packed=False)
        # Kernels for masks on GPUs read eight numbers at a time.
        plan = choose_layout(
            lengths,
            mask_NL.shape[1],
            self.text_batching,
            layouts,
            multiple=8 if mask_NL.is_cuda else 1,
            most=self.max_tokens,  # CLIP's embeddings refuse wider rows
        )
        if isinstance(plan, GroupPlan) and has_collective_forwards(self):
            return None
        return plan

    def _pack(self, inputs: Text, plan: RowPlan) -> PackedText:
        config, ids_NL = self.model.config, inputs.token_ids_NL
        if ids_NL.is_cuda and config._attn_implementation == "sdpa":
            use_packed_attention(self.model, causal=self._layouts.causal)
        pad_id = self.pad_token_id
        after_padding = config.model_type in _POSITIONS_AFTER_PADDING
        return pack(
            ids_NL,
            plan,
            causal=self._layouts.causal,
            fill_id=pad_id if pad_id is not None and 0 <= pad_id < self.vocab_size else 0,
            padding_id=pad_id if after_padding else None,
        )

    def _in_groups(self, inputs: Text, plan: GroupPlan) -> Tensor:
        ids_NL, mask_NL = inputs.token_ids_NL, inputs.mask_NL
        order_N = np.concatenate(plan.members)
        *groups, back_N = to_device([*plan.members, np.argsort(order_N)], ids_NL.device)
        parts: list[Tensor] = []
        for rows, width in zip(groups, plan.widths, strict=True):
            hidden = self._padded(ids_NL[rows, :width], mask_NL[rows, :width])
            parts.append(F.pad(hidden, (0, 0, 0, ids_NL.shape[1] - width)))
        return torch.cat(parts).index_select(0, back_N)

    def _padded(self, token_ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        with self._observed_embeddings(mask_NL) if self.is_observed else nullcontext():
            hidden_NLD: Tensor = self.model(
                input_ids=token_ids_NL,
                attention_mask=None if self.causal or self.fixed_length else mask_NL,
            ).last_hidden_state
        return hidden_NLD

    @contextmanager
    def _observed_embeddings(self, mask_NL: Tensor) -> Iterator[None]:
        def observe(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return self.observed(output, axes=(None, 1), real_B=mask_NL.sum(1))

        handle = self.model.get_input_embeddings().register_forward_hook(observe)
        try:
            yield
        finally:
            handle.remove()

    def token_grid(self, canvas: Canvas) -> TokenGrid:
        """Return the tokens one after another."""
        return TokenGrid(0, 1, canvas.columns)

    @contextmanager
    def explicit_attention(self) -> Iterator[list[Tensor]]:
        """Return the attention of the model's layers, caption by caption."""
        observer = self._observer or (lambda canvas: None)
        with self.observing(observer), super().explicit_attention() as layers:
            yield layers

    def pooling_weights(self, mask_BL: Tensor) -> Tensor:
        """Return all of the first or last token where that is what is pooled."""
        if self.pooling == "model" and self.fixed_length:
            return torch.zeros_like(mask_BL, dtype=torch.float32).index_fill_(
                1, torch.tensor([mask_BL.shape[1] - 1], device=mask_BL.device), 1.0
            )
        if self.pooling in ("model", "cls"):
            return on_first(mask_BL)
        if self.pooling == "last":
            position_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
            return (position_L == (position_L * mask_BL).amax(1, keepdim=True)).float()
        return super().pooling_weights(mask_BL)

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture without any checkpoint."""
        return {
            "config": plain_config(self.model),
            "pool": self.pooling,
            "batching": self.text_batching,
        }


@torch.no_grad()
def init_as_open_clip(model: Any) -> None:
    """Initialise a CLIP text model as open_clip does (``TextTransformer.init_parameters``).

    Token embeddings N(0, 0.02), positions N(0, 0.01), attention inputs N(0, w^-0.5), outputs and
    second linear layers N(0, w^-0.5 (2 L)^-0.5), first linear layers N(0, (2 w)^-0.5).
    """
    config = model.config
    width = config.hidden_size
    out_std = width**-0.5 * (2 * config.num_hidden_layers) ** -0.5
    stds = {
        "q_proj": width**-0.5,
        "k_proj": width**-0.5,
        "v_proj": width**-0.5,
        "out_proj": out_std,
        "fc1": (2 * width) ** -0.5,
        "fc2": out_std,
        "token_embedding": 0.02,
        "position_embedding": 0.01,
    }
    for name, module in model.named_modules():
        last = name.rpartition(".")[-1]
        if last in stds:
            nn.init.normal_(module.weight, std=stds[last])
        if last in ("fc1", "fc2"):  # open_clip leaves these biases to torch
            bound = module.in_features**-0.5
            nn.init.uniform_(module.bias, -bound, bound)
