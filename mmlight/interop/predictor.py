"""Predicts with a trained model from Python, in the rows that `mmlight predict` writes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mmlight.batch import Batch
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.plain_files import PredictSplit
from mmlight.errors import UserError
from mmlight.interop.saved_config import data_config
from mmlight.published.read import read_model
from mmlight.saved.rebuild import rebuild
from mmlight.tasks.load import build_named
from mmlight.tasks.rows import rows_of
from mmlight.tasks.task import Task


class Predictor:
    """A trained task and the preparation of its inputs, both from one file.

    Example::

        predictor = Predictor.load("runs/sentiment/20260101-120000-abcd")
        predictor.texts(["a charming film", "two hours of nothing"])
        Predictor.load("exported/flowers").files(["photos/", "a.jpg"])

    Contrastive models give embeddings instead of rows: see `mmlight.interop.embedder.Embedder`.

    Args:
        task: the task, in evaluation mode.
        source: the checkpoint, or exported folder, that it came from.
        device: where it runs.
    """

    def __init__(self, task: Task, *, source: Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.task = task.eval().to(self.device)
        self.source = source

    @classmethod
    def load(
        cls, path: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str] = ()
    ) -> "Predictor":
        """Load a run's newest checkpoint, a checkpoint, an export, or a published model.

        Args:
            path: what to load.
            device: where the model runs.
            trust: modules of your own whose classes the checkpoint may name.

        Raises:
            UserError: there is nothing of the kind, it is damaged, or it names classes that are not
                mmlight's.
        """
        source, saved = read_model(path, key="path")
        task = build_named(saved, source, trust=trust)
        return cls(task, source=source, device=device)

    def files(self, paths: str | Sequence[str], *, batch_size: int = 64) -> list[dict[str, Any]]:
        """Return a row for each sample; see `PredictSplit` for what paths may be."""
        given = PredictSplit(files=paths if isinstance(paths, str) else list(paths))
        return list(self.rows(given, batch_size=batch_size))

    def texts(self, texts: Sequence[str], *, batch_size: int = 64) -> list[dict[str, Any]]:
        """Return a row for each text."""
        if isinstance(texts, str):  # would be a text for each letter
            texts = [texts]
        return list(self.rows(PredictSplit(text=list(texts)), batch_size=batch_size))

    @torch.inference_mode()
    def rows(self, given: PredictSplit, *, batch_size: int = 64) -> Iterator[dict[str, Any]]:
        """Yield rows as they are computed.

        Args:
            given: files or texts.
            batch_size: how many samples are predicted at once.

        Raises:
            UserError: no such file, or a task that gives features rather than rows.
        """
        if self.task.predicts != "rows":
            raise UserError(
                f"a {type(self.task).__name__} task gives embeddings, not rows; use Embedder"
            )
        for batch in self.batches(given, batch_size=batch_size):
            yield from rows_of(batch, self.task.predict_step(batch.to(self.device), 0))

    def batches(
        self, given: PredictSplit, *, batch_size: int, square: bool = False
    ) -> Iterator[Batch]:
        """Yield inputs as the task takes them.

        Args:
            given: files or texts.
            batch_size: samples of a batch.
            square: pad images that keep their proportions to one size, whatever else is in the
                batch.
        """
        described = data_config(self.task.preprocessing, path=self.source)
        image = described["init_args"].get("image")
        if square and image is not None and image.get("eval_crop") == "fit":
            described["init_args"]["image"] = image | {"pad_to": "square"}
        described["init_args"] |= {
            "predict": {"files": given.files, "text": given.text},
            "eval_batch_size": batch_size,
        }
        data: ShardDataModule = rebuild(described, base=ShardDataModule)
        data.reads = tuple(self.task.tower_settings.given())
        data.setup("predict")
        yield from data.predict_dataloader()
