"""Writes down what is said in a clip: CTC over the frames of an audio tower.

Shapes as in `mmlight.batch`: B clips, L frames, K classes (the tokenizer's tokens and the blank).
"""

import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlight.batch import Audio, Batch
from mmlight.errors import UserError
from mmlight.heads.pooled import PerToken
from mmlight.metrics.ctc_decode import BeamDecoder, CtcDecoder, Decoded, GreedyDecoder
from mmlight.metrics.ctc_lexicon import LexiconDecoder
from mmlight.metrics.transcribed import SCORES, TranscribedEvaluation, transcript_scores
from mmlight.objectives.ctc import Ctc, clip_losses
from mmlight.saved.description import describe_call
from mmlight.tasks.evaluation import Column, Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.graph import Graph, whole_graph
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers
from mmlight.terminal import one_line
from mmlight.text.symbols import Symbols, Transcripts


@dataclass(frozen=True)
class Emissions:
    """What the model says of each frame.

    Attributes:
        logits_BLK: float32; the blank is the last class.
        frames_B: int64, real frames of each clip; they come first.
    """

    logits_BLK: Tensor
    frames_B: Tensor


class Transcription(Task):
    """Speech recognition by connectionist temporal classification (Graves et al., ICML 2006).

    The tower's tokens must be frames in order of time, with more of them than the transcript has
    symbols: `mmlight.encoders.mel_gru.MelGru`, or wav2vec2, HuBERT and Whisper's encoder in
    `mmlight.encoders.hf_audio.HfAudio`. Transcripts are the data's text; their tokens (characters,
    say) are the classes, and the blank comes after them.

    A clip that fills ``data.audio.max_seconds`` was cut, so that its transcript says more than is
    to be heard. Training leaves such clips out, and warns; evaluation counts them.

    Args:
        towers: one audio tower.
        decoder: how transcripts are found: `mmlight.metrics.ctc_decode.GreedyDecoder`,
            `mmlight.metrics.ctc_decode.BeamDecoder`, or, with a word n-gram model,
            `mmlight.metrics.ctc_lexicon.LexiconDecoder`.
        dropout: share of the features set to zero before the head, in training.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers than one for audio, or one without frames.
    """

    targets = ("text",)
    symbols: Symbols

    def __init__(
        self,
        *,
        towers: Towers,
        decoder: Callable[[], CtcDecoder] = GreedyDecoder,
        dropout: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        towers.check_only("audio", task="transcription")
        self.decoder = decoder()
        self._dropout = dropout
        self._warned: set[str] = set()

    def build(self) -> None:
        """Create the tower and the head."""
        text = (self.preprocessing or {}).get("text")
        if text is None:
            raise UserError(
                "data.text is not set; transcription needs a tokenizer of its transcripts, such as "
                "{tokenizer: {class_path: mmlight.text.tokenizer.CharTokenizer}}, and "
                "data.members.text"
            )
        self.symbols = Symbols(text)
        self.build_towers()
        encoder = self.tower("audio").encoder
        if encoder.frame_ms is None:
            raise UserError(
                f"model.towers.audio.encoder: the tokens of {type(encoder).__name__} are no frames "
                "in order of time; use mmlight.encoders.mel_gru.MelGru, or wav2vec2, hubert or "
                "whisper in mmlight.encoders.hf_audio.HfAudio"
            )
        encoder.leave_out_pooling()
        num_symbols = self.symbols.count
        self.head = PerToken(encoder.out_dim, num_symbols + 1, dropout=self._dropout)
        self.objective = Ctc(blank=num_symbols)
        self.decoder.build(self.symbols.pieces())

    def rebuild_description(self) -> dict[str, Any]:
        """Return the description with beam search in place of a decoder that reads files."""
        described = deepcopy(super().rebuild_description())
        if isinstance(self.decoder, LexiconDecoder):
            beam = {"beam_width": self.decoder.beam_width}
            described["init_args"]["decoder"] = describe_call(BeamDecoder, beam)
        return described

    def emissions(self, audio: Audio) -> Emissions:
        """Return what the model says of each frame, with gradients."""
        encoded = self.tower("audio").encoder(audio, tokens=True)
        assert encoded.mask_BL is not None
        return Emissions(self.head(encoded.tokens_BLD).float(), encoded.mask_BL.sum(1))

    @torch.no_grad()
    def transcribe(self, emissions: Emissions) -> list[Decoded]:
        """Return what the decoder hears in each clip."""
        found: list[Decoded] = self.decoder(
            emissions.logits_BLK.log_softmax(-1), emissions.frames_B
        )
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective over the global batch."""
        audio = _audio_of(batch)
        target, known_B = self._targets(batch)
        whole_B = ~self._is_cut(audio, batch)
        emissions = self.emissions(audio)
        counted_B = known_B & whole_B
        self._warn_impossible(emissions, target, counted_B, batch)
        loss = self.objective(emissions.logits_BLK, emissions.frames_B, target, counted_B=counted_B)
        return self.log_loss(loss)

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        return set(SCORES)

    def keep(self, batch: Batch) -> Kept:
        """Keep what was said and heard."""
        batch = batch.with_first_text()
        audio = _audio_of(batch)
        target, known_B = self._targets(batch)
        self._is_cut(audio, batch)
        emissions = self.emissions(audio)
        loss_B = clip_losses(
            emissions.logits_BLK, emissions.frames_B, target, blank=self.objective.blank
        ) / target.length_B.clamp(min=1)
        is_impossible_B = target.frames_needed() > emissions.frames_B
        decoded = self.transcribe(emissions)
        columns: dict[str, Column] = {
            "said": [self.symbols.comparable(caption) for caption in batch.captions],
            "heard": [self._text(one) for one in decoded],
            "score": [one.log_probability for one in decoded],
            "loss": loss_B.masked_fill(is_impossible_B, torch.nan).tolist(),
        }
        return Kept({"samples": Rows(columns | sample_columns(batch), keep_N=known_B)})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the transcripts of the whole set."""
        table = tables["samples"]
        evaluation = TranscribedEvaluation(
            stage=stage,
            samples_S=table.sample_N.numpy(),
            keys=table["key"],
            said=table["said"],
            heard=table["heard"],
            score_S=np.array(table["score"], dtype=np.float64),
            loss_S=np.array(table["loss"], dtype=np.float64),
            fields=table.fields(),
        )
        return Scored(transcript_scores(evaluation), evaluation)

    def answers(self, tables: dict[str, Table]) -> tuple[list[str], list[str]]:
        """Return what was heard and what was said."""
        return tables["samples"]["heard"], tables["samples"]["said"]

    def example_answers(self) -> tuple[list[str], list[str]]:
        """Return two transcripts of two words."""
        return ["a b", "a b"], ["a b", "a c"]

    def graphs(self) -> list[Graph]:
        """Return the model from sounds to the logits of their frames."""

        def emissions(batch: Batch) -> tuple[Tensor, ...]:
            assert batch.audio is not None
            found = self.emissions(batch.audio)
            return found.logits_BLK, found.frames_B

        meanings = {
            "frame_logits": "float32, for each frame; CTC, the blank is the last class",
            "num_frames": "int64, real frames of each clip; they come first",
        }
        return [whole_graph(self, meanings, emissions)]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return the transcript of each clip and the decoder's log-probability of it."""
        decoded = self.transcribe(self.emissions(_audio_of(batch)))
        return [
            {
                "key": batch.keys[row],
                "transcript": self._text(decoded[row]),
                "score": decoded[row].log_probability,
            }
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]

    def _text(self, decoded: Decoded) -> str:
        return " ".join(self.symbols.text(decoded.symbols).split())

    def _targets(self, batch: Batch) -> tuple[Transcripts, Tensor]:
        """Return the transcripts, and which clips have both sound and a transcript."""
        if batch.text is None or batch.audio is None:
            raise UserError("data.members.text is not set; transcription learns from transcripts")
        return (
            self.symbols.transcripts(batch.text, batch.keys),
            batch.text.present_N & batch.audio.present_B,
        )

    def _is_cut(self, audio: Audio, batch: Batch) -> Tensor:
        """Tell which clips fill the data's longest duration, and warn of the first (B,)."""
        assert self.preprocessing is not None
        settings = self.preprocessing["audio"]
        seconds = settings["max_seconds"]
        cut_B = audio.length_B >= round(seconds * settings["sample_rate_hz"])
        if "cut" not in self._warned and self.may_read(cut_B) and bool(cut_B.any()):
            self._warned.add("cut")
            warnings.warn(
                f"clip {one_line(batch.keys[int(cut_B.nonzero()[0])])} fills "
                f"data.audio.max_seconds ({seconds}), so it was cut and its transcript was not; "
                "training leaves such clips out: raise max_seconds",
                stacklevel=2,
            )
        return cut_B

    def _warn_impossible(
        self, emissions: Emissions, target: Transcripts, counted_B: Tensor, batch: Batch
    ) -> None:
        if "impossible" in self._warned or not self.may_read(counted_B):
            return
        needed_B = target.frames_needed()
        short_B = counted_B & (needed_B > emissions.frames_B)
        if bool(short_B.any()):
            self._warned.add("impossible")
            row = int(short_B.nonzero()[0])
            warnings.warn(
                f"clip {one_line(batch.keys[row])} has {int(emissions.frames_B[row])} frames, but "
                f"its transcript needs {int(needed_B[row])}; training leaves such clips out "
                "(train/impossible counts them): use an encoder with more frames a second, or "
                "fewer and longer tokens",
                stacklevel=2,
            )


def _audio_of(batch: Batch) -> Audio:
    if batch.audio is None:
        raise UserError("the data has no audio; name the member in data.members.audio")
    return batch.audio
