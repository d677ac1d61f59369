"""A causal transformer of our own, with cross-attention where it has something to look at.

Shapes as in `mmlight.decoders.decoder`; H heads of d features, E width of the memory.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmlight.decoders.decoder import Cache, Decoder, Memory, Places, plain_places
from mmlight.decoders.grid_positions import GridPositions
from mmlight.encoders.depth import cut_into_blocks
from mmlight.encoders.encoder import Block
from mmlight.errors import UserError


class KeyValues:
    """Keys and values of one layer: those of the places so far, and those of the memory."""

    def __init__(self) -> None:
        self.own: tuple[Tensor, Tensor] | None = None
        self.memory: tuple[Tensor, Tensor] | None = None

    def extend(self, keys_NHLd: Tensor, values_NHLd: Tensor) -> tuple[Tensor, Tensor]:
        """Add new places; return those of all places."""
        if self.own is not None:
            keys_NHLd = torch.cat([self.own[0], keys_NHLd], 2)
            values_NHLd = torch.cat([self.own[1], values_NHLd], 2)
        self.own = (keys_NHLd, values_NHLd)
        return self.own


class LayerCache:
    """What each layer keeps of the places so far."""

    def __init__(self, num_layers: int) -> None:
        self.layers = [KeyValues() for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Number of places that it holds."""
        own = self.layers[0].own
        return 0 if own is None else own[0].shape[2]

    def select(self, row_K: Tensor) -> None:
        """Keep these rows, in this order."""
        for layer in self.layers:
            for name in ("own", "memory"):
                if (pair := getattr(layer, name)) is not None:
                    setattr(layer, name, tuple(part[row_K] for part in pair))


class Attention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V over several heads (arXiv 1706.03762, eq. 1)."""

    def __init__(self, dim: int, *, heads: int, memory_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.seen: list[Tensor] | None = None  # where weights go, while somebody looks at them
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(memory_dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def keys_values(self, memory_NMD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (N, H, M, d)."""
        keys_NMD, values_NMD = self.key_value(memory_NMD).chunk(2, -1)
        return self._split(keys_NMD), self._split(values_NMD)

    def forward(
        self,
        hidden_NLD: Tensor,
        keys_values: tuple[Tensor, Tensor],
        *,
        sees_N1LP: Tensor | None,
        causal: bool,
    ) -> Tensor:
        """Return what each place finds (N, L, D).

        Args:
            hidden_NLD: what asks.
            keys_values: what is asked, as `keys_values` returns it.
            sees_N1LP: bool, what may be looked at; None is everything, or what `causal` leaves.
            causal: whether places see none behind them; there is no mask then.
        """
        query_NHLd = self._split(self.query(hidden_NLD))
        causal = causal and sees_N1LP is None
        if self.seen is not None:
            weights_NHLP = _weights(query_NHLd, keys_values[0], sees_N1LP, causal=causal)
            self.seen.append(weights_NHLP.detach())
            found_NHLd = weights_NHLP @ keys_values[1]
        else:
            found_NHLd = F.scaled_dot_product_attention(
                query_NHLd,
                *keys_values,
                attn_mask=sees_N1LP,
                is_causal=causal,
                dropout_p=self.dropout if self.training else 0.0,
            )
        found_NLD: Tensor = self.out(found_NHLd.transpose(1, 2).flatten(2))
        return found_NLD

    def _split(self, hidden_NLD: Tensor) -> Tensor:
        return hidden_NLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _weights(
    query_NHLd: Tensor, keys_NHPd: Tensor, sees_N1LP: Tensor | None, *, causal: bool
) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)), (N, H, L, P), as the fused kernel never shows it."""
    scores_NHLP = query_NHLd @ keys_NHPd.transpose(-2, -1) * query_NHLd.shape[-1] ** -0.5
    if causal:
        sees_N1LP = torch.ones_like(scores_NHLP[:1, :1], dtype=torch.bool).tril()
    if sees_N1LP is not None:
        scores_NHLP = scores_NHLP.masked_fill(~sees_N1LP, -torch.inf)
    return scores_NHLP.softmax(-1)


@contextmanager
def _watched(decoder: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Have attention of this name computed step by step, and collect its weights as it is called.

    Args:
        decoder: holds layers.
        name: what the layers call it: `attention` or `cross`.
    """
    named = [(path.rpartition(".")[2], module) for path, module in decoder.named_modules()]
    watched = [m for own, m in named if own == name and isinstance(m, Attention)]
    seen: list[Tensor] = []
    try:
        for attention in watched:
            attention.seen = seen
        # A compiled layer would not see the switch.
        with torch.compiler.set_stance("force_eager"):
            yield seen
    finally:
        for attention in watched:
            attention.seen = None


