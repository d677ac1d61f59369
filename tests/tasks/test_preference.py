"""Preference tuning: the reference stays what the model began as, whole or beside adapters."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from language_data import built, data_of

from mmlight.decoders.hf_decoder import HfDecoder
from mmlight.encoders.lora import LoraSettings
from mmlight.errors import UserError
from mmlight.saved.checkpoint import Saved
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.load import build_task
from mmlight.tasks.preference import Preference
from mmlight.tasks.tuning import Tuning

PAIRS = [
    {"json": {"q": "say!", "a": "yes", "b": "no, never"}},
    {"json": {"q": "and now, what is it?", "a": "blue", "b": ["red", "grey"]}},
    {"json": {"q": "only one", "a": "alone"}},
    {"json": {"q": "again", "a": "é", "b": "e"}},
]
MEMBERS = {"text": "json:q", "answer": "json:a", "rejected": "json:b"}
LORA = Tuning(method="lora", lora=LoraSettings(rank=2))
SIZES = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}
DROPOUT = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.3)
GPT2 = {"model_type": "gpt2", "vocab_size": 260, **SIZES, **DROPOUT}
ENCODERS = {"own": None, "gpt2": partial(HfDecoder, config=GPT2)}


@pytest.fixture
def data(tmp_path):
    return data_of(tmp_path, PAIRS, members=MEMBERS)


def log_p(task, question, said):
    tokens = task.tokenizer
    prompt = tokens.encode([question], max_tokens=99)[0][:-1]
    row = torch.tensor([prompt + tokens.encode([said], max_tokens=99)[0][1:]])
    logits = task.decoder.logits(task.decoder.decode(task.decoder.embed(row[:, :-1])))
    each = logits.detach().log_softmax(-1)[0].gather(1, row[0, 1:, None])[:, 0]
    return float(each[len(prompt) - 1 :].sum())


def moved(task):
    """Return the task with all that it trains moved."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    return task


@pytest.mark.parametrize("family", list(ENCODERS))
@pytest.mark.parametrize("tuning", [Tuning(), LORA], ids=["whole", "lora"])
def test_rewards_are_of_what_the_model_began_as(data, family, tuning):
    task = built(data, kind=Preference, encoder=ENCODERS[family], tuning=tuning, beta=0.3)
    task = task.double()
    batches = list(data.test_dataloader())
    found = evaluate(task, batches)
    assert found["margin"] == pytest.approx(0, abs=1e-12)
    assert found["loss"] == pytest.approx(0.6931471805599453)
    before = deepcopy(task)
    moved(task)
    margins = []
    for question, chosen, rejected in (
        ("say!", "yes", "no, never"),
        ("and now, what is it?", "blue", "red"),
        ("again", "é", "e"),
    ):
        gained = [log_p(task, question, s) - log_p(before, question, s) for s in (chosen, rejected)]
        margins.append(0.3 * (gained[0] - gained[1]))
    found = evaluate(task, batches)
    assert found["margin"] == pytest.approx(sum(margins) / 3, abs=1e-9)
    assert found["accuracy"] == pytest.approx(sum(m > 0 for m in margins) / 3)
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    task.training_step(batches[0], 0).backward()
    assert {n for n, p in task.named_parameters() if p.grad is not None} == trained
    assert not any("reference" in name for name in trained)


def test_in_training_the_reference_drops_nothing_out(data):
    task = moved(built(data, kind=Preference, encoder=ENCODERS["gpt2"]))
    (batch,) = data.test_dataloader()
    text, _ = task.pairs(batch)
    quiet = task.reference_log_p(text)
    task.train()
    again = task.reference_log_p(text)
    assert torch.equal(quiet.chosen_B, again.chosen_B)
    assert task.decoder.training and not torch.equal(task.log_p(text).chosen_B, quiet.chosen_B)


@pytest.mark.parametrize("tuning", [Tuning(), LORA], ids=["whole", "lora"])
def test_a_file_holds_the_reference_also_when_adapters_are_merged(data, tuning):
    task = moved(built(data, kind=Preference, encoder=ENCODERS["gpt2"], tuning=tuning))
    batches = list(data.test_dataloader())
    wanted = evaluate(task, batches)
    for merges in (False, True):
        if merges:
            task.merge_adapters()
        saved = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
        again = build_task(saved)
        assert evaluate(again, batches) == pytest.approx(wanted, abs=1e-5)


def test_data_without_a_second_answer_is_refused(tmp_path):
    data = data_of(tmp_path, PAIRS, members={"text": "json:q", "answer": "json:a"})
    with pytest.raises(UserError, match=r"no rejected answers; name their member in data\.members"):
        evaluate(built(data, kind=Preference), data.test_dataloader())
