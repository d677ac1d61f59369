import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import cli_data
import pytest
import tagging_data
import torch
from ranks import run_ranks
from tagging_data import batches, tagged, tagger

from mmlight import comm
from mmlight.encoders.hf_text import HfText
from mmlight.errors import UserError
from mmlight.runs.run.metrics_log import read_rows
from mmlight.tasks.evaluation import evaluate as evaluate_task
from mmlight.tasks.load import load_task
from mmlight.tasks.tagged_text import TaggedText, entity_scores
from mmlight.tasks.tagging import Tagging
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.words import joined_spans

ANN = tagged(("Ann", "B-person"), ("Lee", "I-person"), ("saw", "O"), ("Rome", "B-place"))
SENTENCES = [
    ANN,
    tagged(("it", "O"), ("rains", "O")),
    tagged(),
    tagged((" ", "B-place"), ("\n", "O")),
    tagged(("Bob", "B-person")),
]


@pytest.fixture
def task(monkeypatch):
    torch.manual_seed(0)
    task = tagger(dropout=0.0).eval()
    monkeypatch.setattr(task, "log_gated", lambda values: None)
    return task


@torch.no_grad()
def evaluate(task, *given):
    """The scores of these batches, and what is left for pictures."""
    return evaluate_task(task, given), task.evaluation


class Oracle(torch.nn.Module):
    """A head that says the tags it was given, token by token, and `O` for the rest."""

    def __init__(self, task, numbers_by_row):
        super().__init__()
        self.num_tags, self.numbers_by_row = len(task.tags), numbers_by_row

    def forward(self, tokens_BLD):
        logits_BLK = torch.zeros(*tokens_BLD.shape[:2], self.num_tags)
        logits_BLK[..., 0] = 5
        for row, numbers in enumerate(self.numbers_by_row):
            for place, number in numbers.items():
                logits_BLK[row, place, number] = 10
        return logits_BLK


def test_loss_is_that_of_the_first_token_of_each_word(task, tmp_path):
    (batch,) = batches(tmp_path, SENTENCES)
    loss = task.training_step(batch, 0)
    # Bytes: a start token, then each character of the joined words; a word begins where one does.
    log_p = task.logits(batch.text).double().log_softmax(-1)
    expected = []
    for row, sentence in enumerate(SENTENCES):
        place = 1
        words, tags = sentence["json"]["tokens"], sentence["json"]["tags"]
        for word, tag in zip(words, tags, strict=True):
            if word.strip():
                expected.append(-log_p[row, place, task.tags.index(tag)])
            place += len(word) + 1
    assert len(expected) == 7
    torch.testing.assert_close(loss.double(), torch.stack(expected).mean())


@torch.no_grad()
def test_probe_learns_from_the_first_token_of_each_word(task, tmp_path):
    (batch,) = batches(tmp_path, SENTENCES)
    features_MD, tag_M = task.probe_rows(batch)["text"]
    tags = [task.tags[number] for number in tag_M.tolist()]
    assert tags == ["B-person", "I-person", "O", "B-place", "O", "O", "B-person"]
    tokens_NLD = task.tower("text").encoder(batch.text, tokens=True).tokens_BLD
    assert torch.equal(features_MD[1], tokens_NLD[0, 1 + len("Ann ")])
    assert task.probe_rows(batches(tmp_path / "none", [tagged()])[0])["text"][0].shape == (0, 32)


def test_other_tokens_and_padding_get_no_gradient(task, tmp_path):
    (batch,) = batches(tmp_path, SENTENCES)
    seen = []
    task.head.register_full_backward_hook(lambda _, __, out: seen.append(out[0]))
    task.training_step(batch, 0).backward()
    touched = seen[0].abs().sum(-1).nonzero().tolist()
    assert touched == [[0, 1], [0, 5], [0, 9], [0, 13], [1, 1], [1, 4], [4, 1]]


def test_a_batch_without_any_word_gives_a_loss_of_zero(task, tmp_path):
    (batch,) = batches(tmp_path, [tagged(), tagged((" ", "O"))])
    loss = task.training_step(batch, 0)
    loss.backward()
    assert loss == 0
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


def _rank_gradients():
    torch.manual_seed(0)
    task = tagger(dropout=0.0).eval()
    task.log_gated = lambda values: None
    more = tagged(("a", "O"), ("b", "O"), ("c", "B-person"))
    with TemporaryDirectory() as folder:
        (batch,) = batches(Path(folder), [*SENTENCES, more])
    world = comm.world_size()
    keep = torch.arange(6) % world == comm.rank()
    batch = replace(batch, valid_B=batch.valid_B & keep)
    loss = task.training_step(batch, 0)
    loss.backward()
    counts = evaluate(task, batch)[0]
    named = {n: p.grad for n, p in task.named_parameters() if p.grad is not None}
    return {"gradients": named, "counts": counts}


