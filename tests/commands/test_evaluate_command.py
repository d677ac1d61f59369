"""`mmlight evaluate` on real, tiny sets: scores, ranks, interruption, what is kept, mistakes."""

import csv
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import cli_data
import numpy as np
import pytest
import suite_data
import torch

from mmlight.interop.embedder import Embedder
from mmlight.suites import features
from mmlight.suites.model import Model
from mmlight.tasks.evaluation import evaluate

IMAGES = {"image": "png", "label": "cls"}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, sets, a trained run in runs/tiny, and a suite of all tasks."""
    folder = tmp_path_factory.mktemp("evaluate")
    data = cli_data.write_data(folder / "data")
    path = cli_data.write_yaml(
        folder / "tiny.yaml", cli_data.experiment(data, folder / "runs") | {"pictures": None}
    )
    changes = ("--trainer.max_steps", "20", "--model.optimizer.lr", "0.01")
    assert cli_data.run_in_process("fit", "-c", path, *changes) == 0
    for kind in ("classes", "multilabel", "retrieval"):
        suite_data.layout(folder / kind, None if kind == "classes" else kind)
    suite_data.pairs(folder / "pairs")
    suite_data.write_suite(
        folder / "all.yaml",
        {
            "classes": {
                "shards": str(folder / "classes"),
                "tasks": {
                    "zero_shot": {},
                    "knn": {"k": 3},
                    "linear_probe": {"max_steps": 50},
                    "few_shot": {"shots": [1, 2], "draws": 2},
                },
            },
            "several": {"shards": str(folder / "multilabel")},
            "captions": {"shards": str(folder / "retrieval")},
            "sound": {
                "shards": str(data / "val"),
                "members": {"audio": "flac", "label": "cls", "text": "txt"},
                "class_names": str(data / "classnames.txt"),
                "tasks": ["zero_shot", "retrieval"],
            },
            "swapped": {
                "shards": str(folder / "pairs"),
                "members": {
                    "image": "image_0.png",
                    "text": {"json:caption": 1.0, "json:wrong": 1.0},
                },
                "tasks": ["pairs"],
            },
            "two_by_two": {
                "shards": str(folder / "pairs"),
                "members": {"image": "image_0.png", "text": "json:caption"},
                "second": {"image": "image_1.png", "text": "json:other"},
                "tasks": ["pairs"],
            },
        },
    )
    return folder


def run_of(place: Path) -> Path:
    return cli_data.only_run(place / "runs")


def evaluated(place: Path, root: Path, *more: str, suite: str = "all.yaml") -> int:
    """Evaluate in this process; return its exit code."""
    arguments = ("evaluate", "--suite", place / suite, "--root", root, "--workers", "0")
    models = () if "--model" in more else ("--model", f"tiny={run_of(place)}")
    return cli_data.run_in_process(*arguments, *models, *more)


def scores(root: Path, suite: str = "all") -> dict[tuple[str, str, str], float]:
    with (root / "evaluations" / suite / "scores.csv").open() as file:
        return {(r["set"], r["task"], r["score"]): float(r["value"]) for r in csv.DictReader(file)}


@pytest.fixture(scope="module")
def done(place) -> Path:
    """The folder of a whole evaluation."""
    assert evaluated(place, place / "whole") == 0
    return place / "whole"


def test_zero_shot_and_recall_are_those_of_a_validation(place, done):
    values = cli_data.experiment(place / "data", place / "runs")
    _, data = cli_data.build(values)
    embedder = Embedder.load(run_of(place))
    task = embedder.task
    task.data = data
    wanted = evaluate(task, data.eval_loader("val"))
    found = scores(done)
    for pair in ("audio_to_text", "text_to_audio"):
        for k in (1, 5, 10):
            key = f"{pair}/recall_at_{k}"
            assert found["sound", "retrieval", key] == pytest.approx(wanted[key])
    names = list(cli_data.COLOURS)
    prompts = embedder.texts([p.replace("{c}", n) for n in names for p in suite_data.PROMPTS])
    weights = torch.nn.functional.normalize(prompts.unflatten(0, (4, 2)).mean(1), dim=1)
    images = embedder.images([cli_data.make_sample(n)["png"] for n in range(50, 70)])
    right = (images @ weights.T).argmax(1) == torch.arange(50, 70) % 4
    assert found["classes", "zero_shot", "accuracy_at_1"] == pytest.approx(
        float(right.float().mean())
    )


def test_pairs_are_those_of_their_definitions(place, done):
    embedder = Embedder.load(run_of(place))
    names = list(cli_data.COLOURS)
    images = embedder.images([cli_data.make_sample(n)["png"] for n in range(13)]).numpy()
    texts = embedder.texts([f"a {name} one" for name in names]).numpy()
    cos = images @ texts.T  # of picture and colour
    hits, text, image = [], [], []
    for n in range(12):
        a, b = n % 4, (n + 1) % 4
        hits.append(cos[n, a] > max(cos[n, b], cos[n, (n + 2) % 4]))
        text.append(cos[n, a] > cos[n, b] and cos[n + 1, b] > cos[n + 1, a])
        image.append(cos[n, a] > cos[n + 1, a] and cos[n + 1, b] > cos[n, b])
    found = scores(done)
    assert found["swapped", "pairs", "accuracy"] == pytest.approx(np.mean(hits))
    assert found["two_by_two", "pairs", "text_accuracy"] == pytest.approx(np.mean(text))
    assert found["two_by_two", "pairs", "image_accuracy"] == pytest.approx(np.mean(image))
    group = np.mean(np.logical_and(text, image))
    assert found["two_by_two", "pairs", "group_accuracy"] == pytest.approx(group)


def test_any_caption_of_a_picture_is_a_hit(place, done):
    embedder = Embedder.load(run_of(place))
    samples = [cli_data.make_sample(n) for n in range(50, 70)]
    images = embedder.images([s["png"] for s in samples])
    captions = [c for s in samples for c in json.loads(s["json"])["captions"]]
    owner = torch.arange(20).repeat_interleave(2)
    order = (images @ embedder.texts(captions).T).argsort(1, descending=True)[:, :5]
    hits = (owner[order] == torch.arange(20)[:, None]).any(1).double().mean()
    found = scores(done)["captions", "retrieval", "image_to_text/recall_at_5"]
    # Colours share captions: equal similarities count by chance.
    assert found == pytest.approx(float(hits), abs=0.25)


def test_it_writes_tables_a_page_and_every_score_with_its_interval(place, done):
    folder = done / "evaluations" / "all"
    markdown, page = (folder / "scores.md").read_text(), (folder / "scores.html").read_text()
    for text in (markdown, page):
        assert "two_by_two" in text and "mean_average_precision" in text
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["task"] for r in rows} == {
        *("zero_shot", "knn", "linear_probe", "few_shot", "multi_label", "retrieval", "pairs")
    }
    assert all(float(r["low"]) <= float(r["value"]) <= float(r["high"]) for r in rows)
    assert [r["sd"] != "" for r in rows] == [r["task"] == "few_shot" for r in rows]


def test_a_second_run_computes_nothing(place, done, monkeypatch, capsys):
    before = scores(done)
    for name in ("encode", "build"):
        monkeypatch.setattr(Model, name, lambda *_, **__: pytest.fail("computed again"))
    assert evaluated(place, done) == 0
    assert "to embed" not in capsys.readouterr().err
    assert scores(done) == before


def test_kept_features_are_enough_for_new_settings(place, done, monkeypatch):
    monkeypatch.setattr(Model, "encode", lambda *_, **__: pytest.fail("computed again"))
    one = {"shards": str(place / "classes"), "tasks": {"knn": {"k": 1}}}
    suite_data.write_suite(place / "other.yaml", {"again": one})
    assert evaluated(place, done, suite="other.yaml") == 0
    assert ("again", "knn", "accuracy_at_1") in scores(done, "other")


def test_other_weights_and_other_shards_are_other_features(place, tmp_path, capsys):
    sets = {"captions": {"shards": str(tmp_path / "set")}}
    suite_data.layout(tmp_path / "set", "retrieval")
    suite_data.write_suite(place / "one.yaml", sets)
    root = tmp_path / "root"

    def embedded() -> int:
        capsys.readouterr()
        assert evaluated(place, root, suite="one.yaml") == 0
        return capsys.readouterr().err.count("to embed")

    assert [embedded(), embedded()] == [1, 0]
    again = {f"n{n}": suite_data.made(n, "png", "txt") for n in range(80, 90)}
    suite_data.write_tar(tmp_path / "set" / "test" / "0.tar", again)
    assert [embedded(), embedded()] == [1, 0]


def test_an_interrupted_evaluation_goes_on_where_it_stopped(place, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "PIECE", 4)
    assert evaluated(place, tmp_path / "whole") == 0
    encode, calls = Model.encode, []

    def interrupt(self, modality, batch):
        calls.append(batch.index_B.tolist())
        if len(calls) == 9:
            raise KeyboardInterrupt
        return encode(self, modality, batch)

    monkeypatch.setattr(Model, "encode", interrupt)
    root = tmp_path / "halved"
    assert evaluated(place, root) == 130
    assert not (root / "evaluations").exists()
    # Pieces of pictures and captions, each of which is a call of its own.
    assert len(list((root / "features").rglob("*.safetensors"))) == 4
    assert evaluated(place, root) == 0
    again = [n for numbers in calls[9:11] for n in numbers]
    assert again and not set(again) & {n for numbers in calls[:8] for n in numbers}
    assert scores(root) == scores(tmp_path / "whole")


@pytest.mark.timeout(600)
def test_two_ranks_give_the_table_of_one(place, tmp_path):
    small = {n: {"shards": str(place / n)} for n in ("classes", "retrieval")}
    suite_data.write_suite(place / "small.yaml", small)
    process = cli_data.start(
        *("evaluate", "--model", f"tiny={run_of(place)}", "--suite", place / "small.yaml"),
        *("--root", tmp_path / "two", "--workers", "0", "--devices", "2", "--accelerator", "cpu"),
        cwd=place,
    )
    assert evaluated(place, tmp_path / "one", suite="small.yaml") == 0
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("zero_shot") == 2  # only rank 0 speaks
    tables = [tmp_path / n / "evaluations" / "small" / "scores.csv" for n in ("one", "two")]
    assert tables[0].read_bytes() == tables[1].read_bytes()


def test_models_stand_beside_one_another(place, done, capsys):
    models = ("--model", f"a={run_of(place)}", "--model", f"b={run_of(place)}")
    assert evaluated(place, done, *models, "--format", "markdown") == 0
    out = capsys.readouterr().out
    assert "| samples | a | b |" in out
    assert (done / "evaluations" / "all" / "models.png").is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--model", "nowhere"), "--model: nowhere: no such run folder, checkpoint or exported"),
        (("--devices", "0"), "--devices 0: at least 1"),
        (("--suite", "none.yaml"), "none.yaml"),
    ],
)
def test_a_mistake_is_told_in_one_line(more, said, place, tmp_path, capsys):
    assert evaluated(place, tmp_path, *more) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("one", "said"),
    [
        ({"members": {"image": "jpg", "label": "cls"}}, "sets.a (test): "),
        ({"shards": "missing/"}, "missing"),
        ({"class_names": ["red"]}, "sets.a"),
        ({"members": {"image": "png"}, "tasks": ["knn"]}, "sets.a: knn fits on training samples"),
    ],
)
def test_a_set_that_is_not_what_it_says_is_told_in_one_line(one, said, place, tmp_path, capsys):
    whole = {
        "shards": str(place / "classes" / "test"),
        "members": IMAGES,
        "class_names": list(cli_data.COLOURS),
        "tasks": ["zero_shot"],
    }
    suite_data.write_suite(place / "bad.yaml", {"a": whole | one})
    assert evaluated(place, tmp_path, suite="bad.yaml") == 2
    err = [line for line in capsys.readouterr().err.splitlines() if "to embed" not in line]
    assert len(err) == 1 and said in err[0]


def test_what_a_model_cannot_do_is_said_and_left_out(place, tmp_path, capsys):
    values = cli_data.experiment(place / "data", tmp_path / "runs") | {"pictures": None}
    values["model"]["init_args"]["towers"]["audio"] = None
    for key in ("members", "val", "test", "train", "predict"):
        values["data"]["init_args"].get(key, {}).pop("audio", None)
    del values["data"]["init_args"]["audio"]
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path, "--trainer.max_steps", "1") == 0
    model = ("--model", f"two={cli_data.only_run(tmp_path / 'runs')}")
    assert evaluated(place, tmp_path, *model) == 0
    err = capsys.readouterr().err
    assert "two on sound: no zero_shot, which needs a tower for audio" in err
    assert ("sound", "zero_shot", "accuracy_at_1") not in scores(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_second_run_takes_less_than_a_fifth_of_the_time(place, shared_data, tmp_path):
    """On 20,000 real images; of CPU time, starts included, which other processes don't change."""
    root = Path(__file__).parents[2]
    assert (root / "../shared/data").resolve() == shared_data.resolve()
    command = [sys.executable, "-m", "mmlight", "evaluate", "--workers", "0"]
    command += ["--suite", "experiments/suites/cifar10.yaml"]
    command += ["--model", str(run_of(place)), "--root", str(tmp_path)]
    taken = []
    for _ in range(2):
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"})
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
    print("CPU seconds:", taken)
    assert taken[1] < 0.2 * taken[0], taken
