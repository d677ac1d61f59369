"""CoCa's image tower as open_clip has it: queries attend to all tokens of a vision transformer.

Shapes as in `mmlight.batch`: B samples, L tokens, D width of the transformer; Q queries, E width of
the pooling.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmlight.batch import Images
from mmlight.encoders.encoder import Encoded
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError


class CocaImage(TimmImage):
    """A vision transformer of timm, pooled by attention from learned queries (arXiv 2205.01917).

    Of the queries the first is for contrast, the others are for a decoder that writes captions;
    they are kept, so that the tower can be given back to open_clip. The class token is among what
    the queries attend to, and the norm stands behind them, as in open_clip.

    Args:
        name: as for `TimmImage`; a plain vision transformer.
        pool_dim: width E of the pooling.
        pool_heads: its heads.
        pool_queries: its queries Q.
        settings: those of `TimmImage`; ``kwargs: {final_norm: false}`` belongs to it.

    Raises:
        UserError: a model that gives no sequence of tokens, or heads that do not divide the width.
    """

    def __init__(
        self,
        name: str,
        *,
        pool_dim: int,
        pool_heads: int = 8,
        pool_queries: int = 256,
        **settings: Any,
    ) -> None:
        super().__init__(name, **settings)
        if not hasattr(self.model, "num_prefix_tokens"):
            raise UserError(f"name: {name} is no vision transformer, whose tokens can be attended")
        if pool_dim % pool_heads or pool_queries < 1:
            raise UserError(
                f"pool_heads: {pool_heads} must divide the width {pool_dim}, and pool_queries: "
                f"{pool_queries} be 1 or more"
            )
        self.pool = _Pool(
            int(self.model.num_features), pool_dim, heads=pool_heads, queries=pool_queries
        )
        self.out_dim = pool_dim
        self._init_args |= {
            "pool_dim": pool_dim,
            "pool_heads": pool_heads,
            "pool_queries": pool_queries,
        }

    def forward(self, inputs: Images, *, tokens: bool = False) -> Encoded:
        """Encode images; tokens are the patches before the pooling.

        Args:
            inputs: as for `TimmImage`.
            tokens: also return the tokens.
        """
        normal_BCHW = self.observed(self._normalise(inputs.pixels_BCHW), axes=(2, 3))
        features_BLD = self.model.forward_features(normal_BCHW)
        pooled_BE = self.pool(features_BLD)
        if not tokens:
            return Encoded(pooled_BE)
        tokens_BLD = self.to_tokens(features_BLD)
        return Encoded(pooled_BE, tokens_BLD, tokens_BLD.new_ones(tokens_BLD.shape[:2]).bool())

    def pooling_weights(self, mask_BL: Tensor) -> Tensor:
        """Return even weights: the queries attend to all tokens."""
        return mask_BL.float()

    def no_weight_decay(self) -> set[str]:
        """Return what timm's own recipes exclude, and the queries."""
        others = super().no_weight_decay() - {"pool.query_D"}
        return others | {"pool.attention.query"}

    def new_parameters(self) -> set[str]:
        """Return nothing: weights of a CoCa bring its pooling."""
        return set()


class _Attention(nn.Module):
    """Open_clip's ``AttentionalPooler``, of which only the first query is computed."""

    def __init__(self, dim: int, pool_dim: int, *, heads: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, pool_dim))
        self.attn = nn.MultiheadAttention(pool_dim, heads, kdim=dim, vdim=dim, batch_first=True)
        self.ln_q = nn.LayerNorm(pool_dim)
        self.ln_k = nn.LayerNorm(dim)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Return the first query's answer (B, E)."""
        keys_BLD = self.ln_k(tokens_BLD)
        query_1E = self.ln_q(self.query[:1])
        query_B1E = query_1E.unsqueeze(0).expand(tokens_BLD.shape[0], -1, -1)
        found: Tensor = self.attn(query_B1E, keys_BLD, keys_BLD, need_weights=False)[0]
        return found[:, 0]


class _Pool(nn.Module):
    def __init__(self, dim: int, pool_dim: int, *, heads: int, queries: int) -> None:
        super().__init__()
        self.attention = _Attention(dim, pool_dim, heads=heads, queries=queries)
        self.norm = nn.LayerNorm(pool_dim)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Return pooled features (B, E)."""
        pooled_BE: Tensor = self.norm(self.attention(tokens_BLD))
        return pooled_BE