@pytest.mark.slow  # each process imports transformers
def test_gradients_and_scores_are_equal_on_one_and_two_processes(tmp_path):
    one = _rank_gradients()
    two = run_ranks(_rank_gradients, world_size=2, folder=tmp_path)
    for name, gradient in one["gradients"].items():
        mean = (two[0]["gradients"][name] + two[1]["gradients"][name]) / 2
        torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)
    assert two[0]["counts"] == two[1]["counts"] == pytest.approx(one["counts"])


def places(entities):
    return [(e.text, e.type, e.start) for e in entities]


def test_right_tags_score_one(task, tmp_path):
    (batch,) = batches(tmp_path, SENTENCES[:2])
    person, inside, place = (task.tags.index(t) for t in ("B-person", "I-person", "B-place"))
    task.head = Oracle(task, [{1: person, 5: inside, 13: place}, {}])
    values, evaluation = evaluate(task, batch)
    assert values["f1"] == values["surface_f1"] == values["person/f1"] == 1.0
    assert values["words_unseen"] == 0
    assert [e.text for e in evaluation.found[0]] == ["Ann Lee", "Rome"]
    assert places(evaluation.found[0]) == places(evaluation.gold[0])
    assert evaluation.texts == ["Ann Lee saw Rome", "it rains"]
    assert evaluation.keys == ["0/0000", "0/0001"]


def test_mistakes_are_listed_with_their_places(task, tmp_path):
    (batch,) = batches(tmp_path, [ANN])
    person, inside = (task.tags.index(t) for t in ("B-person", "I-place"))
    task.head = Oracle(task, [{1: person, 9: inside}])
    values, evaluation = evaluate(task, batch)
    assert (values["precision"], values["recall"]) == (0, 0)
    assert places(evaluation.gold[0]) == [("Ann Lee", "person", 0), ("Rome", "place", 12)]
    # an I- without B- begins an entity
    assert places(evaluation.found[0]) == [("Ann", "person", 0), ("saw", "place", 8)]
    assert 0.9 < evaluation.found[0][0].score < 1
    assert evaluation.loss_S[0] > 1


def test_words_beyond_the_cut_count_as_outside(task, tmp_path):
    (batch,) = batches(tmp_path, [ANN], max_tokens=7)  # start, "Ann L", end
    person, inside = (task.tags.index(t) for t in ("B-person", "I-person"))
    task.head = Oracle(task, [{1: person, 5: inside}])
    values, evaluation = evaluate(task, batch)
    assert values["words_unseen"] == 2
    assert (values["precision"], values["recall"]) == (1.0, 0.5)
    assert values["place/recall"] == 0
    assert [e.text for e in evaluation.found[0]] == ["Ann Lee"]
    assert (task.predict_step(batch, 0)[0]["words_unseen"]) == 2


def test_blank_words_and_empty_sentences_are_counted_not_lost(task, tmp_path):
    (batch,) = batches(tmp_path, SENTENCES)
    values, evaluation = evaluate(task, batch)
    assert values["words_unseen"] == 2
    assert len(evaluation.samples_S) == 5
    assert [len(gold) for gold in evaluation.gold] == [2, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "tags",
    [
        ("B-person", "I-person", "O", "B-person", "B-place"),
        ("B-person", "E-person", "O", "S-person", "S-place"),
        ("B-person", "L-person", "O", "U-person", "U-place"),
        ("I-person", "I-person", "O", "I-person", "I-place"),
        ("person", "person", "O", "person", "place"),
    ],
    ids=["bio", "iobes", "bilou", "iob1", "plain"],
)
def test_schemes_of_tags_name_the_same_entities(tags, task, tmp_path):
    words = ("Zoë", "Lee", "and", "Bob", "Rome")
    (batch,) = batches(tmp_path, [tagged(*zip(words, tags, strict=True))])
    task.training_step(batch, 0)
    _, evaluation = evaluate(task, batch)
    assert [(e.type, e.text) for e in evaluation.gold[0]] == [
        ("person", "Zoë Lee"),
        ("person", "Bob"),
        ("place", "Rome"),
    ]


def test_a_newline_may_be_a_word(task, tmp_path):
    sentence = tagged(("\n", "O"), ("Bob", "B-person"), ("\n", "O"))
    (batch,) = batches(tmp_path, [sentence])
    assert torch.isfinite(task.training_step(batch, 0))
    _, evaluation = evaluate(task, batch)
    assert [(e.text, e.start) for e in evaluation.gold[0]] == [("Bob", 2)]


