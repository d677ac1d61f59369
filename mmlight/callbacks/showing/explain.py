"""Explains answers when a test, a validation or training ends: maps, metrics, pictures."""

from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl

from mmlight.callbacks.showing.media import send_pictures
from mmlight.errors import UserError
from mmlight.insight.settings import ExplainSettings, ImageBlank, Method
from mmlight.modality import MODALITIES, Modality
from mmlight.runs.run.folder import Run
from mmlight.runs.run.stage_rows import write_stage_rows


class Explain(pl.Callback):
    """Shows what a model's answers rest on, and whether that is true (deletion and insertion).

    A classifier's answer is a class; a contrastive model's is the similarity of a sample's image or
    sound to its text (of its text to another modality). Attention maps, rollout, Grad-CAM and
    integrated gradients share it out over patches, tokens and pieces of the spectrogram. Beside
    each stand the areas under its deletion and insertion curves (arXiv 1806.07421), and those of a
    random order. The kernels that training uses stay as they are.

    Pictures go to `plots/`, numbers to `explanations.jsonl` of the run folder, means to the metrics
    (``test/explain/image_rollout_deletion_auc``). It happens at the end of a test, of a validation
    on its own, and of training where there is a validation set.

    Args:
        methods: attention (the last layer's), rollout, grad_cam, integrated_gradients; None takes
            those that suit each tower (Grad-CAM is for images and sounds).
        modalities: which towers; None takes all.
        num_samples: samples that are explained, spread evenly over the set.
        num_drawn: how many of them are drawn.
        target: a classifier's answer to explain: the class that it predicts, or the true one.
        image_blank: what an image becomes where something is taken away, and where integrated
            gradients begin: the mean of the normalisation, black, or a blur of the image. Tokens
            become the mask token (padding where there is none), spectrograms their quietest value.
        gradient_steps: most points of the integral of integrated gradients.
        curve_steps: steps of the curves.
        random_orders: random orders to compare with.
        batch_size: versions of a sample that go through the model at once.
        seed: seed of the random orders.
    """

    def __init__(
        self,
        methods: list[Method] | None = None,
        modalities: list[Modality] | None = None,
        num_samples: int = 16,
        num_drawn: int = 6,
        target: Literal["predicted", "true"] = "predicted",
        image_blank: ImageBlank = "mean",
        gradient_steps: int = 512,
        curve_steps: int = 16,
        random_orders: int = 3,
        batch_size: int = 32,
        seed: int = 0,
    ) -> None:
        if num_drawn < 1:
            raise UserError(f"explain.num_drawn is {num_drawn}; it must be 1 or more")
        self.modalities = modalities
        self.num_drawn = num_drawn
        self.settings = ExplainSettings(
            methods=methods,
            num_samples=num_samples,
            target=target,
            image_blank=image_blank,
            gradient_steps=gradient_steps,
            curve_steps=curve_steps,
            random_orders=random_orders,
            batch_size=batch_size,
            seed=seed,
        )

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Refuse tasks and towers that cannot be explained."""
        if not pl_module.explained_targets:
            raise UserError(
                f"explain: answers of a {type(pl_module).__name__} cannot be explained; the model "
                "must be a Classification or a Contrastive"
            )
        towers = pl_module.tower_settings.given()
        for name in self.modalities or ():
            if name not in towers:
                raise UserError(
                    f"explain.modalities names {name}, but the model has towers for "
                    f"{', '.join(towers)}"
                )
        if self.settings.image_blank != "mean" and "image" not in (self.modalities or towers):
            raise UserError("explain.image_blank has no effect: no image is explained")
        if self.settings.target not in pl_module.explained_targets:
            raise UserError(f"explain.target has no effect on a {type(pl_module).__name__}")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain samples of the test set."""
        self._explain(trainer, pl_module, "test")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain samples of the validation set, unless this is one of many validations."""
        if trainer.state.fn == "validate":
            self._explain(trainer, pl_module, "val")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Explain samples of the validation set; averaged weights are in place by now."""
        if trainer.num_val_batches and sum(trainer.num_val_batches):
            self._explain(trainer, pl_module, "val")

    def _explain(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        """Every rank does all of it: a sharded model needs them all, and none waits for another."""
        # Here and not above: they bring timm and transformers, for which no other run should wait.
        from mmlight.callbacks.showing.explain_pictures import draw_explanations
        from mmlight.insight.samples import explain_samples, metrics_of, rows_of

        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        given = task.tower_settings.given()
        rows: list[dict[str, Any]] = []
        run = Run(Path(trainer.default_root_dir))
        for modality in MODALITIES:
            if modality not in given or modality not in (self.modalities or given):
                continue
            explained = list(
                explain_samples(task, data, split=stage, modality=modality, settings=self.settings)
            )
            if not explained:
                continue
            metrics = metrics_of(explained)
            for logger in trainer.loggers:
                logger.log_metrics(
                    {f"{stage}/explain/{modality}_{name}": v for name, v in metrics.items()},
                    step=trainer.global_step,
                )
            if not trainer.is_global_zero:
                continue
            rows += rows_of(explained, modality=modality)
            pictures = draw_explanations(
                explained,
                run.plots,
                stage=stage,
                modality=modality,
                num_drawn=self.num_drawn,
                sample_rate_hz=data.audio.rate_hz if data.audio is not None else None,
            )
            send_pictures(trainer, pictures)
        if trainer.is_global_zero:
            write_stage_rows(run.explanations, rows, stage=stage)
