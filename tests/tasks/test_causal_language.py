"""Language models: what counts, scores that do not depend on the tokenizer, and what is said."""

import math
from functools import partial

import pytest
import torch
from language_data import built, data_of

from mmlight.decoders.hf_decoder import HfDecoder
from mmlight.decoders.sampling import Sampling
from mmlight.encoders.hf_text import HfText
from mmlight.errors import UserError
from mmlight.tasks.causal_language import CausalLanguage
from mmlight.tasks.evaluation import evaluate

TEXTS = ["to be", "or not to be", "that", "das Wort, öfter", "é"]
PAIRS = [
    {"json": {"q": "what?", "a": "red"}},
    {"json": {"q": "how many of them are there?", "a": "3"}},
    {"json": {"q": "é?", "a": ["ja", "nein, nie"]}},
    {"json": {"q": "nothing"}},
]
MEMBERS = {"text": "json:q", "answer": "json:a"}


@pytest.fixture
def data(tmp_path):
    return data_of(tmp_path, [{"txt": text} for text in TEXTS], members={"text": "txt"})


def terms(task, ids):
    """Return -log p of each token but the first, in float64, one text by itself."""
    row = torch.tensor([ids])
    logits = task.decoder.logits(task.decoder.decode(task.decoder.embed(row[:, :-1])))
    return -logits.detach().log_softmax(-1)[0].gather(1, row[0, 1:, None])[:, 0]


@pytest.mark.parametrize("family", ["own", "gpt2"])
def test_loss_and_scores_are_of_every_token_but_the_first(data, family):
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = {"model_type": "gpt2", "vocab_size": 260, **sizes, **dropout}
    encoder = None if family == "own" else partial(HfDecoder, config=config)
    task = built(data, encoder=encoder).double()
    batches = list(data.test_dataloader())
    slow = [terms(task, task.tokenizer.encode([text], max_tokens=99)[0]) for text in TEXTS]
    found = evaluate(task, batches)
    loss = float(torch.cat(slow).mean())
    assert found["loss"] == pytest.approx(loss, abs=1e-12)
    assert found["perplexity"] == pytest.approx(math.exp(loss))
    nats, size = float(torch.cat(slow).sum()), sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)
    of_batch = task.training_step(batches[0], 0)
    torch.testing.assert_close(of_batch, torch.cat(slow[:4]).mean())


def test_only_answers_count_behind_their_prompts(tmp_path):
    data = data_of(tmp_path, PAIRS, members=MEMBERS)
    task = built(data).double()
    tokens = task.tokenizer

    def answer_terms(question, said):
        prompt = tokens.encode([question], max_tokens=99)[0][:-1]
        reply = tokens.encode([said], max_tokens=99)[0][1:]
        return terms(task, prompt + reply)[len(prompt) - 1 :]

    slow = [
        answer_terms("what?", "red"),
        answer_terms("how many of them are there?", "3"),
        answer_terms("é?", "ja"),
        answer_terms("é?", "nein, nie"),
    ]
    found = evaluate(task, data.test_dataloader())
    assert found["loss"] == pytest.approx(float(torch.cat(slow).mean()), abs=1e-12)
    size = len("red") + len("3") + len("ja") + len("nein, nie")
    nats = float(torch.cat(slow).sum())
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size)


def test_predictions_go_on_behind_each_text(data):
    task = built(data, sampling=Sampling(max_new_tokens=6, temperature=1.0, seed=3))
    rows = [row for batch in data.test_dataloader() for row in task.predict_step(batch, 0)]
    assert [row["prompt"] for row in rows] == TEXTS
    (alone,) = task.generate([TEXTS[4]], task.sampling, rows=[4])
    assert rows[4]["answer"] == alone.text
    assert rows[4]["log_probability"] == pytest.approx(alone.log_probability, abs=1e-4)


def test_what_cannot_be_asked_is_said(data, tmp_path):
    task = built(data)
    (empty,) = task.generate([""], Sampling(max_new_tokens=2))  # a start token is enough
    assert empty.num_tokens <= 2
    config = {
        "model_type": "bert",
        "vocab_size": 260,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    with pytest.raises(UserError, match="HfText sees what comes after a word"):
        built(data, encoder=partial(HfText, config=config))
    long = data_of(tmp_path / "long", [{"json": {"q": "q" * 30, "a": "a" * 30}}], members=MEMBERS)
    with pytest.raises(UserError, match="a sequence has 63 places, but the decoder takes at most"):
        evaluate(built(long), long.test_dataloader())


def test_its_graph_gives_the_scores_of_what_comes_next(data):
    task = built(data)
    assert isinstance(task, CausalLanguage)
    (graph,) = task.graphs()
    text = next(iter(data.test_dataloader())).text
    (logits,) = graph(text.token_ids_NL, text.mask_NL)
    said = task.say(text)
    torch.testing.assert_close(logits[:, :-1], said.logits_NLV)
