"""Tags words: named entities and whatever else is written as BIO tags.

Shapes as in `mmlight.batch`: B samples, N texts, L tokens, W words of one text, K tags.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch, Text
from mmlight.errors import UserError, nearest
from mmlight.heads.pooled import PerToken
from mmlight.metrics.entities import OUTSIDE, EntityEvaluation, as_bio, spans_of
from mmlight.modality import Modality
from mmlight.objectives.objective import mean_loss
from mmlight.saved.checkpoint import CHECKPOINT_KEY
from mmlight.tasks.evaluation import Column, Kept, Rows, Scored, Stage, Table
from mmlight.tasks.graph import Graph, whole_graph
from mmlight.tasks.tagged_text import TaggedText, entities, entity_scores, read_tags
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers
from mmlight.text.words import WordSpan, first_tokens, joined_spans, learn_rule, read_rule

_IGNORED = -100
# Where a checkpoint keeps how training's words were cut, and of how many samples that is learned.
_WORDS = "words"
_LEARNED_OF = 20_000


@dataclass(frozen=True)
class _Sentence:
    """A text's words, their characters, their first tokens and their true tags."""

    words: list[str]
    spans: list[WordSpan]
    first_W: list[int]
    gold: list[str]


class Tagging(Task):
    """Finds entities: a tag for each word, by the first of its sub-words (arXiv 1810.04805, 5.3).

    The text is its words joined by spaces (`text_words` of the data's members), and the data's
    text settings say ``offsets: true``. Words that no token stands for, because the text was cut
    or the tokenizer drops them, count as predicted ``O`` and are counted in ``words_unseen``.

    Args:
        towers: one text tower.
        types: types of entities, such as ``[person, place]``; tags are then ``O``, ``B-person``,
            ``I-person``, ...
        words: field of the data with the words of each sample.
        tags: field of the data with a tag for each word: BIO, IOB1, IOBES, BILOU, or plain types.
        dropout: share of the features set to zero before the head, in training.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers than one for text, or types that are missing or named twice.
    """

    def __init__(
        self,
        *,
        towers: Towers,
        types: list[str],
        words: str = "words",
        tags: str = "tags",
        dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        towers.check_only("text", task="tagging")
        if not types or len(set(types)) < len(types) or not all(types):
            raise UserError(f"model.types: {types} must be one or more different names")
        self.types = list(types)
        self.tags = [OUTSIDE] + [f"{place}-{kind}" for kind in types for place in "BI"]
        self._number_of = {tag: number for number, tag in enumerate(self.tags)}
        self._words_field = words
        self._tags_field = tags
        self._dropout = dropout

    def build(self) -> None:
        """Create the tower and the head."""
        text = (self.preprocessing or {}).get("text")
        if text is not None and not text.get("offsets"):
            raise UserError(
                "data.text.offsets is false; tagging finds a word's tokens by their characters: "
                "set it to true"
            )
        self.build_towers()
        encoder = self.tower("text").encoder
        encoder.leave_out_pooling()
        self.head = PerToken(encoder.out_dim, len(self.tags), dropout=self._dropout)

    def logits(self, text: Text) -> Tensor:
        """Return logits_NLK, float32, for each token of each text."""
        encoded = self.tower("text").encoder(text, tokens=True)
        logits_NLK: Tensor = self.head(encoded.tokens_BLD).float()
        return logits_NLK

    def on_fit_start(self) -> None:
        """Learn how words are cut, for predictions on plain text."""
        super().on_fit_start()
        if self.preprocessing is not None and hasattr(self.data, "field_values"):
            words = self.data.field_values("train", self._words_field, most=_LEARNED_OF)
            self.preprocessing[_WORDS] = learn_rule(words).as_plain()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over how the checkpoint's training cut its words."""
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint.get(CHECKPOINT_KEY, {}).get("preprocessing") or {}
        if self.preprocessing is not None and _WORDS in kept:
            self.preprocessing.setdefault(_WORDS, kept[_WORDS])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross entropy over the words of the global batch."""
        text = _text_of(batch)
        label_NL = torch.full(text.token_ids_NL.shape, _IGNORED)
        for row, sentence in self._sentences(batch):
            for place, number in self._true(sentence):
                label_NL[row, place] = number
        label_NL = label_NL.to(self.device)
        loss_NL = F.cross_entropy(
            self.logits(text).transpose(1, 2), label_NL, ignore_index=_IGNORED, reduction="none"
        )
        return self.log_loss(mean_loss(loss_NL.sum(1), (label_NL != _IGNORED).sum(1)))

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        prefixes = ["", "surface_", *(f"{kind}/" for kind in self.types)]
        scores = {f"{p}{score}" for p in prefixes for score in ("precision", "recall", "f1")}
        return scores | {"loss", "words_unseen"}

    def keep(self, batch: Batch) -> Kept:
        """Keep the tags of each text whose true tags are known."""
        logits_NLK = self.logits(_text_of(batch)).cpu()
        rows: list[int] = []
        tagged: list[TaggedText] = []
        losses: list[list[float]] = []
        sentences = list(self._sentences(batch))
        for row, sentence in sentences:
            spans, first_W, logits_LK = sentence.spans, sentence.first_W, logits_NLK[row]
            log_p_LK = logits_LK.log_softmax(-1)
            rows.append(row)
            tagged.append(read_tags(batch.captions[row], spans, first_W, logits_LK, self.tags))
            losses.append([-float(log_p_LK[at, number]) for at, number in self._true(sentence)])
        columns: dict[str, Column] = {
            "key": [batch.keys[row] for row in rows],
            "tagged": tagged,
            "words": [sentence.words for _, sentence in sentences],
            "gold": [sentence.gold for _, sentence in sentences],
            "losses": losses,
        }
        row_N = torch.tensor(rows, dtype=torch.int64, device=batch.index_B.device)
        return Kept({"samples": Rows(columns, row_N=row_N)})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the entities of the whole set."""
        table = tables["samples"]
        values = entity_scores(
            table["tagged"],
            words=table["words"],
            gold=table["gold"],
            losses=table["losses"],
            types=self.types,
        )
        losses, tagged = table["losses"], table["tagged"]
        evaluation = EntityEvaluation(
            stage=stage,
            samples_S=table.sample_N.numpy(),
            keys=table["key"],
            texts=[text.text for text in tagged],
            gold=[
                entities(text.text, text.words, spans_of(tags))
                for text, tags in zip(tagged, table["gold"], strict=True)
            ],
            found=[text.found() for text in tagged],
            loss_S=np.array([sum(x) / len(x) if x else 0.0 for x in losses], dtype=np.float32),
        )
        return Scored(values, evaluation)

    def answers(self, tables: dict[str, Table]) -> tuple[Tensor, Tensor]:
        """Return the number of the found and of the true tag of each word (`self.tags`)."""
        table = tables["samples"]
        found = [text.tags for text in table["tagged"]]
        of_found, of_gold = (
            torch.tensor([self._number_of[tag] for tags in texts for tag in tags])
            for texts in (found, table["gold"])
        )
        return of_found, of_gold

    def example_fields(self, num_words: int) -> dict[str, Any]:
        """Return words that no type is said of."""
        return {
            self._words_field: ["a"] * num_words,
            self._tags_field: [OUTSIDE] * num_words,
        }

    def example_answers(self) -> tuple[Tensor, Tensor]:
        """Return a word of each tag."""
        number_K = torch.arange(len(self.tags))
        return number_K, number_K

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return the entities of each text, with their places in it.

        A sample with words is tagged by these, another is cut as the words of training were (see
        `mmlight.text.words`).
        """
        rule = read_rule((self.preprocessing or {}).get(_WORDS))
        text = _text_of(batch)
        logits_NLK = self.logits(text).cpu()
        offset_NL2 = _offsets_of(text)
        rows: list[dict[str, Any]] = []
        for row in batch.valid_B.nonzero()[:, 0].tolist():
            caption = batch.captions[row]
            known = batch.fields.get(self._words_field)
            if known is None or known[row] is None:
                spans = rule.cut(caption)
            else:
                spans = self._spans(batch, row)
            first_W = first_tokens(spans, offset_NL2[row])
            tagged = read_tags(caption, spans, first_W, logits_NLK[row], self.tags)
            rows.append(
                {
                    "key": batch.keys[row],
                    "text": caption,
                    "entities": [asdict(entity) for entity in tagged.found()],
                    "words_unseen": tagged.num_unseen,
                }
            )
        return rows

    def graphs(self) -> list[Graph]:
        """Return the model from tokens to their tags' logits."""

        def logits(batch: Batch) -> tuple[Tensor, ...]:
            assert batch.text is not None
            return (self.logits(batch.text),)

        meaning = "float32, for each token; a word's tag is that of its first token"
        return [whole_graph(self, {"tag_logits": meaning}, logits)]

    def check_probe(self, data: Any) -> None:
        """Let any data pass: a probe learns the tags."""

    def probe_rows(self, batch: Batch) -> dict[Modality, tuple[Tensor, Tensor]]:
        """Return the first token's features and the tag of each word."""
        tokens_NLD = self.tower("text").encoder(_text_of(batch), tokens=True).tokens_BLD
        found = [
            (row, place, number)
            for row, sentence in self._sentences(batch)
            for place, number in self._true(sentence)
        ]
        row_M, place_M, tag_M = torch.tensor(found, dtype=torch.int64).view(-1, 3).unbind(1)
        return {"text": (tokens_NLD[row_M, place_M], tag_M)}

    def _true(self, sentence: _Sentence) -> list[tuple[int, int]]:
        """Return the first token of each word that has one, and the number of its true tag."""
        return [
            (place, self._number_of[tag])
            for place, tag in zip(sentence.first_W, sentence.gold, strict=True)
            if place >= 0
        ]

    def _sentences(self, batch: Batch) -> Iterator[tuple[int, _Sentence]]:
        """Yield the texts whose tags are known, with their rows."""
        text = _text_of(batch)
        offset_NL2 = _offsets_of(text)
        for name, field in (("words", self._words_field), ("tags", self._tags_field)):
            if field not in batch.fields:
                raise UserError(
                    f"data.members.fields has no '{field}', which model.{name} names"
                    f"{nearest(field, batch.fields)}; map it, as in {{{field}: json:tokens}}"
                )
        for row in batch.valid_B.nonzero()[:, 0].tolist():
            words = batch.fields[self._words_field][row]
            gold = batch.fields[self._tags_field][row]
            if words is None or gold is None:
                continue
            spans = self._spans(batch, row)
            gold = self._checked_tags(gold, words, key=batch.keys[row])
            yield row, _Sentence(words, spans, first_tokens(spans, offset_NL2[row]), gold)

    def _spans(self, batch: Batch, row: int) -> list[WordSpan]:
        words = batch.fields[self._words_field][row]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(
                f"data.members.fields.{self._words_field}: sample {batch.keys[row]} has "
                f"{str(words)[:40]!r}, not a list of words"
            )
        joined = " ".join(words).encode("utf-8", "replace").decode()
        # a prefix is a text that data.text.max_characters cut: words behind it have no tokens
        if joined.strip() and not (batch.captions[row] and joined.startswith(batch.captions[row])):
            raise UserError(
                f"sample {batch.keys[row]}: its text is not the words of "
                f"data.members.fields.{self._words_field} joined by spaces; take the text from the "
                "same member, with data.members.text_words: true, and leave it as it is"
            )
        return joined_spans(words)

    def _checked_tags(self, gold: Any, words: Sequence[str], *, key: str) -> list[str]:
        where = f"data.members.fields.{self._tags_field}: sample {key}"
        if not isinstance(gold, list) or len(gold) != len(words):
            raise UserError(f"{where} has not one tag for each of its {len(words)} words")
        tags = as_bio([str(tag) for tag in gold], self.types)
        for tag in tags:
            if tag not in self._number_of:
                raise UserError(
                    f"{where} has the tag '{tag}'; model.types knows {', '.join(self.tags)}"
                    f"{nearest(tag, self.tags)}"
                )
        return tags


def _text_of(batch: Batch) -> Text:
    if batch.text is None:
        raise UserError("data.members.text is not set; tagging needs a text")
    if batch.text.item_N.shape[0] != batch.size:
        raise UserError(
            "data.members.text: a sample has several texts, but tagging takes one; if these are "
            "its words, set data.members.text_words: true"
        )
    return batch.text


def _offsets_of(text: Text) -> Tensor:
    assert text.offset_NL2 is not None, "build() checks data.text.offsets"
    return text.offset_NL2.cpu()
