"""A tiny tri-modal model and batches for it."""

from functools import partial

import torch

from mmlight.batch import Audio, Batch, Images, Text
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.encoders.timm_image import TimmImage
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.tower import Towers, TowerSettings

VIT = dict(patch_size=8, embed_dim=16, depth=2, num_heads=2)


def towers(**image):
    image = {"encoder": partial(TimmImage, "vit_tiny_patch16_224", img_size=16, kwargs=VIT)} | image
    return Towers(
        image=TowerSettings(**image),
        text=TowerSettings(
            encoder=partial(
                HfText,
                config=dict(
                    model_type="clip_text_model",
                    vocab_size=40,
                    hidden_size=16,
                    intermediate_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    max_position_embeddings=12,
                ),
                pool="last",
            )
        ),
        audio=TowerSettings(
            encoder=partial(
                MelTimm,
                "resnet10t",
                mel=LogMelSettings(sample_rate_hz=8000, n_mels=32),
                kwargs=dict(channels=(8, 8, 8, 8), stem_width=8),
            )
        ),
    )


def task(**settings):
    built = Contrastive(towers=settings.pop("towers", None) or towers(), embed_dim=8, **settings)
    built.configure_model()
    return built


def batch(size=6, *, captions=1, seed=0, labels=None):
    """A batch in which every sample has all three modalities, and `captions` captions."""
    g = torch.Generator().manual_seed(seed)
    rows = size * captions
    lengths = torch.randint(3, 10, (rows,), generator=g)
    here = torch.ones(size, dtype=torch.bool)
    return Batch(
        index_B=torch.arange(size) + 100,
        keys=[f"00000/{i}" for i in range(size)],
        epoch=0,
        step=0,
        valid_B=here.clone(),
        image=Images(
            torch.randint(0, 256, (size, 3, 16, 16), generator=g, dtype=torch.uint8), here.clone()
        ),
        text=Text(
            token_ids_NL=torch.randint(1, 40, (rows, 10), generator=g),
            mask_NL=torch.arange(10) < lengths[:, None],
            present_N=torch.ones(rows, dtype=torch.bool),
            item_N=torch.arange(size).repeat_interleave(captions),
            caption_id_N=torch.arange(rows),
        ),
        audio=Audio(
            torch.randn(size, 4000, generator=g) * 0.1, torch.full((size,), 4000), here.clone()
        ),
        label_B=labels,
        captions=[f"caption {i}" for i in range(rows)],
    )
