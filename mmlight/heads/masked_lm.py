"""BERT's head over tokens: which token was hidden (arXiv 1810.04805).

Shapes: T tokens, D feature width, E width of the token embeddings, V tokens of the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from transformers.activations import ACT2FN

from mmlight.errors import UserError


@dataclass(frozen=True)
class HeadKind:
    """How a model of transformers makes its head.

    Attributes:
        activation: its name in transformers.
        eps: of the norm.
        has_bias: whether the dense layer and the norm have one.
        dense: where the weights of the dense layer are in transformers' model; empty where the
            names are not known.
        norm: where those of the norm are.
        bias: where the bias of each token is.
    """

    activation: str = "gelu"
    eps: float = 1e-12
    has_bias: bool = True
    dense: str = ""
    norm: str = ""
    bias: str = ""


def head_kind(config: Any) -> HeadKind:
    """Return how the head of a model with this config is made; BERT's way where it has none."""
    kind = config.model_type
    if kind == "bert":
        at = "cls.predictions.transform"
        names = (f"{at}.dense", f"{at}.LayerNorm", "cls.predictions.decoder.bias")
        return HeadKind(config.hidden_act, config.layer_norm_eps, True, *names)
    if kind in ("roberta", "xlm-roberta", "camembert"):
        names = ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.bias")
        return HeadKind("gelu", config.layer_norm_eps, True, *names)
    if kind == "modernbert":
        has_bias = bool(config.classifier_bias)
        if has_bias != bool(config.norm_bias):
            raise UserError("config: of classifier_bias and norm_bias set both or none")
        names = ("head.dense", "head.norm", "decoder.bias")
        return HeadKind(config.classifier_activation, config.norm_eps, has_bias, *names)
    if kind == "distilbert":
        names = ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias")
        return HeadKind(config.activation, 1e-12, True, *names)
    return HeadKind()


class MaskedLm(nn.Module):
    """A dense layer, an activation and a norm; then the token embeddings themselves, and a bias.

    The embeddings stay the encoder's: it scores tokens with them (`Encoder.token_logits`).

    Args:
        in_dim: D.
        embed_dim: E.
        vocab_size: V.
        kind: activation, norm and biases.
        std: of the dense layer's initial weights.
    """

    def __init__(
        self,
        in_dim: int,
        *,
        embed_dim: int,
        vocab_size: int,
        kind: HeadKind = HeadKind(),
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(in_dim, embed_dim, bias=kind.has_bias)
        self.activation: nn.Module = ACT2FN[kind.activation]
        self.norm = nn.LayerNorm(embed_dim, eps=kind.eps, bias=kind.has_bias)
        self.bias_V = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.dense.weight, std=std)
        if kind.has_bias:
            nn.init.zeros_(self.dense.bias)

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the embeddings score (T, E), and what is added to their scores (V,)."""
        # Both from here: a sharded bias is whole within this call alone.
        return self.norm(self.activation(self.dense(hidden_TD))), self.bias_V * 1.0

    @torch.no_grad()
    def load_published(self, checkpoint: str, *, config: Any, kind: HeadKind) -> str | None:
        """Take the head's weights of a checkpoint; return a line that says so, None without any.

        Args:
            checkpoint: folder or hub id, whose encoder was loaded from it.
            config: its config.
            kind: where the weights are.

        Raises:
            UserError: weights of another shape.
        """
        if not kind.dense:
            return None
        model, report = AutoModelForMaskedLM.from_pretrained(
            checkpoint,
            config=config,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
        own = (kind.dense, kind.norm)
        lacking = [name for name in report["missing_keys"] if name.startswith(own)]
        if lacking:
            return None
        theirs = model.state_dict()
        tensors = {
            f"{name}.{part}": theirs[f"{at}.{part}"]
            for name, at in (("dense", kind.dense), ("norm", kind.norm))
            for part in ("weight", "bias")
            if f"{at}.{part}" in theirs
        }
        tensors["bias_V"] = theirs[kind.bias]
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"the head of '{checkpoint}' does not fit: {said}") from error
        return f"head: {len(tensors)} tensors of {checkpoint}; new: none"
