"""Causal language modelling: of documents, or of answers behind their prompts.

Shapes as in `mmlight.batch`: N texts, L tokens, V tokens of the vocabulary.
"""

import math
from typing import Any

import torch
from torch import Tensor

from mmlight.batch import Batch, Text
from mmlight.decoders.sampling import Sampling
from mmlight.errors import UserError
from mmlight.objectives.tokens import TokenLoss
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table
from mmlight.tasks.language import LanguageTask, Said
from mmlight.tasks.text_pieces import text_pieces
from mmlight.tasks.tower import Towers

SCORES = ("loss", "perplexity", "bits_per_byte")


class CausalLanguage(LanguageTask):
    """A language model, from scratch or from weights; instruction tuning is the same.

    Where the data has answers (`data.members.answer`), its texts are prompts, and only the answers
    count. Otherwise every token counts but a text's first. Texts longer than `data.text.max_tokens`
    are cut unless `data.text.documents` says otherwise.

    Scores: ``loss``, nats per token; ``perplexity``, e to its power; ``bits_per_byte``, which does
    not depend on the tokenizer: all bits over the bytes of the text that counts, in UTF-8.

    Args:
        towers: one text tower whose encoder is a decoder, such as
            `mmlight.decoders.hf_decoder.HfDecoder`.
        sampling: how `mmlight predict` chooses what it says.
        label_smoothing: share of the target that is spread over all tokens, in training.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers, or a text encoder that sees what comes after.
    """

    takes_documents = True

    def __init__(
        self,
        *,
        towers: Towers,
        sampling: Sampling = Sampling(),  # noqa: B008  (never mutated)
        label_smoothing: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, sampling=sampling, **settings)
        self.label_smoothing = label_smoothing

    def build(self) -> None:
        """Create the tower and the objective."""
        self.build_language()
        self.objective = TokenLoss(label_smoothing=self.label_smoothing)

    def texts(self, batch: Batch) -> Text:
        """Return the texts of a batch, or its answers behind their prompts.

        Raises:
            UserError: the data has no text.
        """
        if batch.answer is not None:
            return self.with_prompt(batch, batch.answer)
        if batch.text is None:
            raise UserError("the data has no text; name its member in data.members.text")
        return batch.text

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        texts = self.texts(batch)
        said = self.say(texts)
        loss = self.objective(said.logits_NLV, said.token_NL, counted_NL=said.counted_NL)
        sample_NL = texts.samples_of_tokens()[:, : said.token_NL.shape[1]]
        return self.log_loss(loss.of_samples(sample_NL))

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        return set(SCORES)

    def keep(self, batch: Batch) -> Kept:
        """Keep of each row what was lost, over how many tokens and bytes."""
        texts = self.texts(batch)
        pieces = text_pieces(texts, vocab_size=self.decoder.vocab_size)
        found = [self._lost(self.say(piece)) for piece in pieces]
        columns = {
            name: torch.cat([part[name] for part in found])[: texts.size] for name in found[0]
        }
        keep_N = columns["tokens"] > 0
        return Kept({"texts": Rows(columns, row_N=texts.item_N, keep_N=keep_N)})

    def _lost(self, said: Said) -> dict[str, Tensor]:
        terms_NL = self.objective.terms(said.logits_NLV, said.token_NL)
        return {
            "nats": torch.where(said.counted_NL, terms_NL, 0.0).sum(1, dtype=torch.float64),
            "tokens": said.counted_NL.sum(1),
            "bytes": self._bytes(said.text, said.counted_NL),
        }

    def _bytes(self, text: Text, counted_NL: Tensor) -> Tensor:
        """Return the bytes (N,) of the text that counts; half a character at a cut is one."""

        def size(ids: list[int]) -> int:
            return len(self.tokenizer.decode(ids).replace("\ufffd", "?").encode())

        counts: list[int] = []
        for ids, counted in zip(text.token_ids_NL.tolist(), counted_NL.tolist(), strict=True):
            places = [place + 1 for place, counts_here in enumerate(counted) if counts_here]
            if not places:
                counts.append(0)
                continue
            first, last = places[0], places[-1]
            # Behind the token before it: what a tokenizer says of a space depends on that.
            counts.append(size(ids[first - 1 : last + 1]) - size(ids[first - 1 : first]))
        return torch.tensor(counts, device=counted_NL.device)

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the texts of the whole set."""
        table = tables["texts"]
        nats, tokens = float(table["nats"].sum()), int(table["tokens"].sum())
        if not tokens:
            return Scored({})
        loss = nats / tokens
        values = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if num_bytes := int(table["bytes"].sum()):
            values["bits_per_byte"] = nats / math.log(2) / num_bytes
        return Scored(values)
