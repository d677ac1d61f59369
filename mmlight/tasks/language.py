"""What language models share: a decoder and its tokenizer, and what they say to prompts.

Shapes as in `mmlight.batch`: N texts, L tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from mmlight.batch import Batch, Text
from mmlight.decoders.answer import Answer, answer, token_prompt
from mmlight.decoders.decoder import Decoder
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.sequence import joined, next_tokens, without_ends
from mmlight.errors import UserError
from mmlight.tasks.graph import Graph, whole_graph
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers, check_decoder
from mmlight.text.clean import clean_caption
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import Tokenizer

# Prompts are cut by the decoder, which knows what it can read, and not by their tokenizer.
_WHOLE = 1 << 30


@dataclass(frozen=True)
class Said:
    """What the model makes of a batch's texts.

    Attributes:
        logits_NLV: scores of what comes next at each place but the last.
        token_NL: int64, what does come next.
        counted_NL: bool, whether it counts.
        text: the whole texts.
    """

    logits_NLV: Tensor
    token_NL: Tensor
    counted_NL: Tensor
    text: Text


class LanguageTask(Task):
    """A text tower that says what comes next.

    Args:
        towers: one text tower whose encoder is a decoder (`mmlight.decoders`).
        sampling: how `mmlight predict` chooses what it says.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers, or a text encoder that sees what comes after.
    """

    tokenizer: Tokenizer

    def __init__(
        self,
        *,
        towers: Towers,
        sampling: Sampling = Sampling(),  # noqa: B008  (never mutated)
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        towers.check_only("text", task=type(self).__name__)
        self.sampling = sampling

    def build_language(self) -> None:
        """Create the tower, and read the tokenizer of the data."""
        self.build_towers()
        check_decoder(self.tower("text").encoder)
        text = (self.preprocessing or {}).get("text") or {}
        if text.get("tokenizer") is None:
            raise UserError("data.text.tokenizer is not set; a language model needs one")
        self.tokenizer = tokenizer_from_state(text["tokenizer"])

    @property
    def decoder(self) -> Decoder:
        """The decoder."""
        return cast(Decoder, self.tower("text").encoder)

    def say(self, text: Text, *, decoder: Decoder | None = None) -> Said:
        """Return what the model, or another decoder, makes of texts, with gradients."""
        decoder = decoder or self.decoder
        target = next_tokens(text)
        counted_NL = target.counted_NL & text.present_N[:, None]
        # Nothing comes after the last place, so that nobody asks what the model says there.
        length = max(1, text.token_ids_NL.shape[1] - 1)
        of_NL = text.sample_NL
        read = replace(
            text,
            token_ids_NL=text.token_ids_NL[:, :length],
            mask_NL=text.mask_NL[:, :length],
            sample_NL=None if of_NL is None else of_NL[:, :length],
        )
        hidden_NLD = decoder(read, tokens=True).tokens_BLD
        return Said(
            logits_NLV=decoder.logits(hidden_NLD),
            token_NL=target.token_NL[:, :length],
            counted_NL=counted_NL[:, :length],
            text=text,
        )

    def with_prompt(self, batch: Batch, answer: Text) -> Text:
        """Return each answer behind its prompt, in one row of which the answer counts.

        Raises:
            UserError: the data has no prompts, or both are longer than the decoder's positions.
        """
        first = batch.with_first_text().text
        if first is None:
            raise UserError("the data has no prompts; name their member in data.members.text")
        prompt = without_ends(first, end_id=self.tokenizer.end_id)
        prompt = prompt.map(lambda rows: rows[answer.item_N])
        both = joined(prompt, without_ends(answer, start_id=self.tokenizer.start_id))
        self.decoder.check_length(both.mask_NL.shape[1] - 1)
        return replace(both, present_N=prompt.present_N & answer.present_N)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        rows: Sequence[int] | None = None,
        on_text: Callable[[int, str], None] | None = None,
    ) -> list[Answer]:
        """Return how each prompt goes on; see `Task.generate`."""
        said = [self._tokens(prompt) for prompt in prompts]
        return answer(
            self.decoder,
            self.tokenizer,
            token_prompt(self.decoder, said, device=self.device),
            sampling,
            before=said,
            rows=rows,
            on_text=on_text,
        )

    def _tokens(self, prompt: str) -> list[int]:
        assert self.preprocessing is not None
        text = self.preprocessing["text"]
        # half of a surrogate pair, from a terminal that is not UTF-8 or out of JSON
        whole = prompt.encode("utf-8", "replace").decode("utf-8")
        cleaned = clean_caption(whole, text.get("clean") or "none")
        ids = self.tokenizer.encode([cleaned], max_tokens=_WHOLE)[0]
        if ids and ids[-1] == self.tokenizer.end_id:
            ids = ids[:-1]
        if not ids:
            raise UserError(
                "a prompt is empty, and nothing opens a text of this tokenizer; say something, "
                "such as a newline"
            )
        return ids

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return how each text goes on."""
        if not batch.captions:
            raise UserError("the data has no text to go on with; name it in data.members.text")
        assert batch.text is not None
        first = batch.text.first_rows(batch.size).tolist()
        valid = batch.valid_B.nonzero()[:, 0].tolist()
        if not valid:
            return []
        numbers = batch.index_B.tolist()
        answers = self.generate(
            [batch.captions[first[row]] for row in valid],
            self.sampling,
            rows=[numbers[row] for row in valid],
        )
        return [
            {
                "key": batch.keys[row],
                "prompt": batch.captions[first[row]],
                "answer": one.text,
                "log_probability": one.log_probability,
                "is_ended": one.is_ended,
            }
            for row, one in zip(valid, answers, strict=True)
        ]

    def graphs(self) -> list[Graph]:
        """Return the model from tokens to the scores of what comes next."""

        def logits(batch: Batch) -> tuple[Tensor, ...]:
            assert batch.text is not None
            return (self.decoder.logits(self.decoder(batch.text, tokens=True).tokens_BLD),)

        return [whole_graph(self, {"logits": "float32, of what comes next at each place"}, logits)]