def test_filling_rows_and_samples_without_tags_are_not_scored(task, tmp_path):
    (batch,) = batches(tmp_path, [*SENTENCES[:2], {"json": {"tokens": ["Bob"]}}])
    batch = replace(batch, valid_B=torch.tensor([True, False, True]))
    _, evaluation = evaluate(task, batch)
    assert evaluation.samples_S.tolist() == [0]
    assert [row["key"] for row in task.predict_step(batch, 0)] == ["0/0000", "0/0002"]


def test_prediction_gives_entities_with_their_characters(task, tmp_path):
    (batch,) = batches(tmp_path, [tagged(("Zoë", "O"), ("Lee", "O"), ("x", "O"))])
    person, inside = (task.tags.index(t) for t in ("B-person", "I-person"))
    # Zoë has four bytes, and the text has a space: Lee begins at token 1 + 5.
    task.head = Oracle(task, [{1: person, 6: inside}])
    (row,) = task.predict_step(batch, 0)
    (entity,) = row["entities"]
    assert row["text"][entity["start"] : entity["end"]] == entity["text"] == "Zoë Lee"
    assert entity["type"] == "person" and 0 < entity["score"] < 1
    json.dumps(row)


def test_raw_text_is_cut_into_words(task, tmp_path):
    (batch,) = batches(tmp_path, [{"txt": "Hi,Ann!"}], text="txt", text_words=False, fields={})
    person = task.tags.index("B-person")
    task.head = Oracle(task, [{4: person, 5: person}])  # "Ann" and its second letter
    (row,) = task.predict_step(batch, 0)
    assert [(e["text"], e["start"], e["end"]) for e in row["entities"]] == [("Ann", 3, 6)]


def test_half_a_surrogate_pair_does_not_move_the_words(task, tmp_path):
    (batch,) = batches(tmp_path, [tagged(("a\ud83d", "O"), ("Bob", "B-person"))])
    task.head = Oracle(task, [{4: task.tags.index("B-person")}])
    values, evaluation = evaluate(task, batch)
    assert values["f1"] == 1 and evaluation.found[0][0].text == "Bob"


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (tagged(("a", "B-animal")), r"the tag 'B-animal'; model\.types knows O, B-person"),
        (tagged(("a", "b")), "tag 'b'"),
        ({"json": {"tokens": ["a"], "tags": ["O", "O"]}}, "one tag for each of its 1 words"),
        ({"json": {"tokens": "a b", "tags": ["O"]}}, "'a b', not a list of words"),
    ],
)
def test_data_that_is_not_tagged_right_is_refused(sample, said, task, tmp_path):
    (batch,) = batches(tmp_path, [sample])
    with pytest.raises(UserError, match=said):
        task.training_step(batch, 0)


def test_mappings_that_cannot_be_aligned_are_refused(task, tmp_path):
    both = {"txt": "Ann  Lee saw Rome", **ANN}
    (batch,) = batches(tmp_path / "a", [both], text="txt", text_words=False)
    with pytest.raises(UserError, match=r"not the words of .*text_words: true"):
        task.training_step(batch, 0)
    (batch,) = batches(tmp_path / "b", [ANN], text_words=False)
    with pytest.raises(UserError, match=r"several texts.*text_words: true"):
        task.training_step(batch, 0)
    (batch,) = batches(tmp_path / "c", [ANN], fields={"word": "json:tokens"})
    with pytest.raises(UserError, match=r"no 'words'.*did you mean 'word'"):
        task.training_step(batch, 0)


def test_settings_that_cannot_work_are_refused():
    for types in ([], ["a", "a"], [""]):
        with pytest.raises(UserError, match=r"model\.types"):
            tagger(types)
    with pytest.raises(UserError, match="exactly one, text"):
        Tagging(towers=Towers(), types=["a"])
    task = Tagging(
        towers=Towers(text=TowerSettings(partial(HfText, config=tagging_data.CONFIG))),
        types=["a"],
    )
    task.preprocessing = {"text": {"vocab_size": 260, "max_tokens": 64, "offsets": False}}
    with pytest.raises(UserError, match=r"data\.text\.offsets is false"):
        task.configure_model()


def test_a_learned_pooling_is_left_out():
    pooled = partial(HfText, config=tagging_data.CONFIG, pool="attention")
    task = tagger(encoder=pooled)
    assert not [name for name, _ in task.named_parameters() if "pool" in name]
    described = task.rebuild_description()["init_args"]["towers"]["text"]["encoder"]
    assert described["init_args"]["pool"] == "mean"


