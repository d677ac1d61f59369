"""Says something to images, sounds and texts in one sequence: a decoder with further towers.

Shapes as in `mmlight.decoders.decoder`; B samples, N prompts (usually B in evaluation).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmlight.batch import Batch, Text
from mmlight.decoders.answer import Answer, answer
from mmlight.decoders.decoder import Decoder, Memory, masked_places
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.sequence import joined, next_tokens, without_ends
from mmlight.decoders.speaker import Prompt
from mmlight.errors import UserError
from mmlight.heads.bridge import Bridge
from mmlight.heads.fusion import drop_modalities, first_rows
from mmlight.metrics.answered import answer_scores
from mmlight.modality import Modality
from mmlight.objectives.tokens import TokenLoss
from mmlight.tasks.answering import questions_of
from mmlight.tasks.evaluation import Column, Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.graph import Graph, whole_graph
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers, check_decoder
from mmlight.text.clean import clean_caption
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import Tokenizer

# Which images and sounds a decoder is shown, by modality: tokens (B, M, D), real ones (B, M).
Shown = Mapping[Modality, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class AnsweredEvaluation:
    """What was asked and said of every sample of a set.

    Attributes:
        stage: `val` or `test`.
        keys: ``shard-name/sample-key`` of each question's sample.
        questions: what was asked.
        said: the model's answers.
        answers: those of people.
    """

    stage: Stage
    keys: list[str]
    questions: list[str]
    said: list[str]
    answers: list[list[str]]


class Bridges(nn.Module):
    """What leads from each tower to the decoder, as one module: sharding needs its `forward`.

    Args:
        by_modality: the bridges.
        dim: width of what they return.
        num_positions: learned positions of the first tokens of each modality; 0 has none.
    """

    def __init__(self, by_modality: Mapping[str, Bridge], *, dim: int, num_positions: int) -> None:
        super().__init__()
        self.by_modality = nn.ModuleDict(by_modality)
        self.positions: nn.ParameterDict | None = None
        if num_positions:
            # As large as what they are added to: what stands where is all that some are asked.
            shape = (num_positions, dim)
            self.positions = nn.ParameterDict(
                {name: nn.Parameter(0.5 * torch.randn(shape)) for name in by_modality}
            )

    def forward(self, tokens: Mapping[Modality, Tensor]) -> dict[Modality, Tensor]:
        """Return the tokens of each modality in the decoder's width."""
        found: dict[Modality, Tensor] = {}
        for name, own_BLD in tokens.items():
            found[name] = self.by_modality[name](own_BLD)
            if self.positions is not None:
                place_LD = first_rows(self.positions[name], own_BLD.shape[1])
                found[name] = found[name] + place_LD
        return found


