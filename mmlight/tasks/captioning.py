"""Says in words what an image shows or a sound holds: a decoder that looks at another tower.

Shapes as in `mmlight.batch`: B samples, N captions, L places, M tokens of the other tower, D width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmlight.batch import Batch, Images, Text
from mmlight.decoders.decoder import Decoder, Memory, masked_places
from mmlight.decoders.generate import Generated, Prompt, generate
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.sequence import NextTokens, next_tokens
from mmlight.errors import UserError
from mmlight.heads.bridge import Bridge
from mmlight.metrics.captions import SCORES, CaptionEvaluation, caption_scores
from mmlight.modality import Modality
from mmlight.objectives.tokens import TokenLoss
from mmlight.runs.plots.canvas import spread
from mmlight.tasks.caption_looks import Look, grid_of, watched_weights, word_maps
from mmlight.tasks.caption_pictures import draw_captions
from mmlight.tasks.caption_words import CaptionWords
from mmlight.tasks.evaluation import Column, Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.graph import INPUTS, Graph
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers, check_decoder

SAMPLES, _LOOKS = "captioned", "looks"
_MOST_LOOKS = 4  # of a rank


@dataclass(frozen=True)
class Said:
    """What a decoder says at each place of captions that it is shown.

    Attributes:
        logits_NLV: scores of what comes next.
        next: what does.
    """

    logits_NLV: Tensor
    next: NextTokens


class Captioning(Task):
    """Captions of images or sounds: the text tower is a decoder that sees the other tower's tokens.

    Args:
        towers: one for images or audio, and one for text whose encoder is a decoder:
            `mmlight.decoders.transformer_decoder.TransformerDecoder`, say.
        by: how the decoder sees the other tower. ``cross_attention`` has its layers attend to the
            tokens (a decoder with a `memory_dim`), ``prefix`` puts them in front of the text, as if
            they were words (any decoder).
        token_dropout: rate of the dropout on the other tower's tokens.
        sampling: how captions are generated, in evaluations and predictions; by default the
            likeliest token at each place, at most as many as the data's `max_tokens`.
        objective: cross-entropy over the tokens of captions.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers, a decoder that cannot see tokens in this way, or a tokenizer
            without a token that ends a caption.
    """

    sense: Modality

    def __init__(
        self,
        *,
        towers: Towers,
        by: Literal["cross_attention", "prefix"] = "cross_attention",
        token_dropout: float = 0.1,
        sampling: Sampling | None = None,
        objective: Callable[[], TokenLoss] = TokenLoss,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        others = [name for name in towers.given() if name != "text"]
        if towers.text is None or len(others) != 1:
            raise UserError(
                f"model.towers names {', '.join(towers.given()) or 'none'}; captions need two: "
                "image or audio, and text, whose encoder is a decoder"
            )
        if sampling is not None and sampling.guidance != 1:
            raise UserError(
                "model.sampling.guidance: captions are trained with their image or sound only, so "
                "there is nothing to compare with; leave it out"
            )
        (self.sense,) = others
        self.by = by
        self._token_dropout = token_dropout
        self._sampling = sampling
        self._make_token_loss = objective

    @property
    def decoder(self) -> Decoder:
        """The text tower's encoder."""
        decoder = self.tower("text").encoder
        assert isinstance(decoder, Decoder)
        return decoder

    def build(self) -> None:
        """Create the towers and what leads from one to the other."""
        self.build_towers()
        self.tower(self.sense).encoder.leave_out_pooling()
        self.build_captions()
        self.token_loss = self._make_token_loss()

    def build_captions(self) -> None:
        """Create what leads from the other tower's tokens to the decoder; towers are there."""
        encoder, decoder = self.tower(self.sense).encoder, check_decoder(self.tower("text").encoder)
        is_prefix = self.by == "prefix"
        if is_prefix != (decoder.memory_dim is None):
            remedy = "set model.towers.text.encoder.memory_dim, or by: prefix"
            raise UserError(
                f"model.by: {self.by} does not go with a decoder that has "
                f"{'a' if is_prefix else 'no'} memory_dim; "
                + ("leave that out" if is_prefix else remedy)
            )
        self.words = CaptionWords((self.preprocessing or {}).get("text"))
        dim = decoder.memory_dim or decoder.out_dim
        self.bridge = Bridge(
            encoder.token_dim or encoder.out_dim,
            dim,
            dropout=self._token_dropout,
            always_projects=is_prefix,
        )
        self.sampling = self._sampling or Sampling(max_new_tokens=self.words.max_tokens)

    def memory(self, tokens_BMD: Tensor, mask_BM: Tensor) -> Memory:
        """Return the other tower's tokens as the decoder takes them."""
        # A sound of no length has no token that is real; softmax over nothing is NaN.
        mask_BM = mask_BM | ~mask_BM.any(1, keepdim=True)
        return Memory(self.bridge(tokens_BMD), mask_BM)

    def see(self, batch: Batch) -> Memory:
        """Return what the decoder is to talk about."""
        encoded = self.tower(self.sense).encoder(self._inputs(batch), tokens=True)
        assert encoded.mask_BL is not None
        return self.memory(encoded.tokens_BLD, encoded.mask_BL)

    def say(self, text: Text, memory: Memory) -> Said:
        """Return what the decoder says at each place of captions.

        Args:
            text: the captions.
            memory: what each of them is about.
        """
        text = self.words.with_ends(text)
        embedded_NLD = self.decoder.embed(text.token_ids_NL)
        if self.by == "cross_attention":
            hidden_NLD = self.decoder.decode(embedded_NLD, memory=memory)
        else:
            prompt = self._behind(memory, embedded_NLD, text.mask_NL)
            places = masked_places(prompt.mask_NL, length=prompt.mask_NL.shape[1])
            length = text.mask_NL.shape[1]
            hidden_NLD = self.decoder.decode(prompt.embedded_NLD, places=places)[:, -length:]
        return Said(self.decoder.logits(hidden_NLD), next_tokens(text))

    @torch.no_grad()
    def describe(self, memory: Memory, *, rows: list[int] | None = None) -> list[Generated]:
        """Return a caption of each sample.

        Args:
            memory: what they are about.
            rows: numbers of the samples, from which random numbers are made.
        """
        size, words = len(memory.mask_NM), self.words
        start_N1 = torch.full((size, 1), words.start_id, device=memory.mask_NM.device)
        embedded_N1D = self.decoder.embed(start_N1)
        here_N1 = torch.ones_like(start_N1, dtype=torch.bool)
        if self.by == "cross_attention":
            prompt = Prompt(embedded_N1D, here_N1, memory)
        else:
            prompt = self._behind(memory, embedded_N1D, here_N1)
        return generate(
            self.decoder,
            prompt,
            self.sampling,
            end_id=words.end_id,
            allowed_V=words.allowed(self.decoder.vocab_size, device=start_N1.device),
            rows=rows,
        )

    def _behind(self, memory: Memory, embedded_NLD: Tensor, mask_NL: Tensor) -> Prompt:
        tokens_NMD = memory.tokens_NMD.to(embedded_NLD.dtype)
        return Prompt(
            torch.cat([tokens_NMD, embedded_NLD], 1), torch.cat([memory.mask_NM, mask_NL], 1)
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the captions of the global batch."""
        text = self._captions(batch)
        said = self.say(text, self.see(batch))
        counted_NL = said.next.counted_NL & self._known(batch)[:, None]
        loss = self.token_loss(said.logits_NLV, said.next.token_NL, counted_NL=counted_NL)
        return self.log_loss(loss.of_samples(text.item_N))

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        return set(SCORES)

    def keep(self, batch: Batch) -> Kept:
        """Keep what was generated, what people said, and how likely that was."""
        return self.keep_captions(batch, self.see(batch))

    def keep_captions(self, batch: Batch, memory: Memory) -> Kept:
        """Do what `keep` does, the other tower having been read."""
        text = self._captions(batch)
        item_N = text.item_N
        said = self.say(text, Memory(memory.tokens_NMD[item_N], memory.mask_NM[item_N]))
        counted_NL = said.next.counted_NL & self._known(batch)[:, None]
        terms_NL = TokenLoss().terms(said.logits_NLV, said.next.token_NL).double()
        loss_N = torch.where(counted_NL, terms_NL, 0.0).sum(1)
        zeros_B = loss_N.new_zeros(batch.size)
        generated = self.describe(memory, rows=batch.index_B.tolist())
        captions = self.texts(generated)
        references: list[list[str]] = [[] for _ in range(batch.size)]
        is_exact = [False] * batch.size
        present = text.present_N.tolist()
        for item, caption, is_there in zip(item_N.tolist(), batch.captions, present, strict=True):
            if is_there:
                references[item].append(" ".join(caption.split()))
                is_exact[item] |= captions[item] == self.words.comparable(caption)
        columns: dict[str, Column] = {
            "found": captions,
            "references": references,
            "exact": is_exact,
            "loss": zeros_B.index_add(0, item_N, loss_N),
            "tokens": zeros_B.long().index_add(0, item_N, counted_NL.sum(1)),
        }
        keep_B = zeros_B.index_add(0, item_N, self._known(batch).double()) > 0
        return Kept(
            {
                SAMPLES: Rows(columns | sample_columns(batch), keep_N=keep_B),
                _LOOKS: self._looks(batch, memory, generated, keep_B & batch.valid_B),
            }
        )

    def watch(self) -> AbstractContextManager[list[Tensor]]:
        """Collect how much the decoder looks at each token of the other tower, layer by layer.

        Raises:
            UserError: nothing is known of its attention.
        """
        if self.by == "prefix":
            return self.decoder.explicit_attention()
        return self.decoder.explicit_cross_attention()

    def _looks(
        self, batch: Batch, memory: Memory, generated: list[Generated], shown_B: Tensor
    ) -> Rows:
        """Return what the words of a few samples of an evaluation's first batch look at."""
        device = shown_B.device
        places: list[int] = []
        if self._gatherer.is_empty:
            there = shown_B.nonzero()[:, 0].tolist()
            places = [there[i] for i in spread(len(there), _MOST_LOOKS)]
        found = self._look(batch, memory, generated, places) if places else []
        row_N = torch.tensor(places[: len(found)], dtype=torch.int64, device=device)
        return Rows({"look": found}, row_N=row_N)

    def _look(
        self, batch: Batch, memory: Memory, generated: list[Generated], places: list[int]
    ) -> list[Look]:
        row_K = torch.tensor(places, device=memory.mask_NM.device)
        inputs = self._inputs(batch).map(lambda tensor: tensor[row_K])
        encoder = self.tower(self.sense).encoder
        seen = Memory(memory.tokens_NMD[row_K], memory.mask_NM[row_K])
        said = [generated[place].tokens for place in places]
        text = self.words.as_text(said, device=row_K.device)
        try:
            canvas = encoder.read_canvas(inputs)
            num_seen = seen.mask_NM.shape[1]
            grid = grid_of(encoder, canvas, num_seen)
            weights_KLM = watched_weights(
                self.watch(), lambda: self.say(text, seen), num_seen=num_seen
            )
        except UserError:  # an encoder or decoder that cannot be looked into
            return []
        if grid is None:
            return []
        # Of the places of a prefix, only those of the text speak; it has a start and an end.
        weights_KLM = weights_KLM[:, -(2 + max(map(len, said))) :]
        map_KRC = canvas.to_map(canvas.values).float().cpu().numpy()
        looks = []
        for number, tokens in enumerate(said):
            words, maps_WRC = word_maps(
                weights_KLM[number].cpu().numpy(), tokens, grid=grid, text=self.words.text
            )
            picture = map_KRC[number]
            if isinstance(inputs, Images):
                picture = inputs.pixels_BCHW[number].cpu().numpy()
            looks.append(Look(picture, words, maps_WRC, grid.covered))
        return looks

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the captions of the whole set."""
        table = tables[SAMPLES]
        evaluation = CaptionEvaluation(
            stage=stage,
            samples_S=table.sample_N.numpy(),
            keys=table["key"],
            found=table["found"],
            references=table["references"],
            is_exact_S=np.array(table["exact"], dtype=bool),
            loss_S=table["loss"].numpy(),
            tokens_S=table["tokens"].numpy(),
            looks=tables[_LOOKS]["look"],
            fields=table.fields(),
        )
        return Scored(caption_scores(evaluation), evaluation)

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw samples with their captions, and what each word looked at."""
        return draw_captions(evaluation, folder, samples)

    def answers(self, tables: dict[str, Table]) -> tuple[list[str], list[list[str]]]:
        """Return the captions and, for each, what people said."""
        return tables[SAMPLES]["found"], tables[SAMPLES]["references"]

    def example_answers(self) -> tuple[list[str], list[list[str]]]:
        """Return two captions."""
        return ["a b c d", "a b c e"], [["a b c d"], ["a b c f", "a b c e"]]

    def texts(self, generated: list[Generated]) -> list[str]:
        """Return what was generated as texts, cut before the first of `sampling.stop`."""
        found = []
        for one in generated:
            text = self.words.text(one.tokens)
            for stop in self.sampling.stop:
                text = text.partition(stop)[0]
            found.append(" ".join(text.split()))
        return found

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return the caption of each sample and its log-probability."""
        generated = self.describe(self.see(batch), rows=batch.index_B.tolist())
        captions = self.texts(generated)
        return [
            {
                "key": batch.keys[row],
                "caption": captions[row],
                "log_probability": generated[row].log_probability,
            }
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]

    def probe_rows(self, batch: Batch) -> dict[Modality, tuple[Tensor, Tensor]]:
        """Return what a probe learns from: the other tower alone."""
        return super().probe_rows(replace(batch, text=None))

    def graphs(self) -> list[Graph]:
        """Return what comes next in captions, as a function of them and of what they are about."""

        def logits(batch: Batch) -> tuple[Tensor, ...]:
            assert batch.text is not None
            return (self.say(batch.text, self.see(batch)).logits_NLV.float(),)

        return [
            Graph(
                self,
                name="model",
                function=logits,
                inputs=[*INPUTS[self.sense], *INPUTS["text"]],
                outputs={"next_logits": "float32, for each token: what comes behind it"},
            )
        ]

    def _inputs(self, batch: Batch) -> Any:
        inputs = getattr(batch, self.sense)
        if inputs is None:
            raise UserError(
                f"the data has no {self.sense}; name the member in data.members.{self.sense}"
            )
        return inputs

    def _captions(self, batch: Batch) -> Text:
        if batch.text is None:
            raise UserError("data.members.text is not set; captioning learns from captions")
        return batch.text

    def _known(self, batch: Batch) -> Tensor:
        """Tell which captions are there, and what they are about, too (N,)."""
        text = self._captions(batch)
        return text.present_N & batch.present(self.sense)[text.item_N]
