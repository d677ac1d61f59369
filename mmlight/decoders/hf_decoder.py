"""Causal language models of transformers: GPT-2, Llama, Qwen and their like.

Shapes as in `mmlight.decoders.decoder`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache, EncoderDecoderCache

from mmlight.decoders.decoder import Cache, Decoder, Memory, Places
from mmlight.encoders.hf_layers import HfLayers
from mmlight.encoders.hf_model import build_model, plain_config, read_source, tokenizer_folder
from mmlight.encoders.packed_text import is_fused
from mmlight.errors import UserError

# Those whose scores are the last matrix over the hidden states and nothing else, and which take
# embeddings, positions and a mask of what each place sees: compared with their own `forward`.
MODEL_TYPES = ("gpt2", "gpt_neox", "llama", "mistral", "olmo2", "phi", "qwen2", "qwen3", "smollm3")
# GPT-2's, which a checkpoint of a language model does not bring.
_CROSS = ("crossattention.", "ln_cross_attn.")


class HfCache:
    """Keys and values in transformers' own cache.

    Args:
        has_memory: whether layers also keep those of a memory.
    """

    def __init__(self, *, has_memory: bool) -> None:
        # Without a config: one of sliding windows would drop places that our masks still count.
        self.own = DynamicCache()
        self.values: Any = EncoderDecoderCache(self.own, DynamicCache()) if has_memory else self.own

    @property
    def length(self) -> int:
        """Number of places that it holds."""
        return int(self.own.get_seq_length())

    def select(self, row_K: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.length:
            self.values.batch_select_indices(row_K)


class HfDecoder(HfLayers, Decoder):
    """A causal language model of transformers.

    Args:
        config: start from random weights: a dict with ``model_type`` (``gpt2``, ``llama``,
            ``qwen3``, ...) and sizes, or a folder with a ``config.json``. GPT-2 with
            ``add_cross_attention: true`` also attends to the tokens of other towers.
        pretrained: start from a checkpoint instead: a local folder or a hub id. Set exactly one of
            the two. Cross-attention that is added to it starts from random weights.
        kwargs: fields of the config to change, such as dropout rates.

    Attributes:
        vocab_size: number of token ids.
        max_tokens: places of the longest sequence: of all positions, or of the window that each
            place sees, where that is shorter.

    Raises:
        UserError: no or two sources, an unknown field, another kind of model, or a checkpoint that
            does not fit.
    """

    def __init__(
        self,
        *,
        config: dict[str, Any] | str | None = None,
        pretrained: str | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        built, key = read_source(config, pretrained, changes=kwargs)
        if built.model_type not in MODEL_TYPES:
            raise UserError(
                f"{key}: a '{built.model_type}' is no causal language model that mmlight knows; "
                f"use one of {', '.join(MODEL_TYPES)}"
            )
        built.use_cache = False
        crosses = bool(getattr(built, "add_cross_attention", False))
        whole, self.origin = build_model(
            MODEL_FOR_CAUSAL_LM_MAPPING[type(built)],
            built,
            pretrained=pretrained,
            key=key,
            may_lack=_CROSS if crosses else (),
        )
        self.model = whole.base_model
        own = whole.get_output_embeddings()
        tied = self.model.get_input_embeddings().weight
        # A matrix that is the embedding, too, has one name: checkpoints hold it once.
        self.head = None if own.weight is tied else own
        self.is_pretrained = pretrained is not None
        self.out_dim, self.vocab_size = int(built.hidden_size), int(built.vocab_size)
        self.memory_dim = self.out_dim if crosses else None
        windows = [built.max_position_embeddings, getattr(built, "sliding_window", None)]
        self.max_tokens = min(window for window in windows if window is not None)
        self._folder = tokenizer_folder(pretrained)

    def preparation(self) -> dict[str, Any]:
        """Return where the checkpoint's tokenizer lies, if it is on this machine."""
        return {"tokenizer_folder": self._folder}

    def new_parameters(self) -> set[str]:
        """Return those of cross-attention, which no checkpoint of a language model brings."""
        if self.origin is None or "new: none" in self.origin:
            return set()
        return {n for n, _ in self.named_parameters() if any(part in n for part in _CROSS)}

    def embed(self, token_ids_NL: Tensor) -> Tensor:
        """Return the embeddings of tokens."""
        embedded_NLD: Tensor = self.model.get_input_embeddings()(token_ids_NL)
        return embedded_NLD

    def decode(
        self,
        embedded_NLD: Tensor,
        *,
        places: Places | None = None,
        memory: Memory | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return the last hidden states of the new places; see `Decoder.decode`."""
        assert cache is None or isinstance(cache, HfCache)
        if places is None:
            past = 0 if cache is None else cache.length
            self.check_length(past + embedded_NLD.shape[1])
        more: dict[str, Any] = {}
        if places is not None and places.sees_N1LP is not None:
            sees_N1LP = places.sees_N1LP.expand(len(embedded_NLD), -1, -1, -1)
            more["attention_mask"] = self._as_mask(sees_N1LP, embedded_NLD.dtype)
            more["position_ids"] = places.position_NL
        if self.memory_dim is not None:
            assert memory is not None, "the task gives a memory to a decoder that attends to one"
            more["encoder_hidden_states"] = memory.tokens_NMD
            more["encoder_attention_mask"] = memory.mask_NM
        hidden_NLD: Tensor = self.model(
            inputs_embeds=self.observed(embedded_NLD, axes=(None, 1)),
            past_key_values=None if cache is None else cache.values,
            use_cache=cache is not None,
            **more,
        ).last_hidden_state
        return hidden_NLD

    def _as_mask(self, sees_N1LP: Tensor, dtype: torch.dtype) -> Tensor:
        if is_fused(self.model):
            return sees_N1LP
        # Attention step by step adds the mask to the scores.
        least = torch.finfo(dtype).min
        return torch.zeros_like(sees_N1LP, dtype=dtype).masked_fill(~sees_N1LP, least)

    def logits(self, hidden_NLD: Tensor) -> Tensor:
        """Return scores of what comes next."""
        if self.head is None:
            return F.linear(hidden_NLD, self.model.get_input_embeddings().weight)
        logits_NLV: Tensor = self.head(hidden_NLD)
        return logits_NLV

    def new_cache(self) -> HfCache:
        """Return a cache that holds nothing."""
        return HfCache(has_memory=self.memory_dim is not None)

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture without any checkpoint."""
        return {"config": plain_config(self.model)}