class MultimodalDecoder(Task):
    """Answers prompts about images and sounds with a decoder (LLaVA, arXiv 2304.08485).

    Prompts are the data's text, and `data.members.answer` is what is to be said to each; the loss
    counts answers alone. The tokens of the image and audio towers pass a norm and one or two
    matrices into the decoder's embedding space, where they come before the prompt, images first; a
    decoder with a `memory_dim` attends to them instead. With ``locked: true`` those towers stay as
    they are, and ``tuning: {method: lora, unfreeze: {0: "bridges.*", 500: all}}`` trains the
    matrices first, then adapters of the decoder, too.

    With an image and an audio tower, evaluation also answers from each alone, as
    ``val/image/accuracy``.

    Args:
        towers: text, a decoder of `mmlight.decoders`, and image, audio or both.
        objective: the loss over tokens.
        bridge_hidden: width between two matrices in place of the one, with GELU (LLaVA 1.5).
        bridge_dropout: rate of the dropout on what the image and audio towers say.
        modality_dropout: how often training hides each of a sample's image and sound; one stays.
        num_positions: learned positions of so many first tokens of an image and of a sound, for a
            decoder that attends to them; in front of its text they have the decoder's own.
        sampling: how evaluation and predictions generate answers.
        type_field: the field of the data that holds a question's type.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: towers or settings that do not go together.
    """

    takes_captions = True

    def __init__(
        self,
        *,
        towers: Towers,
        objective: Callable[[], TokenLoss] = TokenLoss,
        bridge_hidden: int | None = None,
        bridge_dropout: float = 0.0,
        modality_dropout: float = 0.0,
        num_positions: int = 0,
        sampling: Sampling = Sampling(max_new_tokens=16),  # noqa: B008  (never mutated)
        type_field: str = "type",
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        names = list(towers.given())
        if "text" not in names or len(names) < 2:
            named = ", ".join(names) or "none"
            raise UserError(
                f"model.towers names {named}; a multimodal decoder takes text, a decoder, and "
                "image, audio or both"
            )
        self._shown: list[Modality] = [name for name in names if name != "text"]
        if not 0 <= modality_dropout < 1:
            raise UserError(f"model.modality_dropout: {modality_dropout} must be in [0, 1)")
        if modality_dropout and len(self._shown) == 1:
            raise UserError(
                f"model.modality_dropout has no effect with {self._shown[0]} alone: one stays"
            )
        self._make_objective = objective
        self._bridge_hidden, self._bridge_dropout = bridge_hidden, bridge_dropout
        self._modality_dropout = modality_dropout
        if num_positions < 0:
            raise UserError(f"model.num_positions: {num_positions} must be 0 or more")
        self._num_positions = num_positions
        self.sampling = sampling
        self.type_field = type_field

    @property
    def takes_pieces(self) -> bool:
        """Samples may have several images or windows of sound, shown one behind the other."""
        return True

    def check_pools(self, data: Any) -> None:
        """Refuse a pooling over what is shown as it is."""
        super().check_pools(data)
        for name in self._shown:
            if getattr(self.tower_settings, name).pieces is not None:
                raise UserError(
                    f"model.towers.{name}.pieces: has no effect: the decoder is shown the tokens "
                    "of all; leave it out"
                )

    @property
    def decoder(self) -> Decoder:
        """The text tower."""
        return cast(Decoder, self.tower("text").encoder)

    def build(self) -> None:
        """Create the towers and what leads from one to another.

        Raises:
            UserError: a text tower that is no decoder, or no tokenizer.
        """
        self.build_towers()
        decoder = check_decoder(self.tower("text").encoder)
        self.tokenizer: Tokenizer = tokenizer_from_state(
            (self.preprocessing or {})["text"]["tokenizer"]
        )
        if self.tokenizer.end_id is None:
            raise UserError(
                "data.text.tokenizer has no token that ends a text, so answers would never end; "
                "use another kind"
            )
        bridges: dict[str, Bridge] = {}
        for name in self._shown:
            encoder = self.tower(name).encoder
            encoder.leave_out_pooling()
            bridges[name] = Bridge(
                encoder.token_dim or encoder.out_dim,
                decoder.memory_dim or decoder.out_dim,
                hidden_dim=self._bridge_hidden,
                dropout=self._bridge_dropout,
                always_projects=True,
            )
        self.bridges = Bridges(
            bridges,
            dim=decoder.memory_dim or decoder.out_dim,
            num_positions=self._num_positions,
        )
        self.objective = self._make_objective()

    def shown(self, batch: Batch) -> Shown:
        """Return what the decoder is shown of each sample, with gradients."""
        tokens: dict[Modality, Tensor] = {}
        masks: dict[Modality, Tensor] = {}
        for name in self._shown:
            part = getattr(batch, name)
            if part is not None:
                encoded = self.tower(name).encoder(part, tokens=True)
                tokens_BLD, mask_BL = encoded.tokens_BLD, encoded.mask_BL
                if part.pieces is not None:  # one behind the other
                    tokens_BLD = part.pieces.spread(tokens_BLD, part.size).flatten(1, 2)
                    mask_BL = part.pieces.spread(mask_BL, part.size).flatten(1, 2)
                tokens[name] = tokens_BLD
                masks[name] = mask_BL & batch.present(name)[:, None]
        if not tokens:
            raise UserError(
                f"the data has none of {' and '.join(self._shown)}; name it in data.members"
            )
        found = {name: (one, masks[name]) for name, one in self.bridges(tokens).items()}
        if self.training and self._modality_dropout and len(found) > 1:
            present = {name: mask_BM.any(1) for name, (_, mask_BM) in found.items()}
            kept = drop_modalities(present, self._modality_dropout)
            found = {
                name: (tokens_BMD, mask_BM & kept[name][:, None])
                for name, (tokens_BMD, mask_BM) in found.items()
            }
        return found

    def hidden(self, text: Text, shown: Shown) -> Tensor:
        """Return the decoder's last hidden states at each token of N texts (N, L, D)."""
        prompt = self._prompt(text, shown)
        decoder = self.decoder
        if prompt.memory is not None:
            return decoder.decode(prompt.embedded_NLD, memory=prompt.memory)
        length = prompt.mask_NL.shape[1]
        decoder.check_length(length)
        places = masked_places(prompt.mask_NL, length=length)
        hidden_NLD = decoder.decode(prompt.embedded_NLD, places=places)
        return hidden_NLD[:, length - text.mask_NL.shape[1] :]

    def answer_loss(self, batch: Batch, shown: Shown) -> tuple[Tensor, Tensor]:
        """Return -log p(token) (N, L) and which tokens are an answer's (N, L)."""
        text = self._joined(batch)
        target = next_tokens(text)
        logits_NLV = self.decoder.logits(self.hidden(text, shown))
        return self.objective.terms(logits_NLV, target.token_NL), target.counted_NL

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of the global batch's answers."""
        text = self._joined(batch)
        target = next_tokens(text)
        logits_NLV = self.decoder.logits(self.hidden(text, self.shown(batch)))
        loss = self.objective(logits_NLV, target.token_NL, counted_NL=target.counted_NL)
        return self.log_loss(loss.of_samples(text.item_N))

    def say(self, batch: Batch, sampling: Sampling, *, shown: Shown | None = None) -> list[Answer]:
        """Return what is said to each text of a batch.

        Args:
            batch: texts are prompts, with their start and end as the tokenizer puts them.
            sampling: how.
            shown: what `shown` returned; None asks it.
        """
        assert batch.text is not None
        return self._answers(batch.text, self.shown(batch) if shown is None else shown, sampling)

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        sampling: Sampling,
        *,
        rows: Sequence[int] | None = None,
        on_text: Callable[[int, str], None] | None = None,
        about: Batch | None = None,
    ) -> list[Answer]:
        """Return what is said to each prompt; see `Task.generate`.

        Args:
            prompts: about one sample.
            sampling: how.
            rows: the number of each prompt.
            on_text: told each prompt's place and a piece of its answer.
            about: a batch of the sample, without its text.

        Raises:
            UserError: nothing is shown.
        """
        if about is None:
            raise UserError(
                f"a {type(self).__name__} answers about an image or a sound: mmlight chat --model "
                f"RUN --{self._shown[0]} FILE"
            )
        assert self.preprocessing is not None
        settings = self.preprocessing["text"]
        said = [clean_caption(prompt, settings.get("clean") or "none") for prompt in prompts]
        encoding = self.tokenizer.encode_batch(said, max_tokens=settings["max_tokens"])
        row_N = torch.zeros(len(said), dtype=torch.int64)
        text = Text(
            token_ids_NL=torch.from_numpy(encoding.ids_NL),
            mask_NL=torch.from_numpy(encoding.mask_NL),
            present_N=row_N == 0,
            item_N=row_N,
            caption_id_N=row_N,
        ).to(self.device)
        return self._answers(text, self.shown(about), sampling, rows=rows, on_text=on_text)

    def _answers(
        self, text: Text, shown: Shown, sampling: Sampling, **options: Any
    ) -> list[Answer]:
        opened = self._opened(text)
        pairs = zip(opened.token_ids_NL.tolist(), opened.mask_NL.tolist(), strict=True)
        before = [[token for token, real in zip(*row, strict=True) if real] for row in pairs]
        prompt = self._prompt(opened, shown)
        return answer(self.decoder, self.tokenizer, prompt, sampling, before=before, **options)

    def keep(self, batch: Batch) -> Kept:
        """Keep what was asked, said and answered, from all modalities and from each alone."""
        asked = questions_of(batch)
        shown = self.shown(batch)
        rows = asked.sample_N.tolist()
        of_samples = sample_columns(batch)
        columns: dict[str, Column] = {"question": batch.captions, "answers": asked.answers}
        for subset in self._subsets():
            only = {name: shown[name] for name in subset if name in shown}
            found = self.say(batch, self.sampling, shown=only) if only else []
            columns["/".join(subset)] = [one.text.strip() for one in found] or [""] * len(rows)
        if batch.answer is not None:
            terms_NL, counted_NL = self.answer_loss(batch, shown)
            columns["loss"] = torch.where(counted_NL, terms_NL, 0.0).sum(1).double()
            columns["count"] = counted_NL.sum(1)
        columns |= {name: [column[row] for row in rows] for name, column in of_samples.items()}
        return Kept({"questions": Rows(columns, row_N=asked.sample_N)})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score what was said from all modalities, then from each alone."""
        table = tables["questions"]
        types = table.fields().get(self.type_field, [])
        values: dict[str, float] = {}
        for subset, prefix in zip(self._subsets(), self._prefixes(), strict=True):
            scores = answer_scores(table["/".join(subset)], table["answers"], types)
            values |= {prefix + name: value for name, value in scores.items()}
        if "loss" in table.columns and int(table["count"].sum()):
            values["loss"] = float(table["loss"].sum() / table["count"].sum())
        said = table["/".join(self._subsets()[0])]
        evaluation = AnsweredEvaluation(
            stage, table["key"], table["question"], said, table["answers"]
        )
        return Scored(values, evaluation)

    def answers(self, tables: dict[str, Table]) -> tuple[list[str], list[list[str]]]:
        """Return what was said, and what people answered."""
        table = tables["questions"]
        return table["/".join(self._subsets()[0])], table["answers"]

    def example_answers(self) -> tuple[list[str], list[list[str]]]:
        """Return two answers."""
        return ["a b", "a b"], [["a b"], ["a c"]]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return what is said to each sample's (first) text, and how probable it is."""
        batch = batch.with_first_text()
        found = self.say(batch, self.sampling)
        return [
            {
                "key": batch.keys[row],
                "question": batch.captions[row] if batch.captions else "",
                "answer": found[row].text.strip(),
                "log_probability": found[row].log_probability,
            }
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]

    def graphs(self) -> list[Graph]:
        """Return the model from its inputs to scores of what comes next at each token."""

        def scores(batch: Batch) -> tuple[Tensor, ...]:
            assert batch.text is not None
            return (self.decoder.logits(self.hidden(batch.text, self.shown(batch))),)

        meanings = {"next_token_logits": "float32, of what comes next at each token of the text"}
        return [whole_graph(self, meanings, scores)]

    def _prompt(self, text: Text, shown: Shown) -> Prompt:
        embedded_NLD = self.decoder.embed(text.token_ids_NL)
        parts = [(tokens[text.item_N], mask[text.item_N]) for tokens, mask in shown.values()]
        tokens_NMD = torch.cat([tokens for tokens, _ in parts], 1)
        mask_NM = torch.cat([mask for _, mask in parts], 1)
        if self.decoder.memory_dim is None:
            joined_NLD = torch.cat([tokens_NMD.to(embedded_NLD.dtype), embedded_NLD], 1)
            return Prompt(joined_NLD, torch.cat([mask_NM, text.mask_NL], 1))
        # Attention over nothing is not a number: who has nothing looks at one token.
        first_M = torch.arange(mask_NM.shape[1], device=mask_NM.device) == 0
        mask_NM = mask_NM | (first_M & ~mask_NM.any(1, keepdim=True))
        return Prompt(embedded_NLD, text.mask_NL, Memory(tokens_NMD, mask_NM))

    def _opened(self, prompt: Text) -> Text:
        """Return prompts without the token that would end them."""
        return without_ends(prompt, end_id=self.tokenizer.end_id)

    def _joined(self, batch: Batch) -> Text:
        """Return each prompt with one answer to it, in one row."""
        prompt, given = batch.text, batch.answer
        if prompt is None or given is None:
            raise UserError(
                "data.members.text and answer name what is asked and what is to be said to it; "
                f"{'text' if prompt is None else 'answer'} is missing"
            )
        size = batch.size
        if prompt.item_N.shape[0] == size and given.item_N.shape[0] != size:
            first_B = given.first_rows(size)
            given = replace(given.map(lambda rows: rows[first_B]), item_N=prompt.item_N)
        assert given.item_N.shape[0] == prompt.item_N.shape[0], "see questions_of"
        both = joined(self._opened(prompt), without_ends(given, start_id=self.tokenizer.start_id))
        there_N1 = (prompt.present_N & given.present_N)[:, None]
        assert both.counted_NL is not None
        return replace(both, item_N=prompt.item_N, counted_NL=both.counted_NL & there_N1)

    def _subsets(self) -> list[tuple[Modality, ...]]:
        names = self._shown
        return [s for count in range(len(names), 0, -1) for s in combinations(names, count)]

    def _prefixes(self) -> list[str]:
        return ["", *(f"{'_'.join(subset)}/" for subset in self._subsets()[1:])]