def test_nothing_evaluated_has_no_score():
    none = entity_scores([], words=[], gold=[], losses=[], types=["a", "b"])
    assert none == {"words_unseen": 0}


def test_a_type_that_does_not_occur_has_no_score_and_one_only_found_no_recall():
    words = ["Ann", "Rome"]
    spans = joined_spans(words)
    tagged = TaggedText("Ann Rome", spans, ["B-person", "B-place"], [1.0, 1.0], 0)
    types = ["person", "place", "thing"]
    values = entity_scores(
        [tagged], words=[words], gold=[["B-person", "O"]], losses=[[0.5]], types=types
    )
    every = [
        kind + s for kind in ("person/", "surface_", "") for s in ("f1", "precision", "recall")
    ]
    assert set(values) >= {"loss", "words_unseen", *every}
    assert set(values) <= tagger(types=["person", "place", "thing"]).score_names()
    assert values["person/f1"] == 1 and values["f1"] == pytest.approx(2 / 3)
    assert values["place/precision"] == values["place/f1"] == 0
    assert not [n for n in values if n.startswith("thing") or n == "place/recall"]


def experiment(folder):
    names = ["Ann", "Bob", "Cyd", "Dan"]
    places = ["Rome", "Oslo", "Bonn", "Fla."]
    sentences = [
        tagged((n, "B-person"), ("Lee", "I-person"), ("in", "O"), (p, "B-place"))
        for n in names
        for p in places
    ]
    tagging_data.write_shard(folder / "data" / "0.tar", sentences)
    shards = {"shards": str(folder / "data")}
    encoder = {
        "class_path": "mmlight.encoders.hf_text.HfText",
        "init_args": {"config": tagging_data.CONFIG},
    }
    return {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 60, "log_every_n_steps": 1},
        "run": {"root": str(folder / "runs"), "test": True},
        "model": {
            "class_path": "mmlight.tasks.tagging.Tagging",
            "init_args": {
                "types": ["person", "place"],
                "towers": {"text": {"encoder": encoder}},
                "optimizer": {"lr": 5.0e-3},
            },
        },
        "data": {
            "class_path": "mmlight.data.module.ShardDataModule",
            "init_args": {
                "members": {
                    "text": "json:tokens",
                    "text_words": True,
                    "fields": tagging_data.FIELDS,
                },
                "train": shards,
                "test": shards,
                "predict": shards,
                "text": {
                    "tokenizer": {"class_path": "mmlight.text.tokenizer.ByteTokenizer"},
                    "max_tokens": 64,
                    "offsets": True,
                },
                "global_batch_size": 16,
                "num_workers": 0,
            },
        },
    }


def test_one_command_trains_scores_and_another_predicts(tmp_path):
    config = cli_data.write_yaml(tmp_path / "tiny.yaml", experiment(tmp_path))
    assert cli_data.run_in_process("fit", "-c", config) == 0
    run = cli_data.only_run(tmp_path / "runs")
    last = [row for row in read_rows(run / "metrics.jsonl") if "test/f1" in row][-1]
    assert last["test/f1"] == last["test/person/f1"] == 1.0
    assert last["test/words_unseen"] == 0

    assert cli_data.run_in_process("predict", "-c", config, "--ckpt_path", "last") == 0
    (written,) = run.rglob("predictions.jsonl")
    rows = [json.loads(line) for line in written.read_text().splitlines()]
    assert len(rows) == 16
    assert [(e["type"], e["text"]) for e in rows[0]["entities"]] == [
        ("person", "Ann Lee"),
        ("place", "Rome"),
    ]

    arguments = ("--ckpt_path", "last", "--data.predict.text", "Bob Lee in Fla.")
    assert cli_data.run_in_process("predict", "-c", config, *arguments) == 0
    (row,) = [json.loads(line) for line in written.read_text().splitlines()]
    assert [(e["text"], e["start"], e["end"]) for e in row["entities"]] == [
        ("Bob Lee", 0, 7),
        ("Fla.", 11, 15),  # as one of training's words, though it ends in punctuation
    ]

    checkpoint = max((run / "checkpoints").glob("*.ckpt"))
    again = load_task(checkpoint)
    (batch,) = batches(tmp_path / "raw", [{"txt": "Bob Lee in Fla."}], text="txt", fields={})
    (row,) = again.predict_step(batch, 0)
    assert [e["text"] for e in row["entities"]] == ["Bob Lee", "Fla."]