class Layer(nn.Module):
    """Self-attention, cross-attention where there is a memory, and a feed-forward network."""

    def __init__(
        self, dim: int, *, heads: int, hidden: int, memory_dim: int | None, dropout: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads=heads, memory_dim=dim, dropout=dropout)
        self.cross_norm: nn.LayerNorm | None = None
        self.cross: Attention | None = None
        if memory_dim is not None:
            self.cross_norm = nn.LayerNorm(dim)
            self.cross = Attention(dim, heads=heads, memory_dim=memory_dim, dropout=dropout)
        self.feed_norm = nn.LayerNorm(dim)
        self.feed = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.drop = nn.Dropout(dropout)

    def forward(
        self, hidden_NLD: Tensor, places: Places, memory: Memory | None, kept: KeyValues | None
    ) -> Tensor:
        """Return the hidden states behind this layer (N, L, D)."""
        normal_NLD = self.norm(hidden_NLD)
        own = self.attention.keys_values(normal_NLD)
        # One new place sees all that a cache holds: there is nothing behind it.
        causal = hidden_NLD.shape[1] > 1
        own = own if kept is None else kept.extend(*own)
        found_NLD = self.attention(normal_NLD, own, sees_N1LP=places.sees_N1LP, causal=causal)
        hidden_NLD = hidden_NLD + self.drop(found_NLD)
        if self.cross is not None and self.cross_norm is not None:
            assert memory is not None, "the task gives a memory to a decoder that attends to one"
            others = kept.memory if kept is not None else None
            if others is None:
                others = self.cross.keys_values(memory.tokens_NMD)
                if kept is not None:
                    kept.memory = others
            sees_N11M = memory.mask_NM[:, None, None]
            found_NLD = self.cross(
                self.cross_norm(hidden_NLD), others, sees_N1LP=sees_N11M, causal=False
            )
            hidden_NLD = hidden_NLD + self.drop(found_NLD)
        out_NLD: Tensor = hidden_NLD + self.drop(self.feed(self.feed_norm(hidden_NLD)))
        return out_NLD


