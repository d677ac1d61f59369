"""Zero-shot classification during evaluation: class names as captions, no training on labels.

Shapes as in `mmlight.batch`; K classes.
"""

from collections import Counter
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from mmlight.batch import Batch, Text
from mmlight.errors import UserError
from mmlight.metrics.zero_shot import ZeroShotCounts, classifier_weights, read_templates
from mmlight.modality import Modality
from mmlight.terminal import note


class ZeroShot(pl.Callback):
    """Classifies images and sounds by the nearest class name (arXiv 2103.00020, section 3.1).

    Logs ``val/zero_shot/image_accuracy_at_1``, ``..._at_5`` and ``..._mean_per_class_recall``,
    over the whole set and all ranks. Class names come from the data's `class_names`.

    Args:
        templates: sentences with `{}` for the class name; or the name of a built-in list (plain,
            image, audio, speech); or a file with one sentence per line, such as CLIP_benchmark's
            ``zeroshot_classification_templates.txt``, whose `{c}` is understood.
        modalities: what is classified; None takes every tower but text.
    """

    def __init__(
        self,
        *,
        templates: list[str] | str = "plain",
        modalities: list[Literal["image", "audio"]] | None = None,
    ) -> None:
        self.templates = read_templates(templates, key="zero_shot.templates")
        self.modalities = modalities
        self._weights_KD: Tensor | None = None
        self._counts: dict[Modality, ZeroShotCounts] = {}

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Check that there are class names, labels, a tokenizer and the towers to score."""
        data: Any = getattr(trainer, "datamodule", None)
        if stage == "predict":
            return
        if pl_module.predicts != "features":
            raise UserError(
                f"zero_shot has no effect on {type(pl_module).__name__}, whose classes are "
                "learned; leave it out"
            )
        if data is None or not data.class_names:
            raise UserError(
                "zero_shot needs class names, but data.class_names is not set; give it the path "
                "of a file with one name per line"
            )
        # Its tokenizer may be that of the model, which is not built yet.
        if data.text is None:
            raise UserError("zero_shot needs text; name data.members.text and a text tower")
        if all(members.label is None for members in data.all_members()):
            raise UserError("zero_shot needs labels; name data.members.label (such as cls)")
        self._classified(pl_module)
        twice = [name for name, count in Counter(data.class_names).items() if count > 1]
        if twice and trainer.is_global_zero:
            note(
                f"zero_shot: several classes are named '{twice[0]}'"
                f"{f' (and {len(twice) - 1} more such names)' if twice[1:] else ''}: their prompts "
                "are equal, and a sample that is as near to another class counts as wrong"
            )

    def score_names(self, pl_module: Any) -> set[str]:
        """Return the names of all scores that it logs, without their stage."""
        scores = ("accuracy_at_1", "accuracy_at_5", "mean_per_class_recall")
        named = self._classified(pl_module)
        return {f"zero_shot/{name}_{score}" for name in named for score in scores}

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Forget the last evaluation."""
        self._weights_KD = None
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        # On every rank, whatever batches it gets: `compute` is a collective.
        self._counts = {
            name: ZeroShotCounts(len(data.class_names), device=pl_module.device)
            for name in self._classified(pl_module)
        }

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any, **__: Any
    ) -> None:
        """Count the batch's hits."""
        label_B = batch.label_B
        if label_B is None:
            raise UserError("zero_shot needs labels; name data.members.label (such as cls)")
        if self._weights_KD is None:
            # Here and not at the epoch's start: averaged weights (EMA) are in place by now.
            self._weights_KD = self._classifier(trainer, pl_module)
        for name, counts in self._counts.items():
            if name not in outputs:
                continue
            keep_B = batch.present(name) & batch.valid_B & (label_B >= 0)
            counts.update(outputs[name][keep_B], self._weights_KD, label_B[keep_B])

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Log the scores."""
        stage = "test" if trainer.testing else "val"
        for name, counts in self._counts.items():
            scores = counts.compute()
            pl_module.log_dict(
                {f"{stage}/zero_shot/{name}_{score}": value for score, value in scores.items()}
            )

    on_test_epoch_end = on_validation_epoch_end

    def _classified(self, pl_module: Any) -> list[Modality]:
        given = pl_module.tower_settings.given()
        towers: list[Modality] = [name for name in given if name != "text"]
        if self.modalities is None:
            return towers
        unknown = [name for name in self.modalities if name not in towers]
        if unknown:
            raise UserError(
                f"zero_shot.modalities names {unknown[0]}, but the model has towers for "
                f"{', '.join(towers)}"
            )
        return list(self.modalities)

    def _classifier(self, trainer: pl.Trainer, pl_module: Any) -> Tensor:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]

        def embed(sentences: list[str]) -> Tensor:
            text: Text = data.text_inputs(sentences).to(pl_module.device)
            with torch.no_grad():
                features_ND: Tensor = pl_module.encode("text", text)
            return features_ND

        return classifier_weights(embed, data.class_names, self.templates)
