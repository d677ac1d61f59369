"""A model of open_clip, from the command line: imported, tuned, mixed back, given back."""

import json
import sys
from pathlib import Path

import cli_data
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from mmlight.__main__ import USER_MISTAKE
from mmlight.published.read import read_model
from mmlight.runs.run.metrics_log import read_rows
from mmlight.saved.checkpoint import read_saved

sys.path.insert(0, str(Path(__file__).parents[1] / "published"))
import open_clip_models

WORDS = [*cli_data.COLOURS, *"0123456", "a", "one"]


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of words; its end has the highest id, as CLIP's has."""
    names = {"<pad>": 0, **{word: n for n, word in enumerate(WORDS, start=1)}}
    names |= {"<unk>": 37, "<start>": 38, "<end>": 39}
    made = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 38), ("<end>", 39)]
    )
    made.save(str(folder / "tokenizer.json"))
    tokens = {"pad": "<pad>", "unk": "<unk>", "bos": "<start>", "eos": "<end>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {f"{name}_token": token for name, token in tokens.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "vit"
    open_clip_models.made("ViT", folder)
    write_tokenizer(folder)
    open_clip_models.changed(folder, text_cfg={"hf_tokenizer_name": "words"})
    return folder


@pytest.fixture(scope="module")
def tuned(published, tmp_path_factory):
    """A run of two steps that begins with the model, and the experiment."""
    folder = tmp_path_factory.mktemp("tuned")
    values = cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")
    values["model"]["init_args"] = {
        "from_pretrained": str(published),
        "optimizer": {"lr": 1.0e-2},
        "schedule": {"warmup_steps": 0, "kind": "constant"},
    }
    values["trainer"]["max_steps"] = 2
    data = values["data"]["init_args"]
    del data["members"]["audio"], data["audio"], data["image"]
    data["text"] = {}
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return path, cli_data.only_run(folder / "runs")


def test_an_import_is_an_export_of_ours_that_can_be_given_back(published, tmp_path, capsys):
    assert cli_data.run_in_process("import", published, tmp_path / "ours") == 0
    assert f"import: {tmp_path / 'ours'}" in capsys.readouterr().out
    ours, theirs = read_saved(tmp_path / "ours"), read_model(published, key="test")[1]
    assert all(torch.equal(ours.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    assert ours.preprocessing == theirs.preprocessing
    assert "A `Contrastive` model of" in (tmp_path / "ours/README.md").read_text()
    out = tmp_path / "out"
    command = ("export", tmp_path / "ours", "--format", "open_clip", "--out", out)
    assert cli_data.run_in_process(*command) == 0
    back = read_model(out / "open_clip", key="test")[1]
    assert all(torch.equal(back.tensors[name], theirs.tensors[name]) for name in theirs.tensors)
    text = dict(theirs.preprocessing["text"])
    assert back.preprocessing["text"] == text
    assert cli_data.run_in_process("import", published, tmp_path / "ours") == USER_MISTAKE


def test_data_follow_the_model(published, tuned):
    _, run = tuned
    (checkpoint,) = (run / "checkpoints").glob("*.ckpt")
    kept, theirs = read_saved(checkpoint), read_model(published, key="test")[1]
    for name in ("tokenizer", "max_tokens", "clean"):
        assert kept.preprocessing["text"][name] == theirs.preprocessing["text"][name]
    for name in ("size", "eval_crop", "interpolation"):
        assert kept.preprocessing["image"][name] == theirs.preprocessing["image"][name]
    towers = kept.description["init_args"]["towers"]
    assert towers["image"]["encoder"]["init_args"]["mean"] == open_clip_models.PREPROCESS["mean"]
    assert str(published) not in str(kept.description)
    assert (run / "report.html").is_file()


def test_the_first_evaluation_and_wise_ft_begin_at_the_models_own_scores(
    published, tuned, tmp_path
):
    path, run = tuned
    assert cli_data.run_in_process("import", published, tmp_path / "ours") == 0
    code = cli_data.run_in_process(
        *("validate", "-c", path, "--ckpt_path", tmp_path / "ours", "--run.id", "own")
    )
    assert code == 0
    (metrics,) = run.parent.glob("own/**/metrics.jsonl")
    own = {k: v for row in read_rows(metrics) for k, v in row.items() if k.startswith("val/")}
    code = cli_data.run_in_process(
        *("wise-ft", "--pretrained", published, "--finetuned", run, "-c", path),
        *("--points", "3", "--metric", "image_to_text/recall_at_1", "--run.id", "w"),
    )
    assert code == 0
    (told,) = run.parent.glob("**/wise_ft.json")
    points = json.loads(told.read_text())["points"]
    begin, end = (points[place]["scores"]["val"] for place in (0, -1))
    for name, value in begin.items():
        if name in ("loss",) or "recall" in name:
            assert value == own[f"val/{name}"], name
    assert begin["loss"] != end["loss"]


def test_another_tokenizer_than_the_models_is_refused(tuned, capsys):
    path, _ = tuned
    tokenizer = "--data.text.tokenizer=mmlight.text.tokenizer.ByteTokenizer"
    # Its ids fit the model's embeddings no better than they mean its words.
    code = cli_data.run_in_process("fit", "-c", path, tokenizer, "--run.id", "other")
    assert code == USER_MISTAKE
    lines = capsys.readouterr().err.strip().splitlines()
    assert "data.text.tokenizer gives other ids than the tokenizer" in lines[-1]
    assert "leave data.text.tokenizer out" in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "{nothing}", "{out}"], "no such run folder"),
        (["import", "{nothing}", "{out}", "--arch", "ViT-B-32"], "no such file or folder"),
        (["import", "{alone}/model.safetensors", "{out}"], "is weights alone; open_clip_config"),
        (
            ["import", "{alone}/model.pt", "{out}"],
            "needs open_clip_config.json beside it",
        ),
        (["export", "{model}", "--out", "{out}", "--format", "clip"], "use onnx, torch, open_clip"),
    ],
)
def test_mistakes_are_one_line(published, tmp_path, capsys, arguments, message):
    alone = tmp_path / "alone"
    alone.mkdir()
    save_file({"logit_scale": torch.ones(1)}, alone / "model.safetensors")
    torch.save({"logit_scale": torch.ones(1)}, alone / "model.pt")
    places = {"nothing": tmp_path / "nothing", "out": tmp_path / "out", "model": published}
    places["alone"] = alone
    given = [argument.format(**places) for argument in arguments]
    assert cli_data.run_in_process(*given) == USER_MISTAKE
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()
