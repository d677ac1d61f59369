"""Preference tuning: of two answers to a prompt, the one that was liked becomes likelier.

Shapes as in `mmlight.batch`: B samples, N texts.
"""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmlight.batch import Batch, Text
from mmlight.decoders.decoder import Decoder
from mmlight.decoders.sampling import Sampling
from mmlight.encoders.encoder import eval_mode
from mmlight.encoders.lora import remove_adapters, without_adapters
from mmlight.errors import UserError
from mmlight.objectives.dpo import Dpo, PairLogP
from mmlight.objectives.tokens import TokenLoss
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table
from mmlight.tasks.language import LanguageTask
from mmlight.tasks.tower import Towers

SCORES = ("loss", "accuracy", "margin")


class Preference(LanguageTask):
    """Direct preference optimisation (arXiv 2305.18290).

    The data has a prompt (`data.members.text`), the answer that was preferred
    (`data.members.answer`) and another (`data.members.rejected`). The reference is the model as it
    began: with adapters (`tuning.method: lora`) what it is without them, else a frozen copy, which
    checkpoints hold, too.

    Scores: ``loss``; ``accuracy``, of how many pairs the preferred answer has the higher reward;
    ``margin``, by how much on average.

    Args:
        towers: one text tower whose encoder is a decoder, with weights `from_run`, say.
        sampling: how `mmlight predict` chooses what it says.
        beta: see `mmlight.objectives.dpo.Dpo`.
        nll_weight: likewise.
        settings: of every task, see `mmlight.tasks.task.Task`.

    Raises:
        UserError: other towers, a beta that is not above 0, or a weight below 0.
    """

    reference: Decoder | None

    def __init__(
        self,
        *,
        towers: Towers,
        sampling: Sampling = Sampling(),  # noqa: B008  (never mutated)
        beta: float = 0.1,
        nll_weight: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, sampling=sampling, **settings)
        self.beta, self.nll_weight = beta, nll_weight

    def build(self) -> None:
        """Create the tower, the objective, and the reference."""
        self.build_language()
        self.objective = Dpo(beta=self.beta, nll_weight=self.nll_weight)
        self.reference = None if self.tuning.adapts else _frozen(self.decoder)

    def merge_adapters(self) -> int:
        """Add what adapters learned to the weights; what these were stays as the reference."""
        if self.tuning.adapts and self.reference is None:
            bare = deepcopy(self.decoder)
            remove_adapters(bare)
            self.reference = _frozen(bare)
        return super().merge_adapters()

    def pairs(self, batch: Batch) -> tuple[Text, Tensor]:
        """Return preferred answers, then the others (2 B rows), and which pairs are whole (B,).

        Of several answers to a prompt, the first count.

        Raises:
            UserError: the data lacks the one or the other.
        """
        for name in ("answer", "rejected"):
            if getattr(batch, name) is None:
                raise UserError(
                    f"the data has no {name} answers; name their member in data.members.{name}"
                )
        rows_B = torch.arange(batch.size, device=batch.index_B.device)
        both: list[Text] = []
        for given in (batch.answer, batch.rejected):
            assert given is not None
            first_B = given.first_rows(batch.size)
            one_each = given.map(lambda rows, first_B=first_B: rows[first_B])
            both.append(self.with_prompt(batch, replace(one_each, item_N=rows_B)))
        whole_B = both[0].present_N & both[1].present_N & batch.valid_B
        return _stacked(*both), whole_B

    def log_p(self, text: Text, *, decoder: Decoder | None = None) -> PairLogP:
        """Return the log-probabilities of answers, in the order of `pairs`, with gradients."""
        said = self.say(text, decoder=decoder)
        terms_NL = TokenLoss().terms(said.logits_NLV, said.token_NL)
        total_N = -torch.where(said.counted_NL, terms_NL, 0.0).sum(1)
        chosen_B, rejected_B = total_N.chunk(2)
        return PairLogP(chosen_B, rejected_B, said.counted_NL.sum(1).chunk(2)[0])

    @torch.no_grad()
    def reference_log_p(self, text: Text) -> PairLogP:
        """Return the same of the reference, which drops nothing out."""
        decoder = self.reference or self.decoder
        off = nullcontext() if self.reference is not None else without_adapters(decoder)
        with eval_mode(decoder), off:
            return self.log_p(text, decoder=decoder)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss over the global batch."""
        text, whole_B = self.pairs(batch)
        reference = self.reference_log_p(text)
        return self.log_loss(self.objective(self.log_p(text), reference, counted_B=whole_B))

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        return set(SCORES)

    def keep(self, batch: Batch) -> Kept:
        """Keep by how much each preferred answer is ahead."""
        text, whole_B = self.pairs(batch)
        both = self.log_p(text), self.reference_log_p(text)
        columns = {
            "margin": self.objective.margins(*both).double(),
            "loss": self.objective.terms(*both).double(),
        }
        return Kept({"pairs": Rows(columns, keep_N=whole_B)})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the pairs of the whole set."""
        margin_S: Tensor = tables["pairs"]["margin"]
        if not len(margin_S):
            return Scored({})
        return Scored(
            {
                "loss": float(tables["pairs"]["loss"].mean()),
                "accuracy": float((margin_S > 0).double().mean()),
                "margin": float(margin_S.mean()),
            }
        )


def _frozen(decoder: Decoder) -> Decoder:
    """Return a copy whose weights are buffers: nothing trains, decays or shards them."""
    copy = deepcopy(decoder)
    for module in copy.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return copy


def _stacked(one: Text, other: Text) -> Text:
    """Return the rows of two texts, padded to the longer one."""
    width = max(one.token_ids_NL.shape[1], other.token_ids_NL.shape[1])

    def both(name: str) -> Tensor:
        parts = [getattr(text, name) for text in (one, other)]
        if parts[0].ndim == 2:
            parts = [nn.functional.pad(part, (0, width - part.shape[1])) for part in parts]
        return torch.cat(parts)

    names = ("token_ids_NL", "mask_NL", "present_N", "item_N", "caption_id_N", "counted_NL")
    return Text(**{name: both(name) for name in names})
