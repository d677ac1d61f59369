"""`mmlight evaluate` on published folders: scores are those of the projects' own features."""

import csv
import io
import json
import shutil
from pathlib import Path

import cli_data
import open_clip_models
import pytest
import suite_data
import torch
import transformers
from hf_models import WORDS, write_folder, write_tokenizer
from PIL import Image

from mmlight.interop.embedder import Embedder

SAMPLES = [cli_data.make_sample(n) for n in range(50, 70)]
CAPTIONS = [caption for one in SAMPLES for caption in json.loads(one["json"])["captions"]]
PROMPTS = [p.replace("{c}", name) for name in cli_data.COLOURS for p in suite_data.PROMPTS]
SPELLED = [*WORDS, "one", "grey", *"0123456"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with published models, a run, and a suite of classes and of captions."""
    folder = tmp_path_factory.mktemp("published")
    data = cli_data.write_data(folder / "data")
    values = cli_data.experiment(data, folder / "runs") | {"pictures": None}
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path, "--trainer.max_steps", "1") == 0
    write_folder(folder / "theirs", "clip")
    write_tokenizer(folder / "theirs", "clip", words=SPELLED)
    open_clip_models.made("SigLIP", folder / "open")
    open_clip_models.changed(folder / "open", text_cfg={"hf_tokenizer_name": "beside it"})
    write_tokenizer(folder / "open", "siglip", words=SPELLED)
    sets = {
        "classes": {"shards": str(suite_data.layout(folder / "classes"))},
        "captions": {"shards": str(suite_data.layout(folder / "captions", "retrieval"))},
    }
    suite_data.write_suite(folder / "both.yaml", sets)
    return folder


def evaluated(place: Path, root: Path, *models: str, suite: str = "both.yaml") -> int:
    given = [part for model in models for part in ("--model", model)]
    return cli_data.run_in_process(
        *("evaluate", "--suite", place / suite, "--root", root, "--workers", "0", *given)
    )


@torch.no_grad()
def by_transformers(folder: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    pictures = [Image.open(io.BytesIO(one["png"])) for one in SAMPLES]
    images = model.get_image_features(**processor(pictures, return_tensors="pt"))
    tokens = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    outputs = {"images": images, "texts": model.get_text_features(**tokens)}
    return {
        name: torch.nn.functional.normalize(output.pooler_output, dim=1)
        for name, output in outputs.items()
    }


def by_embedder(folder: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    embedder = Embedder.load(folder)
    return {"images": embedder.images([s["png"] for s in SAMPLES]), "texts": embedder.texts(texts)}


def recall(order: torch.Tensor, right: torch.Tensor) -> float:
    """Return how many rows have a right one among their first five."""
    return float(right.gather(1, order[:, :5]).any(1).double().mean())


def test_published_models_and_a_run_stand_in_one_table(place, tmp_path, capsys):
    run = cli_data.only_run(place / "runs")
    models = (f"theirs={place / 'theirs'}", str(place / "open"), f"ours={run}")
    assert evaluated(place, tmp_path, *models) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("theirs", "open", "ours", "zero_shot", "retrieval"))
    folder = tmp_path / "evaluations" / "both"
    assert (folder / "models.png").is_file()
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"theirs", "open", "ours"}
    found = {(row["model"], row["score"]): float(row["value"]) for row in rows}
    classes = torch.arange(50, 70) % 4
    owner = torch.arange(20).repeat_interleave(2)
    for name, features_of in (("theirs", by_transformers), ("open", by_embedder)):
        features = features_of(place / name, [*PROMPTS, *CAPTIONS])
        prompts, captions = features["texts"].split([len(PROMPTS), len(CAPTIONS)])
        weights = torch.nn.functional.normalize(prompts.unflatten(0, (4, 2)).mean(1), dim=1)
        right = (features["images"] @ weights.T).argmax(1) == classes
        assert found[name, "accuracy_at_1"] == pytest.approx(float(right.double().mean()))
        order = (features["images"] @ captions.T).argsort(1, descending=True)
        hits = recall(order, owner == torch.arange(20)[:, None])
        assert found[name, "image_to_text/recall_at_5"] == pytest.approx(hits, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "removed", "said"),
    [
        ("theirs", "tokenizer.json", "has no tokenizer (tokenizer.json); put it beside"),
        ("open", "open_clip_model.safetensors", "has no weights (open_clip_model.safetensors, "),
        ("theirs", "config.json", "task.json (mmlight), config.json (transformers) or open_clip_"),
    ],
)
def test_a_folder_that_lacks_a_file_is_told_in_one_line(
    name, removed, said, place, tmp_path, capsys
):
    shutil.copytree(place / name, tmp_path / name)
    (tmp_path / name / removed).unlink()
    assert evaluated(place, tmp_path / "root", str(tmp_path / name)) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_without_a_tokenizer_what_needs_no_text_is_scored(place, tmp_path, capsys):
    shutil.copytree(place / "open", tmp_path / "open")
    (tmp_path / "open" / "tokenizer.json").unlink()
    assert evaluated(place, tmp_path / "root", str(tmp_path / "open")) == 2
    err = capsys.readouterr().err
    assert "has towers for image, text and no tokenizer beside its weights (tok" in err
    assert err.count("\n") == 1
    tasks = {"zero_shot": {}, "knn": {"k": 3}}
    sets = {"classes": {"shards": str(place / "classes"), "tasks": tasks}}
    suite_data.write_suite(place / "wide.yaml", sets)
    root = tmp_path / "root"
    assert evaluated(place, root, str(tmp_path / "open"), suite="wide.yaml") == 0
    assert "open on classes: no zero_shot, which needs texts as tokens" in capsys.readouterr().err
    with (root / "evaluations" / "wide" / "scores.csv").open() as file:
        assert {row["task"] for row in csv.DictReader(file)} == {"knn"}
