"""A trimodal task and data module, small and real, for tests of callbacks."""

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from mmlight.batch import Audio, Batch, Images, Text
from mmlight.metrics.retrieved import RetrievalEvaluation
from mmlight.tasks.retrieval_pictures import RetrievalPictures
from mmlight.trainer.module import log_to_all

COLOURS = ("red", "green", "blue", "yellow")
RGB = torch.tensor([[220, 40, 40], [40, 190, 60], [50, 80, 230], [230, 210, 50]])
RATE_HZ = 8000


def make_batch(step, *, size, num_samples, captions_each=1, missing_audio=()):
    """Squares whose colour is told by the caption and by the pitch of a tone."""
    index = torch.arange(step * size, (step + 1) * size)
    valid = index < num_samples
    index = index.clamp(max=num_samples - 1)
    label = index % len(COLOURS)
    pixels = torch.full((size, 3, 16, 16), 235, dtype=torch.uint8)
    pixels[:, :, 4:12, 3:13] = RGB[label][:, :, None, None].to(torch.uint8)
    pixels = (pixels.float() + 3 * (index[:, None, None, None] % 5)).clamp(max=255).byte()
    time = torch.arange(2000) / RATE_HZ
    pitch = 300.0 * (label + 1) + index % 7
    wave = torch.sin(2 * torch.pi * pitch[:, None] * time) * 0.5
    present = torch.tensor([int(i) not in missing_audio for i in index])
    length = torch.full((size,), 2000) * present
    captions = [
        f"{word} {COLOURS[c]} square" for c in label for word in ("a", "one")[:captions_each]
    ]
    item = torch.arange(size).repeat_interleave(captions_each)
    return Batch(
        index_B=index,
        keys=[f"shard/{i:04d}" for i in index.tolist()],
        epoch=0,
        step=step,
        valid_B=valid,
        image=Images(pixels, torch.ones(size, dtype=torch.bool)),
        text=Text(
            token_ids_NL=label.repeat_interleave(captions_each)[:, None],
            mask_NL=torch.ones(size * captions_each, 1, dtype=torch.bool),
            present_N=torch.ones(size * captions_each, dtype=torch.bool),
            item_N=item,
            caption_id_N=label.repeat_interleave(captions_each),
        ),
        audio=Audio(wave * present[:, None], length, present),
        label_B=label,
        captions=captions,
    )


class Batches(Dataset):
    def __init__(self, num_samples, size, **kwargs):
        self.num_samples, self.size, self.kwargs = num_samples, size, kwargs

    def __len__(self):
        return -(-self.num_samples // self.size)

    def __getitem__(self, step):
        if step >= len(self):
            raise IndexError
        return make_batch(step, size=self.size, num_samples=self.num_samples, **self.kwargs)


class TinyData(pl.LightningDataModule):
    """Hands out whole batches; its position is the number of steps."""

    class audio:
        rate_hz = RATE_HZ

    global_batch_size = 8

    def __init__(self, num_samples=64, **kwargs):
        super().__init__()
        self.num_samples, self.kwargs = num_samples, kwargs
        self.class_names = list(COLOURS)

    def _loader(self, num_samples):
        return DataLoader(Batches(num_samples, 8, **self.kwargs), batch_size=None)

    def train_dataloader(self):
        return self._loader(self.num_samples)

    def val_dataloader(self):
        return self._loader(20)

    test_dataloader = predict_dataloader = val_dataloader

    def fingerprint(self):
        return {"train": "f" * 64}

    def state_dict(self):
        return {"version": 1, "step": self.trainer.global_step}

    def load_state_dict(self, state):
        assert state["version"] == 1


class TinyTask(pl.LightningModule):
    """Linear towers and InfoNCE; exposes `evaluation` as the real task does."""

    def __init__(self, *, fail_at=None):
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Linear(3, 8)
        self.text = nn.Embedding(len(COLOURS), 8)
        self.audio = nn.Linear(64, 8)
        self.fail_at = fail_at
        self.evaluation = None
        self.stored = []

    predicts = "features"

    def draw(self, evaluation, folder, samples):
        return RetrievalPictures(evaluation, samples).draw(folder)

    def log_with_step(self, values):
        log_to_all(self.trainer, values)

    def embed(self, batch):
        spectrum = torch.fft.rfft(batch.audio.waveform_BT[:, :1024]).abs()
        pooled = spectrum[:, :512].unflatten(1, (64, 8)).sum(-1)
        features = {
            "image": self.image(batch.image.pixels_BCHW.float().mean((2, 3)) / 255 - 0.5),
            "text": self.text(batch.text.token_ids_NL[:, 0]),
            "audio": self.audio(pooled / 50),
        }
        return {name: F.normalize(value, dim=-1) for name, value in features.items()}

    def training_step(self, batch, batch_idx):
        if self.global_step == self.fail_at:
            raise ArithmeticError("the loss\nwent away")
        f = self.embed(batch)
        f["text"] = f["text"][:: len(f["text"]) // batch.size]
        targets = torch.arange(batch.size)
        loss = sum(
            F.cross_entropy(10 * f[a] @ f[b].T, targets)
            for a, b in (("image", "text"), ("image", "audio"), ("text", "audio"))
        )
        self.log("train/loss", loss.detach())
        return loss

    def on_validation_epoch_start(self):
        self.stored = []

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch, batch_idx):
        self.stored.append((batch, self.embed(batch)))

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return self.embed(batch)

    def on_validation_epoch_end(self):
        self._end("val")

    def on_test_epoch_end(self):
        self._end("test")

    def _end(self, stage):
        features, items, captions, labels = {}, {}, [], {}
        for name in ("image", "text", "audio"):
            f, i = [], []
            for batch, found in self.stored:
                rows = batch.text.item_N if name == "text" else torch.arange(batch.size)
                keep = batch.present(name) & batch.valid_B[rows]
                f.append(found[name][keep])
                i.append(batch.index_B[rows][keep])
                labels |= dict(zip(batch.index_B.tolist(), batch.label_B.tolist(), strict=True))
                if name == "text":
                    captions += [c for c, k in zip(batch.captions, keep, strict=True) if k]
            features[name], items[name] = torch.cat(f).numpy(), torch.cat(i).numpy()
        samples = np.array(sorted(labels))
        self.evaluation = RetrievalEvaluation(
            stage=stage,
            samples_S=samples,
            keys=[f"shard/{i:04d}" for i in samples],
            features=features,
            items=items,
            captions=captions,
            labels_S=np.array([labels[i] for i in samples]),
        )
        hits = (features["image"] @ features["audio"].T).argmax(1) == np.arange(
            len(features["image"])
        )
        self.log(f"{stage}/loss", float(hits.size - hits.sum()))
        self.log(f"{stage}/image_to_audio/recall_at_1", float(hits.mean()))
        self.log(f"{stage}/image_to_audio/chance_recall_at_1", 1 / hits.size)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)
