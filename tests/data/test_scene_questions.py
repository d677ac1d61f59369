"""Questions about scenes: what they mean, how they are balanced, and how shards hold them."""

import json
from collections import Counter, defaultdict

import pytest
import suite_data
from data.test_scenes_command import _digests, _samples

from mmlight.__main__ import main as mmlight
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.scenes.questions import ANSWERS, TYPES, ask
from mmlight.data.scenes.scene import COLOURS, SHAPES, SceneRandom, eval_meanings
from mmlight.data.scenes.shards import SceneSettings, make
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

ASKED = SceneSettings(samples=260, eval_samples=4, questions=12, descriptions=3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("questions") / "q"
    assert make(out, settings=ASKED, workers=2, progress=False)
    return out


def asked_about(split, count=250):
    for number, meaning in enumerate(eval_meanings(split, count=count, seed=3)):
        draws = SceneRandom(5, split=9, sample=number)
        for place in range(len(TYPES)):
            yield meaning, ask(meaning, draws, number=place)


def _holds(meaning, words):
    """Whether a scene has an object with all of these words in its name."""
    return sum(set(words) <= set(t.name.split()) for t in (meaning.first, meaning.second))


@pytest.mark.parametrize("split", ["val", "test"])
def test_answers_are_true_of_the_scene(split):
    for meaning, one in asked_about(split):
        words = one.question.rstrip("?").replace(",", "").split()
        named = [w for w in words if w in COLOURS or w in SHAPES]
        single = [w.removesuffix("es") if w == "crosses" else w.removesuffix("s") for w in words]
        objects = [meaning.first.name.split(), meaning.second.name.split()]
        if one.type == "count":
            kinds = [w for w in single + words if w in COLOURS or w in SHAPES][:1]
            assert _holds(meaning, kinds) == ("zero", "one", "two").index(one.answer)
        elif one.type == "exists":
            assert (_holds(meaning, named) > 0) == (one.answer == "yes")
        elif one.type in ("colour", "shape"):
            assert _holds(meaning, [*named, one.answer]) == 1
        elif one.type == "place":
            first = "left" in words or "top" in words
            assert one.answer in objects[0 if first else 1]
        else:
            sides = {0: ("left", "right"), 1: ("above", "below")}[meaning.relation]
            assert one.answer in sides
            # What is asked about comes last where the other one is named first.
            target = words[words.index("is") + 2 :] if "seen" in words else words[3:]
            names = []
            for word in target:
                if word == "from":
                    break
                names += [word] if word in COLOURS or word in SHAPES else []
            first = set(names) <= set(objects[0])
            second = set(names) <= set(objects[1])
            assert first != second
            assert one.answer == sides[0 if first else 1]


def test_types_come_equally_often_and_answers_are_balanced():
    answers = defaultdict(Counter)
    for _, one in asked_about("val", count=400):
        answers[one.type][one.answer] += 1
    assert {kind: sum(found.values()) for kind, found in answers.items()} == dict.fromkeys(
        TYPES, 400
    )
    assert {answer for found in answers.values() for answer in found} == set(ANSWERS)
    # Half are yes; of numbers no answer has more than half.
    assert 160 < answers["exists"]["yes"] < 240
    assert max(answers["count"].values()) < 200
    assert max(answers["colour"].values()) < 90 and max(answers["relation"].values()) < 140


def test_names_of_objects_are_those_of_the_split():
    held_out = {t.name for m in eval_meanings("test", count=400, seed=0) for t in (m.first,)}
    pairs = {f"{c} {s}" for c in COLOURS for s in SHAPES}
    for split in ("val", "test"):
        for _, one in asked_about(split):
            named = {pair for pair in pairs if pair in one.question}
            assert named <= (held_out if split == "test" else pairs - held_out)


def test_scenes_are_those_of_a_set_without_questions(made, tmp_path):
    make(tmp_path / "s", settings=SceneSettings(260, 4), workers=1, progress=False)
    plain = _samples(tmp_path / "s/val/00000.tar")
    asked = _samples(made / "val/00000.tar")
    assert list(asked) == [f"{n:06d}_{q}" for n in range(4) for q in range(len(TYPES))]
    for key, parts in asked.items():
        own = plain[key.split("_")[0]]
        assert {n: parts[n] for n in ("jpg", "flac", "cls", "txt")} == {
            n: own[n] for n in ("jpg", "flac", "cls", "txt")
        }
        notes = json.loads(parts["json"])
        assert notes["type"] == TYPES[int(key.split("_")[1])]
        assert {k: notes[k] for k in json.loads(own["json"])} == json.loads(own["json"])
    train = _samples(made / "train/00001.tar")
    notes = json.loads(train["000256"]["json"])
    assert {len(notes[name]) for name in ("questions", "answers", "types", "told")} == {15}
    assert notes["types"] == [*TYPES, *TYPES, *["description"] * 3]
    assert set(notes["questions"][12:]) == {"what do you see?"}
    assert set(notes["answers"][12:]) <= set(notes["captions"])
    for question, said in zip(notes["questions"], notes["told"], strict=True):
        assert said.removesuffix(f". {question}") in notes["captions"]
    assert (made / "answers.txt").read_text().split() == list(ANSWERS)
    assert not (tmp_path / "s/answers.txt").exists()
    assert "questions" not in (tmp_path / "s/scenes.json").read_text()


def test_any_number_of_workers_writes_the_same_bytes(made, tmp_path):
    make(tmp_path / "alone", settings=ASKED, workers=1, progress=False)
    assert _digests(tmp_path / "alone") == _digests(made)


def test_other_questions_are_other_settings(made, capsys):
    command = ["scenes", str(made), "--samples", "260", "--eval-samples", "4"]
    assert mmlight(command) == 2
    assert "(questions, descriptions, questions_version)" in capsys.readouterr().err
    assert mmlight([*command, "--questions", "12", "--descriptions", "3"]) == 0
    assert mmlight([*command, "--descriptions", "3"]) == 2
    assert "--descriptions 3: from 0 to 1000 work, beside --questions" in capsys.readouterr().err
    assert mmlight([*command, "--questions", "-1"]) == 2
    assert "--questions -1: from 0 to 1000 work" in capsys.readouterr().err


def module(train, val, **more):
    return ShardDataModule(
        members=Members(text="json:q", answer="json:a", paired_answers=True),
        train=Split(str(train)),
        val=Split(str(val)),
        text=TextSettings(tokenizer=ByteTokenizer(), captions_per_sample=2),
        global_batch_size=2,
        eval_batch_size=2,
        num_workers=0,
        **more,
    )


def write(path, *samples):
    suite_data.write_tar(
        path, {str(n): {"json": json.dumps(s).encode()} for n, s in enumerate(samples)}
    )
    return path.parent


def test_the_answer_that_is_drawn_is_that_of_the_question(tmp_path):
    said = {"q": ["one?", "two?", "three?"], "a": ["1", ["2", "II"], "3"]}
    train = write(tmp_path / "t/0.tar", said, said)
    val = write(
        tmp_path / "v/0.tar", {"q": ["one?", "two?"], "a": ["1", "2"]}, {"q": "x?", "a": ["y"]}
    )
    data = module(train, val)
    data.setup("fit")
    right = {"one?": {"1"}, "two?": {"2", "II"}, "three?": {"3"}}
    batches = data.train_batches(data._rank())
    seen = defaultdict(set)
    for step in range(30):
        batch = batches[step]
        assert batch.text.item_N.tolist() == batch.answer.item_N.tolist() == [0, 0, 1, 1]
        for question, answer in zip(batch.captions, batch.answers, strict=True):
            seen[question].add(answer)
    assert seen == right
    (batch,) = data.val_dataloader()
    assert batch.captions == ["one?", "two?", "x?"] and batch.answers == ["1", "2", "y"]


def test_answers_that_do_not_pair_are_bad_samples(tmp_path):
    good = {"q": ["one?"], "a": ["1"]}
    train = write(tmp_path / "t/0.tar", good, {"q": ["one?", "two?"], "a": ["1"]})
    val = write(tmp_path / "v/0.tar", good, {"q": ["one?"], "a": [["1", "2"]]})
    data = module(train, val, max_bad_fraction=1.0)
    data.setup("fit")
    reasons = {
        bad.reason for step in range(4) for bad in data.train_batches(data._rank())[step].bad
    }
    assert reasons == {"ValueError: there are 2 texts, but answers to 1"}
    (batch,) = data.val_dataloader()
    assert "write a sample for each question" in batch.bad[0].reason


def test_pairs_need_both_members():
    with pytest.raises(UserError, match=r"paired_answers needs members.text and members.answer"):
        Members(text="txt", paired_answers=True)
