"""A tiny tokenizer, a tiny text to image model, and experiments of both."""

from dataclasses import replace
from functools import partial

import cli_data
import torch
from tasks import tiny

from mmlight.batch import Text
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.encoders.vq_image import VqImage
from mmlight.tasks.discrete_codes import DiscreteCodes
from mmlight.tasks.text_to_image import TextToImage
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.tokenizer import ByteTokenizer

VQ = {"size": 16, "grid": 4, "num_codes": 8, "code_dim": 4, "channels": 4}
DECODER = {"vocab_size": 270, "dim": 16, "num_layers": 2, "num_heads": 2, "max_tokens": 34}
CAPTIONS = ["red", "a blue one", "grey", "no"]


def codes_task(**settings):
    torch.manual_seed(0)
    task = DiscreteCodes(
        towers=Towers(image=TowerSettings(encoder=partial(VqImage, **VQ))), **settings
    )
    task.configure_model()
    task.log_gated = lambda values: None
    return task


def drawing_task(**settings):
    torch.manual_seed(0)
    towers = Towers(
        image=TowerSettings(encoder=partial(VqImage, **VQ), locked=True),
        text=TowerSettings(encoder=partial(TransformerDecoder, **DECODER, dropout=0.0)),
    )
    task = TextToImage(towers=towers, **settings)
    tokenizer = ByteTokenizer()
    task.preprocessing = {
        "image": {"size": 16, "channels": 3},
        "text": {
            "tokenizer": tokenizer.state(),
            "vocab_size": tokenizer.vocab_size,
            "max_tokens": 16,
        },
    }
    task.configure_model()
    with torch.no_grad():  # a codebook, and a decoder that says different things
        task.codes.codebook.code_KD.normal_()
        for parameter in task.decoder.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    task.log_gated = lambda values: None
    return task.eval()


def batch(captions=CAPTIONS):
    """Images with these captions."""
    size = len(captions)
    encoding = ByteTokenizer().encode_batch(captions, max_tokens=16)
    rows, here = torch.arange(size), torch.ones(size, dtype=torch.bool)
    text = Text(
        torch.from_numpy(encoding.ids_NL), torch.from_numpy(encoding.mask_NL), here, rows, rows
    )
    return replace(tiny.batch(size), text=text, audio=None, captions=list(captions))


def codes_experiment(data, runs):
    """Return an experiment that trains a tokenizer of colours."""
    values = cli_data.experiment(data, runs)
    values["model"] = {
        "class_path": "mmlight.tasks.discrete_codes.DiscreteCodes",
        "init_args": {
            "towers": {
                "image": {
                    "encoder": {"class_path": "mmlight.encoders.vq_image.VqImage", "init_args": VQ}
                }
            },
            "optimizer": {"lr": 1e-2},
            "schedule": {"warmup_steps": 2, "kind": "constant"},
        },
    }
    values["data"]["init_args"] |= {"members": {"image": "png"}, "audio": None, "text": None}
    del values["data"]["init_args"]["class_names"]
    return values


def drawing_experiment(data, runs, *, tokens):
    """Return an experiment that draws colours from their names.

    Args:
        data: as `cli_data.write_data` makes it.
        runs: where runs go.
        tokens: a run that trained a tokenizer.
    """
    values = cli_data.experiment(data, runs)
    decoder = "mmlight.decoders.transformer_decoder.TransformerDecoder"
    values["model"] = {
        "class_path": "mmlight.tasks.text_to_image.TextToImage",
        "init_args": {
            "towers": {
                "image": {"from_run": str(tokens), "locked": True},
                "text": {"encoder": {"class_path": decoder, "init_args": DECODER}},
            },
            "drop_caption": 0.3,
            "image_first": 0.2,
            "num_drawn": 2,
            "sampling": {"guidance": 2.0, "temperature": 0.8},
            "optimizer": {"lr": 3e-3},
            "schedule": {"warmup_steps": 2, "kind": "constant"},
        },
    }
    values["data"]["init_args"] |= {
        "members": {"image": "png", "text": "txt", "label": "cls"},
        "audio": None,
    }
    return values
