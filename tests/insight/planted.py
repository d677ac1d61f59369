"""Classifiers that are sure of class 1 exactly where something was planted in a known place."""

from functools import partial

import torch

from mmlight.batch import Audio, Batch, Images, Text
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.timm_image import TimmImage
from mmlight.tasks.classification import Classification
from mmlight.tasks.tower import Towers, TowerSettings

VIT = dict(patch_size=4, embed_dim=32, depth=2, num_heads=2)
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
RATE_HZ = 8000
CLUE = 7  # the token that tells class 1
ENCODERS = {
    "vit": (
        "image",
        partial(TimmImage, "vit_tiny_patch16_224", img_size=16, pool="avg", kwargs=VIT),
    ),
    "cnn": (
        "image",
        partial(TimmImage, "resnet10t", kwargs=dict(channels=(16,) * 4, stem_width=16)),
    ),
    "bert": (
        "text",
        partial(
            HfText,
            config=dict(model_type="bert", vocab_size=30, max_position_embeddings=16, **SIZES),
        ),
    ),
    "mel-cnn": (
        "audio",
        partial(
            MelTimm,
            "resnet10t",
            mel=LogMelSettings(sample_rate_hz=RATE_HZ, n_mels=32),
            kwargs=dict(channels=(16,) * 4, stem_width=16),
        ),
    ),
}


def make_batch(modality, *, size, seed, image_px=16):
    """Noise, and in samples of class 1 a clue; `fields['where']` holds its place.

    Images: a white square of 4 x 4 pixels, (row, column) of its patch. Texts: token 7 among ten
    others, its position. Sounds of 0.4 s: a tone of 50 ms, (its start in seconds, its frequency).
    """
    g = torch.Generator().manual_seed(seed)
    here = torch.ones(size, dtype=torch.bool)
    label = torch.arange(size) % 2
    image = text = audio = None
    where = [None] * size
    if modality == "image":
        pixels = torch.randint(90, 150, (size, 3, image_px, image_px), generator=g).byte()
        for n in range(size):
            row, column = torch.randint(image_px // 4, (2,), generator=g).tolist()
            if label[n]:
                pixels[n, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 255
                where[n] = (row, column)
        image = Images(pixels, here)
    if modality == "text":
        ids = torch.randint(8, 30, (size, 12), generator=g)
        ids[:, 0], ids[:, -1] = 1, 2
        for n in range(size):
            place = int(torch.randint(1, 11, (1,), generator=g))
            if label[n]:
                ids[n, place] = CLUE
                where[n] = place
        mask = torch.ones_like(ids, dtype=torch.bool)
        text = Text(ids, mask, here, torch.arange(size), torch.arange(size))
    if modality == "audio":
        wave = torch.randn(size, 3200, generator=g) * 0.02
        time = torch.arange(400) / RATE_HZ
        for n in range(size):
            start = int(torch.randint(2800, (1,), generator=g))
            if label[n]:
                wave[n, start : start + 400] += 0.5 * torch.sin(2 * torch.pi * 1500 * time)
                where[n] = (start / RATE_HZ, 1500)
        audio = Audio(wave, torch.full((size,), 3200), here)
    return Batch(
        index_B=torch.arange(size),
        keys=[f"planted/{n}" for n in range(size)],
        epoch=0,
        step=0,
        valid_B=here,
        image=image,
        text=text,
        audio=audio,
        label_B=label,
        captions=["words"] * size if text is not None else [],
        fields={"where": where},
    )


def train(name, *, num_steps=100):
    """Train until the clue is found: right on more than 95 % of fresh samples."""
    modality, encoder = ENCODERS[name]
    image_px = 32 if name == "cnn" else 16
    torch.manual_seed(0)
    task = Classification(towers=Towers(**{modality: TowerSettings(encoder)}), num_classes=2)
    task.configure_model()
    # A transformer on tokens that learns faster becomes a step, which gradients cannot integrate.
    lr = 1e-3 if name == "bert" else 3e-3
    optimizer = torch.optim.AdamW(task.parameters(), lr=lr)
    for step in range(num_steps):
        batch = make_batch(modality, size=32, seed=step, image_px=image_px)
        loss = torch.nn.functional.cross_entropy(task.logits(batch), batch.label_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    task.eval()
    batch = make_batch(modality, size=64, seed=999, image_px=image_px)
    with torch.no_grad():
        assert (task.logits(batch).argmax(1) == batch.label_B).float().mean() > 0.95
    return task, batch


def single(batch, row):
    """Return the batch of one sample."""
    part = {
        name: None if getattr(batch, name) is None else getattr(batch, name).map(lambda t: t[[row]])
        for name in ("image", "text", "audio")
    }
    return Batch(
        index_B=batch.index_B[[row]],
        keys=[batch.keys[row]],
        epoch=0,
        step=0,
        valid_B=batch.valid_B[[row]],
        label_B=batch.label_B[[row]],
        captions=batch.captions[row : row + 1],
        fields={name: values[row : row + 1] for name, values in batch.fields.items()},
        **part,
    )
