"""Masked language modelling: trains, resumes, predicts, and goes on in other tasks."""

import json
import math
from dataclasses import replace
from functools import partial

import cli_data
import pytest
import torch
from tasks import masked_data
from test_resume import assert_equal_states, interrupt_and_continue

from mmlight.__main__ import USER_MISTAKE
from mmlight.batch import Batch
from mmlight.data.collate import Layout, collate
from mmlight.data.masking import Masking
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings
from mmlight.encoders.hf_text import HfText
from mmlight.errors import UserError
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.load import load_task
from mmlight.tasks.masked_language import MaskedLanguage
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.tokenizer import ByteTokenizer

TEXT = TextSettings(ByteTokenizer(), max_tokens=16, documents="packed", masking=Masking(share=0.3))
TEXTS = ["a cat sat on a mat", "two", "owls and dogs and more of them than fit in a row", "x y z"]


def task(**encoder):
    torch.manual_seed(0)
    make = partial(HfText, config=masked_data.BERT, **encoder)
    built = MaskedLanguage(towers=Towers(text=TowerSettings(encoder=make)))
    built.configure_model()
    built.log_gated = lambda values: None
    return built.eval()


def batch(numbers, settings=TEXT, **more) -> Batch:
    samples = [Sample(n, f"s/{n}", captions=[TEXTS[n]]) for n in numbers]
    layout = Layout(modalities=("text",), labels=False, fields=(), image=None, text=settings)
    return collate(samples, layout, **more)


def test_the_loss_is_the_mean_over_hidden_tokens_alone():
    built, given = task().double(), batch(range(4))
    text = given.text
    log_p = built.logits(built.hidden(text)).log_softmax(-1).double()
    terms = [
        -log_p[row, place, text.target_NL[row, place]]
        for row, place in text.counted_NL.nonzero().tolist()
    ]
    assert len(terms) > 15
    expected = sum(terms) / len(terms)
    loss = built.training_step(given, 0).detach()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_the_vocabulary_is_scored_at_hidden_tokens_only(monkeypatch):
    built, given = task(), batch(range(4))
    seen = []
    scored = built.logits
    monkeypatch.setattr(built, "logits", lambda hidden: seen.append(len(hidden)) or scored(hidden))
    built.training_step(given, 0)
    assert seen == [int(given.text.counted_NL.sum())]
    # Nothing is known of values on the meta device, so all places are scored there.
    assert given.to("meta").text.num_counted() is None


def test_scores_depend_on_neither_the_batch_nor_the_order():
    built = task()
    together = evaluate(built, [batch(range(4))])
    apart = evaluate(built, [batch([n]) for n in (2, 0, 3, 1)])
    assert together == pytest.approx(apart, rel=1e-5)
    assert together["perplexity"] == pytest.approx(math.exp(together["loss"]))
    evaluation = built.evaluation
    assert evaluation.count_S.sum() > 15 and len(evaluation.keys) == 4


def test_rows_that_only_fill_up_a_batch_do_not_count():
    built, given = task(), batch(range(4))
    valid_B = torch.tensor([True, True, False, True])
    found = evaluate(built, [replace(given, valid_B=valid_B)])
    assert found == pytest.approx(evaluate(built, [batch([0, 1, 3])]), rel=1e-5)


