"""Draws what a text says: one transformer over captions and image codes (DALL-E, arXiv 2102.12092).

Shapes as in `mmlight.batch`: B samples, L codes of an image, W tokens of a caption's field, S
places of a sequence, V tokens of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight import comm
from mmlight.batch import Batch, Images
from mmlight.decoders.decoder import Decoder
from mmlight.decoders.sampling import Sampling
from mmlight.encoders.codes import CodeEncoder
from mmlight.encoders.encoder import eval_mode
from mmlight.errors import UserError
from mmlight.objectives.objective import Loss
from mmlight.objectives.reconstruction import Reconstruction
from mmlight.objectives.tokens import TokenLoss
from mmlight.runs.plots.picture_grid import plot_samples
from mmlight.tasks.code_drawer import CodeDrawer, DrawnImages
from mmlight.tasks.code_words import CodeWords
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers, check_decoder
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import Tokenizer
from mmlight.trainer.internals import FakeTensor

_DRAWING = Sampling(temperature=1.0)
_IMAGE_FIRST, _DROPPED = 0, 1


@dataclass(frozen=True)
class DrawnEvaluation:
    """What pictures are drawn of.

    Attributes:
        stage: `val` or `test`.
        prompts: captions.
        pixels: what was drawn of each, uint8 (C, H, W).
    """

    stage: Stage
    prompts: list[str]
    pixels: list[np.ndarray]


class TextToImage(Task):
    """Draws images from captions, code by code, and says captions of images.

    The image tower is a trained tokenizer (`from_run`, `locked: true`), the text tower a decoder,
    such as `mmlight.decoders.transformer_decoder.TransformerDecoder`, over one vocabulary: the
    text's tokens, two marks and the codes.

    Args:
        towers: a tokenizer for images and a decoder for text.
        drop_caption: share of the samples whose caption is left out in training, for guidance.
        text_weight: weight of the loss of caption tokens, beside that of codes.
        image_first: share of the samples that have the image first: of those the caption is learnt.
        sampling: how pictures, predictions and what `mmlight judge` sees are drawn.
        num_drawn: captions of an evaluation that are drawn; 0 draws none.
        contrast: weigh codes in training by how much is going on in their part of the image, as
            `mmlight.objectives.reconstruction.Reconstruction` weighs places: most codes are of
            background, and what is shown is learnt late without.
        label_smoothing: see `mmlight.objectives.tokens.TokenLoss`.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers, or sizes that do not go together.
    """

    job_type = "pretrain"

    def __init__(
        self,
        *,
        towers: Towers,
        drop_caption: float = 0.1,
        text_weight: float = 0.0,
        image_first: float = 0.0,
        sampling: Sampling = _DRAWING,
        num_drawn: int = 16,
        contrast: bool = False,
        label_smoothing: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        if list(towers.given()) != ["image", "text"]:
            named = ", ".join(towers.given()) or "none"
            raise UserError(f"model.towers names {named}; text to image takes image and text")
        assert towers.image is not None
        if not towers.image.locked:
            raise UserError(
                "model.towers.image.locked: must be true: the codes of a tokenizer that changes "
                "mean nothing to what was learnt from them"
            )
        for name, value in (("drop_caption", drop_caption), ("image_first", image_first)):
            if not 0 <= value <= 1:
                raise UserError(f"model.{name}: {value:g} must be from 0 to 1")
        if text_weight < 0 or num_drawn < 0:
            raise UserError("model.text_weight and model.num_drawn must be 0 or more")
        if sampling.guidance != 1 and not drop_caption:
            raise UserError("model.sampling.guidance: needs a drop_caption above 0")
        if sampling.beams > 1 or sampling.stop:
            raise UserError("model.sampling: beams and stop are for texts; leave them out")
        self.drop_caption, self.text_weight = drop_caption, text_weight
        self.image_first, self.sampling, self.num_drawn = image_first, sampling, num_drawn
        self._label_smoothing = label_smoothing
        self._contrast = Reconstruction() if contrast else None
        self.words: CodeWords
        self.tokenizer: Tokenizer
        self._shown = 0

    def build(self) -> None:
        """Create the towers and the objective."""
        text = (self.preprocessing or {}).get("text")
        if text is None:
            raise UserError(
                "data.text is not set; text to image needs the tokenizer of its captions, and "
                "data.members.text"
            )
        self.tokenizer = tokenizer_from_state(text["tokenizer"])
        self.build_towers()
        codes, decoder = self.tower("image").encoder, check_decoder(self.tower("text").encoder)
        if not isinstance(codes, CodeEncoder):
            raise UserError(
                f"model.towers.image: a {type(codes).__name__} has no codes; take from_run a "
                "tokenizer that mmlight.tasks.discrete_codes.DiscreteCodes trained"
            )
        if decoder.memory_dim is not None:
            raise UserError(
                "model.towers.text.encoder.memory_dim: this decoder reads words and codes alone; "
                "leave it out"
            )
        self.words = words = CodeWords(
            text_size=int(text["vocab_size"]),
            num_codes=codes.num_codes,
            width=int(text["max_tokens"]),
            length=codes.num_tokens,
            pad_id=self.tokenizer.pad_id,
            end_id=self.tokenizer.end_id,
        )
        if decoder.vocab_size < words.vocab_size:
            raise UserError(
                f"model.towers.text.encoder.vocab_size: {decoder.vocab_size} must be at least "
                f"{words.vocab_size}: {words.text_size} text tokens, 2 marks, {words.num_codes} "
                "codes"
            )
        if decoder.max_tokens is not None and decoder.max_tokens < words.num_places:
            raise UserError(
                f"model.towers.text.encoder.max_tokens: {decoder.max_tokens} must be at least "
                f"{words.num_places}: data.text.max_tokens ({words.width}), 2 marks, "
                f"{words.length} codes"
            )
        self._check_grid()
        self.objective = TokenLoss(label_smoothing=self._label_smoothing)

    def _check_grid(self) -> None:
        grid = getattr(self.decoder, "grid", None)
        if grid is None:
            return
        (height, width), first = self.codes.grid, self.words.width + 1
        if (grid.first, grid.height, grid.width) != (first, height, width) or self.image_first:
            raise UserError(
                f"model.towers.text.encoder.grid: [{grid.height}, {grid.width}] from place "
                f"{grid.first} on; here it must be [{height}, {width}], grid_first: {first} "
                "(data.text.max_tokens and a mark), and image_first 0"
            )

    @property
    def codes(self) -> CodeEncoder:
        """The tokenizer of images."""
        encoder = self.tower("image").encoder
        assert isinstance(encoder, CodeEncoder)
        return encoder

    @property
    def decoder(self) -> Decoder:
        """The transformer."""
        encoder = self.tower("text").encoder
        assert isinstance(encoder, Decoder)
        return encoder

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        batch = batch.with_first_text()
        field_BW, codes_BL, known_B = self._parts(batch)
        draws_BN = self._draws(batch).to(field_BW.device)
        first_B = draws_BN[:, _IMAGE_FIRST] < self.image_first
        dropped_B = ~first_B & (draws_BN[:, _DROPPED] < self.drop_caption)
        without_BW = self.words.without_caption(len(field_BW), device=field_BW.device)
        shown_BW = torch.where(dropped_B[:, None], without_BW, field_BW)
        said_BW = self.words.said_BW(field_BW) & (known_B & ~dropped_B)[:, None]
        counted_BL = known_B[:, None].expand_as(codes_BL)
        text_B1W, image_B1L = self.words.text_part(shown_BW), self.words.image_part(codes_BL)
        ids_BS = torch.cat([text_B1W, image_B1L], 1)
        text_BS = _behind(said_BW & ~first_B[:, None], counted_BL & False)
        image_BS = _behind(said_BW & False, counted_BL & ~first_B[:, None])
        caption_BS = torch.zeros_like(image_BS)
        if self.image_first:
            other_BS = torch.cat([image_B1L, text_B1W], 1)
            ids_BS = torch.where(first_B[:, None], other_BS, ids_BS)
            caption_BS = _behind(counted_BL & False, said_BW & first_B[:, None])
        logits_BSV = self._logits(ids_BS)
        weight_BS = self._weights(batch, length=ids_BS.shape[1] - 1)
        losses = {"image": self._loss(logits_BSV, ids_BS, image_BS, weight_BS)}
        total, terms = losses["image"].value, losses["image"].terms
        if self.text_weight:
            text = losses["text"] = self._loss(logits_BSV, ids_BS, text_BS)
            total = total + self.text_weight * text.value
            terms += tuple(term.weighted(self.text_weight) for term in text.terms)
        if self.image_first:
            caption = losses["caption"] = self._loss(logits_BSV, ids_BS, caption_BS)
            total, terms = total + caption.value, terms + caption.terms
        logs = {name: one.value.detach() for name, one in losses.items()}
        return self.log_loss(Loss(total, logs, terms))

    def _loss(
        self,
        logits_BSV: Tensor,
        ids_BS: Tensor,
        counted_BS: Tensor,
        weight_BS: Tensor | None = None,
    ) -> Loss:
        return self.objective(logits_BSV, ids_BS[:, 1:], counted_NL=counted_BS, weight_NL=weight_BS)

    @torch.no_grad()
    def _weights(self, batch: Batch, *, length: int) -> Tensor | None:
        """Return how much each place counts whose codes come last; None is all alike."""
        if self._contrast is None:
            return None
        weight_BHW = self._contrast.weights(self.codes.wanted(batch.image).values_BCHW)
        weight_BL = F.adaptive_avg_pool2d(weight_BHW, self.codes.grid).flatten(1)
        return F.pad(weight_BL, (length - weight_BL.shape[1], 0), value=1.0)

    def _logits(self, ids_BS: Tensor) -> Tensor:
        """Return the scores of what comes next at each place but the last."""
        decoder = self.decoder
        return decoder.logits(decoder.decode(decoder.embed(ids_BS[:, :-1])))

    def _parts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Return captions' fields (B, W), codes (B, L), and which samples have both."""
        text, image = batch.text, batch.image
        if text is None or image is None:
            raise UserError(
                "text to image learns from images and their captions; name both in data.members"
            )
        with torch.no_grad():
            codes_BL = self.codes.codes(image)
        field_BW = self.words.fields(text.token_ids_NL, text.mask_NL)
        return field_BW, codes_BL, batch.valid_B & text.present_N & image.present_B

    def _draws(self, batch: Batch) -> Tensor:
        """Return two numbers in [0, 1) for each sample, by seed, epoch and sample alone."""
        if isinstance(batch.index_B, FakeTensor):  # a step is counted that is not done
            return torch.ones(batch.size, 2)
        rows = []
        for sample in batch.index_B.tolist():
            key = np.array([self._seed % 2**64, 0x7432_69], dtype=np.uint64)
            bits = np.random.Philox(key=key, counter=[0, 0, batch.epoch, sample]).random_raw(2)
            rows.append([(int(one) >> 11) * 2.0**-53 for one in bits])
        return torch.tensor(rows, dtype=torch.float64)

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        names = {"loss", "image_nll"}
        return names | ({"caption_nll"} if self.image_first else set())

    def begin_evaluation(self) -> None:
        """Forget what was shown."""
        super().begin_evaluation()
        self._shown = 0

    def keep(self, batch: Batch) -> Kept:
        """Keep how unlikely the codes of each image are behind its caption, and some captions."""
        batch = batch.with_first_text()
        field_BW, codes_BL, known_B = self._parts(batch)
        text_B1W, image_B1L = self.words.text_part(field_BW), self.words.image_part(codes_BL)
        ids_BS = torch.cat([text_B1W, image_B1L], 1)
        terms_BS = self.objective.terms(self._logits(ids_BS), ids_BS[:, 1:])
        columns: dict[str, Any] = {"nll": terms_BS[:, -codes_BL.shape[1] :].mean(1)}
        if self.image_first:
            ids_BS = torch.cat([image_B1L, text_B1W], 1)
            said_BW = self.words.said_BW(field_BW)
            terms_BS = self.objective.terms(self._logits(ids_BS), ids_BS[:, 1:])
            columns["caption_nll"] = (terms_BS[:, -self.words.width :] * said_BW).sum(1)
            columns["caption_tokens"] = said_BW.sum(1)
        # The first of rank 0: they are drawn when all is kept.
        shown_B = known_B & (known_B.cumsum(0) <= self.num_drawn - self._shown)
        shown_B = shown_B & (comm.rank() == 0)
        self._shown += int(shown_B.sum())
        return Kept(
            {
                "samples": Rows(columns, keep_N=known_B),
                "drawn": Rows({"caption": batch.captions}, keep_N=shown_B),
            }
        )

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the codes of the whole set, and draw some of its captions."""
        table, drawn = tables["samples"], tables["drawn"]
        if not len(table.sample_N):
            return Scored({})
        nll = float(table["nll"].double().mean())
        values = {"loss": nll, "image_nll": nll}
        if self.image_first:
            total = table["caption_nll"].double().sum() / table["caption_tokens"].sum().clamp(min=1)
            values["caption_nll"] = float(total)
        prompts: list[str] = drawn["caption"]
        if not prompts:
            return Scored(values, DrawnEvaluation(stage, [], []))
        # Every rank draws all of them: parts of a sharded decoder are gathered for it.
        pixels = self.draw_images(prompts).pixels_BCHW
        return Scored(values, DrawnEvaluation(stage, prompts, [*pixels.cpu().numpy()]))

    def draw(self, evaluation: Any, folder: Path, samples: ShownSamples) -> list[Path]:
        """Draw samples with their prompts."""
        if not evaluation.prompts:
            return []
        path = folder / f"{evaluation.stage}_samples.png"
        return [plot_samples(evaluation.pixels, path, titles=evaluation.prompts)]

    @torch.no_grad()
    def draw_images(
        self,
        prompts: Sequence[str],
        *,
        sampling: Sampling | None = None,
        rows: Sequence[int] | None = None,
        begun_BL: Tensor | None = None,
    ) -> DrawnImages:
        """Return an image for each prompt.

        Args:
            prompts: captions.
            sampling: how; by default as the task's settings say.
            rows: the number of each prompt, from which its random numbers are made; by default its
                place.
            begun_BL: the first codes of each image, which are kept (its upper half, say).

        Raises:
            UserError: guidance for a model that never saw a caption left out.
        """
        sampling = self.sampling if sampling is None else sampling
        if sampling.guidance != 1 and not self.drop_caption:
            raise UserError("guidance: the model was trained with drop_caption 0; leave it out")
        with eval_mode(self):
            return self._drawer.draw(
                prompts, sampling, rows=rows, begun_BL=begun_BL, device=self.device
            )

    @torch.no_grad()
    def complete(
        self, image: Images, prompts: Sequence[str], *, sampling: Sampling | None = None
    ) -> DrawnImages:
        """Return images of which the upper half is kept, and the rest is drawn.

        Args:
            image: whose upper halves.
            prompts: captions; an empty one counts as left out.
            sampling: how; by default as the task's settings say.
        """
        height, width = self.codes.grid
        begun_BL = self.codes.codes(image)[:, : height // 2 * width]
        return self.draw_images(prompts, sampling=sampling, begun_BL=begun_BL)

    @torch.no_grad()
    def describe(self, image: Images, *, sampling: Sampling | None = None) -> list[str]:
        """Return what the model says of images.

        Args:
            image: the images.
            sampling: how; by default the likeliest token each time.

        Raises:
            UserError: a model that was never shown an image first.
        """
        if not self.image_first:
            raise UserError("the model says no captions: it was trained with image_first 0")
        with eval_mode(self):
            return self._drawer.describe(image, sampling or Sampling())

    @property
    def _drawer(self) -> CodeDrawer:
        return CodeDrawer(self.codes, self.decoder, self.words, self.tokenizer)

    def redrawn(self, batch: Batch) -> Images:
        """Return an image drawn from each sample's first caption."""
        batch = batch.with_first_text()
        if batch.text is None:
            raise UserError("the data has no captions to draw from; name data.members.text")
        drawn = self.draw_images(batch.captions, rows=batch.index_B.tolist())
        return Images(drawn.pixels_BCHW, batch.text.present_N)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each sample the codes of an image drawn from its caption."""
        batch = batch.with_first_text()
        drawn = self.draw_images(batch.captions, rows=batch.index_B.tolist())
        codes, scores = drawn.codes_BL.tolist(), drawn.log_probability_B.tolist()
        return [
            {
                "key": batch.keys[row],
                "prompt": batch.captions[row],
                "codes": codes[row],
                "log_probability": scores[row],
            }
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]


def _behind(first: Tensor, second: Tensor) -> Tensor:
    """Return what counts of a sequence of two marked parts, from its second place on."""
    mark_B1 = torch.zeros_like(first[:, :1])
    return torch.cat([first, mark_B1, second], 1)
