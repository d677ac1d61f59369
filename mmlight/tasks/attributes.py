"""Says several things of a sample at once: colours, shapes and how they stand to each other, say.

Shapes as in `mmlight.batch`: B samples, S samples of a set, A attributes, K values of each.
"""

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight.batch import Batch, Images
from mmlight.encoders.encoder import Encoder, eval_mode
from mmlight.errors import UserError, nearest
from mmlight.heads.pooled import PooledHead
from mmlight.modality import Modality
from mmlight.objectives.objective import mean_loss
from mmlight.tasks.evaluation import Kept, Rows, Scored, Stage, Table, sample_columns
from mmlight.tasks.graph import LOGITS, Graph, whole_graph
from mmlight.tasks.pooled import Features, PooledTask
from mmlight.tasks.tower import Towers

# Of so many training samples at most the values are collected.
_LOOKED_AT = 20_000


class Attributes(PooledTask):
    """Gives each sample one value of each of several attributes, from shared features.

    ``accuracy`` is the share of samples with all of them right, ``colour/accuracy`` that of one.

    Args:
        towers: the encoders; one or more.
        target: the field of the data with the values: a list of texts, or a text of as many words
            as there are attributes.
        names: what the attributes are called, in that order.
        values: the values that each may have, by its name; None collects those of training.
        by_place: have the head read each token of the image tower in its place, not their mean,
            where it matters what stands where; images are then of one size.
        label_smoothing: share of the target that is spread evenly over an attribute's values.
        settings: `fusion`, `head`, and those of every task; see `mmlight.tasks.pooled.PooledTask`.

    Raises:
        UserError: settings that contradict each other, or targets that are no such values.
    """

    def __init__(
        self,
        *,
        towers: Towers,
        target: str,
        names: list[str],
        values: dict[str, list[str]] | None = None,
        by_place: bool = False,
        label_smoothing: float = 0.0,
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        if not names or len(set(names)) < len(names) or not all(names):
            raise UserError(f"model.names: {names} must be one or more different names")
        if values is not None and list(values) != names:
            raise UserError(
                f"model.values: names {', '.join(values)}; it must be {', '.join(names)}"
            )
        if not 0 <= label_smoothing < 1:
            raise UserError(f"model.label_smoothing: {label_smoothing} must be in [0, 1)")
        if by_place and list(towers.given()) != ["image"]:
            raise UserError("model.by_place: reads the tokens of one tower, image; leave it out")
        self.target, self.names, self.label_smoothing = target, names, label_smoothing
        self.by_place = by_place
        self.values = {name: list(given) for name, given in (values or {}).items()}

    def build(self) -> None:
        """Create towers, fusion and head, and collect the values."""
        if not self.values:
            self._collect()
        for name, values in self.values.items():
            if len(values) < 2 or len(set(values)) < len(values):
                raise UserError(
                    f"model.values: '{name}' must have two or more different values, not {values}"
                )
        self._number = {n: {v: k for k, v in enumerate(own)} for n, own in self.values.items()}
        self._counts = [len(self.values[name]) for name in self.names]
        if not self.by_place:
            self.build_pooled(out_dim=sum(self._counts))
            return
        self.build_towers()
        self.fusion = None
        encoder = self.tower("image").encoder
        encoder.leave_out_pooling()
        self.head = PooledHead(
            self.head_settings, in_dim=self._num_features(encoder), num_classes=sum(self._counts)
        )

    @torch.no_grad()
    def _num_features(self, encoder: Encoder) -> int:
        """Return how many features an image has in all of its places."""
        image = (self.preprocessing or {}).get("image")
        if image is None:
            raise UserError("model.by_place: needs the data's images; name data.members.image")
        shape = (1, int(image["channels"]), int(image["size"]), int(image["size"]))
        here_B = torch.ones(1, dtype=torch.bool)
        with eval_mode(encoder):
            encoded = encoder(Images(torch.zeros(shape, dtype=torch.uint8), here_B), tokens=True)
        assert encoded.tokens_BLD is not None
        return encoded.tokens_BLD[0].numel()

    @property
    def takes_tokens(self) -> bool:
        """Whether the head reads tokens, in their places or through a fusion."""
        return self.by_place or super().takes_tokens

    def head_outputs(
        self, features: Features, *, only: tuple[Modality, ...] | None = None
    ) -> Tensor:
        """Return the head's outputs (B, K of all attributes)."""
        if not self.by_place:
            return super().head_outputs(features, only=only)
        ((tokens_BLD, _, _),) = features.values()
        outputs_BK: Tensor = self.head(tokens_BLD.flatten(1))
        return outputs_BK

    def _collect(self) -> None:
        if not hasattr(self.data, "field_values"):
            raise UserError("model.values is not set, and there is no training data to see them in")
        found: dict[str, set[str]] = {name: set() for name in self.names}
        for value in self.data.field_values("train", self.target, most=_LOOKED_AT):
            for name, one in zip(self.names, self._texts(value, "of training"), strict=True):
                found[name].add(one)
        self.values = {name: sorted(values) for name, values in found.items()}

    def rebuild_description(self) -> dict[str, Any]:
        """Return the description with the values as they were found."""
        described = deepcopy(super().rebuild_description())
        described["init_args"]["values"] = self.values
        return described

    def attribute_logits(self, batch: Batch) -> list[Tensor]:
        """Return logits (B, K) of each attribute, with gradients."""
        return list(self.head_outputs(self.features(batch)).float().split(self._counts, dim=1))

    def known_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the values' numbers (B, A), -1 for one never seen, and who has them (B,).

        Raises:
            UserError: the data has no such field, or a sample's value is no such list.
        """
        if self.target not in batch.fields:
            raise UserError(
                f"model.target: the data has no field '{self.target}'"
                f"{nearest(self.target, batch.fields)}; name it in data.members.fields, such as "
                f"{{{self.target}: json:{self.target}}}"
            )
        rows, known = [], []
        for value, key in zip(batch.fields[self.target], batch.keys, strict=True):
            known.append(value is not None)
            texts = [""] * len(self.names) if value is None else self._texts(value, key)
            rows.append(
                [self._number[n].get(t, -1) for n, t in zip(self.names, texts, strict=True)]
            )
        device = batch.index_B.device
        return torch.tensor(rows, device=device), torch.tensor(known, device=device) & batch.valid_B

    def _texts(self, value: Any, key: str) -> list[str]:
        texts = value.split() if isinstance(value, str) else value
        if not isinstance(texts, list) or len(texts) != len(self.names):
            raise UserError(
                f"field '{self.target}' of sample {key}: {str(value)[:60]!r} is no list of "
                f"{len(self.names)} values, and no text of as many words "
                f"(model.names: {', '.join(self.names)})"
            )
        return [str(one) for one in texts]

    def example_fields(self, num_words: int) -> dict[str, Any]:
        """Return values."""
        return {self.target: [values[0] for values in self.values.values()]}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the attributes' losses over the global batch."""
        target_BA, known_B = self.known_targets(batch)
        logits = self.attribute_logits(batch)
        terms_B = self._terms(logits, target_BA, smoothing=self.label_smoothing)
        terms_B = torch.where(known_B, terms_B, 0.0)
        return self.log_loss(mean_loss(terms_B, known_B))

    @staticmethod
    def _terms(logits: list[Tensor], target_BA: Tensor, *, smoothing: float = 0.0) -> Tensor:
        return torch.stack(
            [
                F.cross_entropy(
                    own_BK,
                    target_B,
                    reduction="none",
                    ignore_index=-1,
                    label_smoothing=smoothing,
                )
                for own_BK, target_B in zip(logits, target_BA.unbind(1), strict=True)
            ]
        ).sum(0)

    def score_names(self) -> set[str]:
        """Return the names of all scores."""
        return {"loss", "accuracy", *(f"{name}/accuracy" for name in self.names)}

    def keep(self, batch: Batch) -> Kept:
        """Keep the values that the model says and those that are right."""
        target_BA, known_B = self.known_targets(batch)
        logits = self.attribute_logits(batch)
        columns = {
            "loss": self._terms(logits, target_BA),
            "said": torch.stack([own_BK.argmax(1) for own_BK in logits], 1),
            "target": target_BA,
        }
        return Kept({"samples": Rows(columns | sample_columns(batch), keep_N=known_B)})

    def score(self, tables: dict[str, Table], *, stage: Stage) -> Scored:
        """Score the values of the whole set; one that training never showed is never right."""
        table = tables["samples"]
        if not len(table.sample_N):
            return Scored({})
        right_SA = (table["said"] == table["target"]).double()
        values = {
            f"{name}/accuracy": float(share)
            for name, share in zip(self.names, right_SA.mean(0), strict=True)
        }
        values["accuracy"] = float(right_SA.prod(1).mean())
        values["loss"] = float(table["loss"].double().mean())
        return Scored(values)

    def graphs(self) -> list[Graph]:
        """Return the model from samples to logits."""

        def logits(batch: Batch) -> tuple[Tensor, ...]:
            return tuple(self.attribute_logits(batch))

        return [whole_graph(self, {f"{name}_logits": LOGITS for name in self.names}, logits)]

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """Return for each sample its value of each attribute, and their probabilities."""
        best = [own_BK.softmax(1).max(1) for own_BK in self.attribute_logits(batch)]
        said = [(one.indices.tolist(), one.values.tolist()) for one in best]
        return [
            {
                "key": batch.keys[row],
                "values": {
                    name: self.values[name][numbers[row]]
                    for name, (numbers, _) in zip(self.names, said, strict=True)
                },
                "probabilities": {
                    name: chances[row] for name, (_, chances) in zip(self.names, said, strict=True)
                },
            }
            for row in batch.valid_B.nonzero()[:, 0].tolist()
        ]
