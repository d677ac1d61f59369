"""Masked language modelling: BERT's way to learn from text alone (arXiv 1810.04805).

Shapes as in `mmlight.batch`: N texts or rows of them, L tokens, V tokens of the vocabulary; T those
that were hidden, of all rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mmlight.batch import Batch, Text
from mmlight.encoders.hf_text import HfText
from mmlight.errors import UserError
from mmlight.heads.masked_lm import MaskedLm, head_kind
from mmlight.metrics.masked_tokens import SCORES, MaskedTokenEvaluation, masked_token_scores
from mmlight.objectives.tokens import TokenLoss
from mmlight.tasks.evaluation import Column, Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.graph import Graph, whole_graph
from mmlight.tasks.task import Task
from mmlight.tasks.text_pieces import text_pieces
from mmlight.tasks.tower import Towers
from mmlight.text.saved_tokenizer import tokenizer_from_state

# Answers to each mask of a predicted text.
_LIKELIEST = 5


@dataclass(frozen=True)
class _Said:
    """What was said of tokens, those that are hidden among them.

    Attributes:
        logits_TV: float.
        target_T: int64, what stood there.
        counted_T: bool, which of them are hidden.
        item_T: int64, the row of the batch that each is of; -1 of padding of rows that texts share.
    """

    logits_TV: Tensor
    target_T: Tensor
    counted_T: Tensor
    item_T: Tensor


class MaskedLanguage(Task):
    """Says which tokens were hidden, from those on both sides.

    Which are hidden is the data's matter (``data.text.masking``), as is whether texts are packed
    (``data.text.documents``). Its tower goes on in any other task, by `from_run`.

    Args:
        towers: one text tower: `mmlight.encoders.hf_text.HfText` with a model that sees both sides
            (BERT, RoBERTa, ModernBERT, DistilBERT, ...). With `pretrained`, the head goes on with
            the checkpoint's, where it has one.
        objective: `mmlight.objectives.tokens.TokenLoss` and its settings.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: another tower, or a tokenizer without a mask token.
    """

    takes_documents = True
    takes_masked = True
    job_type = "pretrain"

    def __init__(
        self,
        *,
        towers: Towers,
        objective: Callable[[], TokenLoss] = TokenLoss,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        towers.check_only("text", task="masked language modelling")
        self._make_objective = objective

    def build(self) -> None:
        """Create the tower and the head."""
        self.build_towers()
        encoder = self.tower("text").encoder
        where = "model.towers.text.encoder"
        if not isinstance(encoder, HfText) or encoder.causal or encoder.fixed_length:
            raise UserError(
                f"{where}: masked language modelling needs an HfText whose tokens see both sides "
                f"(bert, roberta, modernbert), not a {encoder.network_name}"
            )
        if encoder.pooling == "model":
            raise UserError(f"{where}.pool: model has no effect on tokens; leave it out")
        if self._mask_id() is None and self.preprocessing is not None:
            raise UserError(
                "data.text.tokenizer has no mask token, which masked language modelling hides "
                "tokens by; mmlight tokenizer train makes one that has"
            )
        encoder.leave_out_pooling()
        config = encoder.model.config
        kind = head_kind(config)
        self.head = MaskedLm(
            encoder.out_dim,
            embed_dim=encoder.embed_dim,
            vocab_size=encoder.vocab_size,
            kind=kind,
            std=getattr(config, "initializer_range", 0.02),
        )
        if encoder.checkpoint is not None:
            line = self.head.load_published(encoder.checkpoint, config=config, kind=kind)
            if line is not None:
                self.origins["head"] = line
        self.objective = self._make_objective()

    def _mask_id(self) -> int | None:
        text = (self.preprocessing or {}).get("text") or {}
        state = text.get("tokenizer")
        return None if state is None else tokenizer_from_state(state).mask_id

    def hidden(self, text: Text) -> Tensor:
        """Return the tower's tokens (N, L, D), with gradients."""
        tokens_NLD: Tensor = self.tower("text").encoder(text, tokens=True).tokens_BLD
        return tokens_NLD

    def logits(self, hidden_TD: Tensor) -> Tensor:
        """Return scores (T, V) of each token of the vocabulary."""
        encoder: Any = self.tower("text").encoder
        said_TE, bias_V = self.head(hidden_TD)
        scores_TV: Tensor = encoder.token_logits(said_TE)
        return scores_TV + bias_V

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean of -log p over the hidden tokens of the global batch."""
        said = self._said(batch)
        loss = self.objective(said.logits_TV, said.target_T, counted_NL=said.counted_T)
        return self.log_loss(loss.of_samples(said.item_T))

    def _said(self, batch: Batch) -> "_Said":
        """Return what the model says of the hidden tokens, with gradients.

        The matrix over the vocabulary is most of a small model's work, and a seventh of the tokens
        is hidden: it is left out for the others wherever the host knows how many these are.
        """
        text = _text_of(batch)
        if text.target_NL is None or text.counted_NL is None:
            raise UserError(_NO_MASKING)
        counted_T = (text.counted_NL & batch.valid_B[text.item_N][:, None]).flatten()
        item_T = text.samples_of_tokens().flatten()
        target_T, hidden_TD = text.target_NL.flatten(), self.hidden(text).flatten(0, 1)
        count = text.num_counted()
        if count is not None:
            # Those that count come first; rows that only fill up a batch count after all others.
            place_T = (
                text.counted_NL.flatten().to(torch.uint8).argsort(descending=True, stable=True)
            )
            place_T = place_T[:count]
            counted_T, item_T, target_T, hidden_TD = (
                values[place_T] for values in (counted_T, item_T, target_T, hidden_TD)
            )
        return _Said(self.logits(hidden_TD), target_T, counted_T, item_T)

    def on_fit_start(self) -> None:
        """Refuse data that hides nothing."""
        super().on_fit_start()
        text = getattr(self.datamodule, "text", None)
        if text is not None and text.masking is None:
            raise UserError(_NO_MASKING)

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        return set(SCORES)

    def keep(self, batch: Batch) -> Kept:
        """Keep what was said of each text's hidden tokens."""
        encoder: Any = self.tower("text").encoder
        pieces = text_pieces(_text_of(batch), vocab_size=encoder.vocab_size)
        found = [self._sums(replace(batch, text=piece)) for piece in pieces]
        sums: dict[str, Column] = {
            name: torch.stack([part[name] for part in found]).sum(0) for name in found[0]
        }
        return Kept({"samples": Rows(sums | sample_columns(batch))})

    def _sums(self, batch: Batch) -> dict[str, Tensor]:
        said = self._said(batch)
        nats_T = self.objective.terms(said.logits_TV, said.target_T).double()
        of_token = {
            "nats": torch.where(said.counted_T, nats_T, 0.0),
            "right": ((said.logits_TV.argmax(-1) == said.target_T) & said.counted_T).long(),
            "count": said.counted_T.long(),
        }
        return {
            name: values_T.new_zeros(batch.size).index_add_(0, said.item_T, values_T)
            for name, values_T in of_token.items()
        }

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the hidden tokens of the whole set."""
        table = tables["samples"]
        evaluation = MaskedTokenEvaluation(
            stage=stage,
            samples_S=table.sample_N.numpy(),
            keys=table["key"],
            nats_S=table["nats"].numpy(),
            right_S=table["right"].numpy(),
            count_S=table["count"].numpy(),
        )
        return Scored(masked_token_scores(evaluation), evaluation)

    def graphs(self) -> list[Graph]:
        """Return the model from tokens to the scores of all tokens at each of them."""

        def logits(batch: Batch) -> tuple[Tensor, ...]:
            assert batch.text is not None
            return (self.logits(self.hidden(batch.text)),)

        return [
            whole_graph(self, {"token_logits": "float32, of what stands at each token"}, logits)
        ]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each mask token of a text its likeliest tokens.

        A text without any has none to say.
        """
        text = _text_of(batch)
        saved = (self.preprocessing or {}).get("text") or {}
        if saved.get("tokenizer") is None:
            raise UserError("the model's tokenizer is not known, so that nothing can be predicted")
        tokenizer = tokenizer_from_state(saved["tokenizer"])
        asked_NL = (text.token_ids_NL == tokenizer.mask_id) & text.mask_NL
        if text.counted_NL is not None:
            asked_NL = asked_NL & text.counted_NL
        row_M, place_M = asked_NL.nonzero(as_tuple=True)
        probability_MV = self.logits(self.hidden(text)[row_M, place_M]).softmax(-1)
        likely = probability_MV.topk(min(_LIKELIEST, probability_MV.shape[1]))
        masks: dict[int, list[Any]] = {}
        for item, values, ids in zip(
            text.item_N[row_M].tolist(),
            likely.values.tolist(),
            likely.indices.tolist(),
            strict=True,
        ):
            answers = [
                {"token": tokenizer.decode([i]), "id": i, "probability": value}
                for i, value in zip(ids, values, strict=True)
            ]
            masks.setdefault(item, []).append(answers)
        said = dict(zip(text.item_N.tolist(), batch.captions, strict=True))
        return [
            {"key": batch.keys[row], "text": said[row], "masks": masks.get(row, [])}
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]


_NO_MASKING = (
    "data.text.masking is not set; masked language modelling needs it, such as {share: 0.15}"
)


def _text_of(batch: Batch) -> Text:
    if batch.text is None:
        raise UserError("data.members.text is not set; masked language modelling needs a text")
    return batch.text
