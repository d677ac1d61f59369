"""The head over tokens is that of transformers' masked language models, weights and all."""

from functools import partial

import pytest
import torch
from encoders.encoder_inputs import SIZES, captions
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from mmlight.encoders.hf_text import HfText
from mmlight.tasks.masked_language import MaskedLanguage
from mmlight.tasks.tower import Towers, TowerSettings

SMALL = dict(vocab_size=50, max_position_embeddings=24, **SIZES)
KINDS = {
    "bert": SMALL,
    "roberta": SMALL | dict(pad_token_id=1),
    "modernbert": SMALL | dict(pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1),
    "distilbert": dict(
        vocab_size=50, max_position_embeddings=24, dim=16, hidden_dim=32, n_layers=2, n_heads=2
    ),
}


def checkpoint(kind, folder, *, make=AutoModelForMaskedLM):
    torch.manual_seed(0)
    model = make.from_config(AutoConfig.for_model(kind, **KINDS[kind])).eval()
    with torch.no_grad():  # biases begin at zero, and would hide a mistake
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model


def task_of(folder):
    encoder = partial(HfText, pretrained=str(folder), batching="padded")
    task = MaskedLanguage(towers=Towers(text=TowerSettings(encoder=encoder)))
    task.configure_model()
    return task.eval()


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_logits_are_those_of_transformers(kind, tmp_path):
    model, text = checkpoint(kind, tmp_path), captions((7, 12, 3))
    if kind == "roberta":
        ids_NL = text.token_ids_NL.masked_fill(~text.mask_NL, 1)
        ids_NL = torch.where(text.mask_NL & (ids_NL == 1), 5, ids_NL)
        text = type(text)(ids_NL, *list(vars(text).values())[1:])
    task = task_of(tmp_path)
    expected = model(input_ids=text.token_ids_NL, attention_mask=text.mask_NL.long()).logits
    found = task.logits(task.hidden(text))
    torch.testing.assert_close(found[text.mask_NL], expected[text.mask_NL], atol=2e-5, rtol=1e-4)
    assert "head: " in task.origins["head"] and "new: none" in task.origins["head"]


@torch.no_grad()
def test_a_checkpoint_without_a_head_gets_a_new_one(tmp_path):
    checkpoint("bert", tmp_path, make=AutoModel)
    task = task_of(tmp_path)
    assert "head" not in task.origins
    assert not task.head.bias_V.any() and not task.head.dense.bias.any()


def test_the_embeddings_are_the_last_matrix(tmp_path):
    checkpoint("bert", tmp_path)
    task = task_of(tmp_path)
    said_TE = torch.randn(3, 16)
    embedding = task.tower("text").encoder.model.get_input_embeddings().weight
    task.tower("text").encoder.token_logits(said_TE).sum().backward()
    assert embedding.grad is not None and embedding.grad.abs().sum() > 0
    assert not any(p.shape == embedding.shape for p in task.head.parameters())
