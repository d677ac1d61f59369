"""Small shards with images, sounds and captions, and a model that notes what it is given."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from PIL import Image
from shard_files import sound, write_tar

from mmlight.batch import Batch
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.text.tokenizer import ByteTokenizer


def picture(width: int = 40, height: int = 30, *, seed: int = 0) -> Image.Image:
    """Smooth colours, as photographs have them."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def jpeg(*, seed: int = 0) -> bytes:
    return encoded(picture(seed=seed), "JPEG", quality=90)


def sample_members(number: int, *, broken: bool = False) -> dict[str, bytes]:
    image = jpeg(seed=number)
    return {
        "jpg": image[: len(image) // 2] if broken else image,
        "flac": sound(0.05 + 0.01 * (number % 3)),
        "txt": f"caption {number}\n".encode(),
        "cls": str(number % 3).encode(),
        "json": json.dumps({"captions": [f"a{number}", f"b{number}"], "n": number}).encode(),
    }


def shard(path: Path, numbers: Iterable[int], *, broken: Iterable[int] = ()) -> Path:
    """A shard of img2dataset's kind; the JPEGs of `broken` are cut in half."""
    broken = set(broken)
    return write_tar(
        path,
        [
            (f"{number:04d}.{extension}", data)
            for number in numbers
            for extension, data in sample_members(number, broken=number in broken).items()
        ],
    )


def text_only(folder: Path, **settings: Any) -> ShardDataModule:
    """A data module over the captions of `folder`/*.tar; quick to decode."""
    given = {
        "members": Members(text="txt", fields={"n": "json:n"}),
        "train": Split(str(folder / "*.tar")),
        "text": TextSettings(ByteTokenizer()),
        "global_batch_size": 4,
        "eval_batch_size": 4,
        "num_workers": 0,
    }
    return ShardDataModule(**(given | settings))


def with_images(folder: Path, **settings: Any) -> ShardDataModule:
    given = {"members": Members(image="jpg"), "text": None, "image": ImageSettings(size=16)}
    return text_only(folder, **(given | settings))


class Recorder(lightning.LightningModule):
    """Learns nothing in particular and notes the samples of every batch it trains on."""

    def __init__(self, *, schedule: bool = False, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.schedule = schedule
        self.fail_at = fail_at
        self.trained: list[list[int]] = []
        self.validated: list[int] = []

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.fail_at == len(self.trained):
            raise RuntimeError("as asked")
        self.trained.append(batch.index_B.tolist())
        return (self.weight - 1.0) ** 2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validated += batch.index_B[batch.valid_B].tolist()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        if not self.schedule:
            return optimizer
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
    }
    return lightning.Trainer(**(quiet | settings))


def same(first: Batch, second: Batch) -> bool:
    """Whether two batches hold the same, byte for byte."""

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        if hasattr(a, "__dataclass_fields__"):
            return all(equal(getattr(a, n), getattr(b, n)) for n in a.__dataclass_fields__)
        return a == b

    return equal(first, second)