@pytest.mark.parametrize(
    "encoder, said",
    [
        (dict(config=masked_data.BERT | {"model_type": "gpt2"}), "tokens see both sides"),
        (dict(config=masked_data.BERT, pool="model"), "pool: model has no effect on tokens"),
    ],
)
def test_towers_that_cannot_say_what_is_hidden_are_refused(encoder, said):
    if encoder["config"]["model_type"] == "gpt2":
        encoder = dict(config=dict(model_type="gpt2", n_embd=16, n_layer=1, n_head=2))
    towers = Towers(text=TowerSettings(encoder=partial(HfText, **encoder)))
    with pytest.raises(UserError, match=said):
        MaskedLanguage(towers=towers).configure_model()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"masking": None}, "data.text.masking is not set; masked language modelling needs it"),
        (
            {"tokenizer": {"class_path": "mmlight.text.tokenizer.CharTokenizer"}},
            "data.text.tokenizer has no mask token",
        ),
    ],
)
def test_data_that_hides_nothing_is_refused_before_training(change, said, tmp_path, capsys):
    values = masked_data.experiment(
        cli_data.write_data(tmp_path / "data"), tmp_path / "runs", **change
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == USER_MISTAKE
    assert said in capsys.readouterr().err


def test_other_tasks_refuse_hidden_tokens(tmp_path, capsys):
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    values = cli_data.changed(values, {"data.init_args.text.masking": {"share": 0.15}})
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == USER_MISTAKE
    assert "data.text.masking hides tokens for masked language models" in capsys.readouterr().err


@pytest.mark.parametrize("documents", ["packed", "windows"])
def test_a_run_that_is_interrupted_and_continued_is_the_whole_run(documents, tmp_path):
    values = masked_data.experiment(
        cli_data.write_data(tmp_path / "data"), tmp_path / "runs", documents=documents
    )
    (whole, model), (rest, again) = interrupt_and_continue(values, tmp_path, kill_after=4)
    assert rest and rest == {key: whole[key] for key in rest}
    assert_equal_states(model, again)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    values = masked_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")
    path = cli_data.write_yaml(folder / "tiny.yaml", cli_data.changed(values, {"run.test": True}))
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return folder, path, cli_data.only_run(folder / "runs")


def test_a_run_has_its_scores_in_its_folder(run):
    _, path, made = run
    final = json.loads((made / "summary.json").read_text())["final"]
    for stage in ("val", "test"):
        assert 0 <= final[f"{stage}/masked_accuracy"] <= 1
        assert final[f"{stage}/perplexity"] == pytest.approx(math.exp(final[f"{stage}/loss"]))
    assert cli_data.run_in_process("fit", "-c", path, "--dry_run") == 0


def test_mask_tokens_of_a_text_are_filled_in(run, tmp_path):
    built = load_task(run[2])
    settings = replace(TEXT, masking=None, documents="windows")
    given = batch(range(3), settings)
    text = given.text
    places = [(0, 4), (0, 7)]
    ids_NL = text.token_ids_NL.clone()
    for row, place in places:
        ids_NL[row, place] = ByteTokenizer.mask_id
    given = replace(given, text=replace(text, token_ids_NL=ids_NL))
    rows = built.predict_step(given, 0)
    assert [row["key"] for row in rows] == ["s/0", "s/1", "s/2"]
    assert [row["text"] for row in rows] == TEXTS[:3]
    assert [len(row["masks"]) for row in rows] == [2, 0, 0]
    p_LV = built.logits(built.hidden(given.text))[0].softmax(-1).detach()
    for (_, place), answers in zip(places, rows[0]["masks"], strict=True):
        assert [answer["id"] for answer in answers] == p_LV[place].topk(5).indices.tolist()
        assert answers[0]["probability"] == pytest.approx(float(p_LV[place].max()), rel=1e-5)


@pytest.mark.parametrize("kind", ["contrastive", "classification"])
def test_its_tower_goes_on_in_another_task(kind, run, tmp_path):
    folder, _, made = run
    values = cli_data.experiment(folder / "data", tmp_path / "runs")
    towers = "model.init_args.towers"
    values = cli_data.changed(
        values,
        {
            f"{towers}.text": {"from_run": str(made)},
            "data.init_args.text": {"max_tokens": 16},
            "trainer.max_steps": 1,
        },
    )
    if kind == "classification":
        init = values["model"]["init_args"]
        values["model"] = {
            "class_path": "mmlight.tasks.classification.Classification",
            "init_args": {"towers": {"text": init["towers"]["text"]}},
        }
        data = values["data"]["init_args"]
        data["members"] = {k: data["members"][k] for k in ("text", "label")}
        del data["image"], data["audio"]
    built, data = cli_data.build(values)
    built.data = data
    built.configure_model()
    theirs = torch.load(next((made / "checkpoints").glob("*.ckpt")), weights_only=True)
    prefix = "towers.text.encoder."
    ours = built.tower("text").encoder.state_dict()
    assert all(torch.equal(ours[n], theirs["state_dict"][prefix + n]) for n in ours)
    assert isinstance(data.text.tokenizer, ByteTokenizer)