class TransformerDecoder(Decoder):
    """GPT-2's layers: norms in front, learned positions, the embedding as the last matrix, too.

    With a `memory_dim` its layers also attend to the tokens of other towers, as the decoder of
    arXiv 1706.03762 does.

    Args:
        vocab_size: number of token ids.
        dim: width D.
        num_layers: number of layers.
        num_heads: heads of each attention; they divide the width.
        max_tokens: places of the longest sequence, prompt, prefix and answer together.
        memory_dim: width of the tokens that cross-attention looks at; None has no cross-attention.
        unimodal_layers: how many layers come before the first with cross-attention, as CoCa has it.
        dropout: rate of the dropout on embeddings, attention and what layers add.
        grid: height and width of a picture whose codes stand in the sequence; each of its rows and
            columns then has a position of its own, too.
        grid_first: the place of the token in front of the picture's first code.

    Raises:
        UserError: sizes that do not go together.
    """

    _last_parts: ClassVar[tuple[str, ...]] = ("norm.",)

    def __init__(
        self,
        *,
        vocab_size: int,
        dim: int = 256,
        num_layers: int = 4,
        num_heads: int = 4,
        max_tokens: int = 128,
        memory_dim: int | None = None,
        unimodal_layers: int = 0,
        dropout: float = 0.1,
        grid: tuple[int, int] | None = None,
        grid_first: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (
            ("vocab_size", vocab_size),
            ("dim", dim),
            ("num_layers", num_layers),
            ("num_heads", num_heads),
            ("max_tokens", max_tokens),
        ):
            if value < 1:
                raise UserError(f"{name}: {value} must be 1 or more")
        if dim % num_heads:
            raise UserError(f"num_heads: {num_heads} must divide the width {dim}")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout: {dropout} must be at least 0 and below 1")
        if unimodal_layers and (memory_dim is None or unimodal_layers >= num_layers):
            raise UserError(
                f"unimodal_layers: {unimodal_layers} has an effect only with a memory_dim, and "
                f"must be below num_layers ({num_layers})"
            )
        if grid_first and grid is None:
            raise UserError("grid_first: has an effect only with a grid")
        self._init_args: dict[str, Any] = {
            "vocab_size": vocab_size,
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "max_tokens": max_tokens,
            "memory_dim": memory_dim,
            "unimodal_layers": unimodal_layers,
            "dropout": dropout,
            "grid": None if grid is None else list(grid),
            "grid_first": grid_first,
        }
        self.vocab_size, self.memory_dim = vocab_size, memory_dim
        self.out_dim, self.max_tokens = dim, max_tokens
        self.embeddings = nn.Embedding(vocab_size, dim)
        self.positions = nn.Embedding(max_tokens, dim)
        self.grid: GridPositions | None = None
        if grid is not None:
            self.grid = GridPositions(dim, first=grid_first, height=grid[0], width=grid[1])
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(
                dim,
                heads=num_heads,
                hidden=4 * dim,
                memory_dim=memory_dim if number >= unimodal_layers else None,
                dropout=dropout,
            )
            for number in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self._recompute = False
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        """Draw as GPT-2 does: N(0, 0.02), what is added to the residual scaled by its depth."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                is_residual = name.endswith((".out", "feed.2"))
                scale = (2 * len(self.layers)) ** -0.5 if is_residual else 1.0
                nn.init.normal_(module.weight, std=0.02 * scale)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def embed(self, token_ids_NL: Tensor) -> Tensor:
        """Return the embeddings of tokens."""
        embedded_NLD: Tensor = self.embeddings(token_ids_NL)
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
        assert cache is None or isinstance(cache, LayerCache)
        past = 0 if cache is None else cache.length
        size, length = embedded_NLD.shape[:2]
        if places is None:
            self.check_length(past + length)
            places = plain_places(size, length, past=past, device=embedded_NLD.device)
        if places.sees_N1LP is None and past and length > 1:
            sees = torch.ones(length, past + length, dtype=torch.bool, device=embedded_NLD.device)
            places = Places(places.position_NL, sees.tril(past)[None, None])
        hidden_NLD = self.observed(embedded_NLD, axes=(None, 1)) + self.positions(
            places.position_NL
        )
        if self.grid is not None:
            hidden_NLD = hidden_NLD + self.grid(places.position_NL)
        hidden_NLD = self.through_layers(
            self.drop(hidden_NLD), range(len(self.layers)), places, memory=memory, cache=cache
        )
        normal_NLD: Tensor = self.norm(hidden_NLD)
        return normal_NLD

    def through_layers(
        self,
        hidden_NLD: Tensor,
        numbers: Iterable[int],
        places: Places,
        *,
        memory: Memory | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Return hidden states behind some of the layers (N, L, D).

        Args:
            hidden_NLD: in front of them.
            numbers: of the layers, in order.
            places: see `decode`.
            memory: see `decode`.
            cache: see `decode`.
        """
        for number in numbers:
            layer, kept = self.layers[number], None if cache is None else cache.layers[number]
            if self._recompute and self.training and kept is None:
                hidden_NLD = checkpoint(
                    layer, hidden_NLD, places, memory, None, use_reentrant=False
                )
            else:
                hidden_NLD = layer(hidden_NLD, places, memory, kept)
        return hidden_NLD

    def logits(self, hidden_NLD: Tensor) -> Tensor:
        """Return scores of what comes next, by the embeddings."""
        return F.linear(hidden_NLD, self.embeddings.weight)

    @contextmanager
    def explicit_attention(self) -> Iterator[list[Tensor]]:
        """Collect each layer's weights between places; see `Encoder.explicit_attention`."""
        with _watched(self, "attention") as seen:
            yield seen

    @contextmanager
    def explicit_cross_attention(self) -> Iterator[list[Tensor]]:
        """Collect the weights (N, H, L, M) with which places look at the memory, layer by layer."""
        with _watched(self, "cross") as seen:
            yield seen

    def new_cache(self) -> LayerCache:
        """Return a cache that holds nothing."""
        return LayerCache(len(self.layers))

    def blocks(self) -> list[Block]:
        """Return the embeddings, each layer, and the last norm."""
        groups: list[list[str]] = [[] for _ in range(len(self.layers) + 2)]
        for name, _ in self.named_parameters():
            is_layer = name.startswith("layers.")
            last = len(groups) - 1 if name.startswith(self._last_parts) else 0
            groups[int(name.split(".")[1]) + 1 if is_layer else last].append(name)
        return cut_into_blocks(self, groups)

    def no_weight_decay(self) -> set[str]:
        """Return the positions."""
        return {n for n, _ in self.named_parameters() if n.startswith(("positions.", "grid."))}

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute layers in backward."""
        self._recompute = enabled

    def rebuild_args(self) -> dict[str, Any]:
        """Return init arguments that rebuild this architecture."""
        return dict(self._init_args)
