"""`mmlight push` to a local server that speaks the hub's API, and back."""

import json
import os
import subprocess
import sys

import every_task
import pytest
import torch
from hub_server import TOKEN, hub_server, use_hub

from mmlight.__main__ import main
from mmlight.interop.embedder import Embedder

TEXTS = ["a red star", "rain"]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "runs/pairs/20260101-000000-abcd"
    (folder / "checkpoints").mkdir(parents=True)
    every_task.save(every_task.make("contrastive"), folder / "checkpoints/step-00000007.ckpt")
    summary = {
        "name": "pairs",
        "id": folder.name,
        "final": {"val/image_to_text/recall_at_1": 0.625},
        "steps": 7,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_goes_to_the_hub_and_comes_back(tmp_path, monkeypatch, capfd, run):
    with hub_server() as hub:
        use_hub(monkeypatch, tmp_path, hub.address, token=TOKEN)
        assert main(["push", str(run), "me/pairs@trial", "--private"]) == 0
        said = capfd.readouterr()
        repository = hub.repositories["me/pairs"]
        commit = repository.branches["trial"]
        assert said.out.splitlines()[-1] == f"push: {hub.address}/me/pairs/commit/{commit}"
        assert TOKEN not in said.out + said.err
        files = repository.commits[commit]
        assert {"model.safetensors", "task.json", "preprocessing.json", "README.md"} <= set(files)
        assert len(repository.stored) == 1 and repository.private  # weights went as a large file
        card = files["README.md"].decode()
        assert card.startswith("---\nlibrary_name: mmlight\n")
        assert "| val/image_to_text/recall_at_1 | 0.625 |" in card
        assert 'Embedder.load("me/pairs@trial")' in card and "FOLDER" not in card
        there = Embedder.load("me/pairs@trial").texts(TEXTS)
    assert torch.equal(there, Embedder.load(run).texts(TEXTS))


@pytest.mark.parametrize(
    ("name", "token", "line"),
    [
        ("me/pairs", None, "push: AT does not let you write to me/pairs: set HF_TOKEN"),
        ("me/pairs", "hf_other", "push: AT does not let you write to me/pairs: set HF_TOKEN"),
        ("pairs", TOKEN, "push: pairs is no repository; name it OWNER/NAME"),
        ("me/pa irs", TOKEN, "push: me/pa irs is no name of a repository"),
    ],
)
def test_what_cannot_be_put_there_gets_one_line(
    tmp_path, monkeypatch, capfd, run, name, token, line
):
    with hub_server() as hub:
        use_hub(monkeypatch, tmp_path, hub.address, token=token)
        assert main(["push", str(run), name]) == 2
        said = capfd.readouterr().err.splitlines()
        assert line.replace("AT", hub.address) in said[-1] and "hf_other" not in said[-1]
        assert hub.repositories == {}


def test_without_a_network_nothing_is_put_there(tmp_path, monkeypatch, capfd, run):
    use_hub(monkeypatch, tmp_path, "http://127.0.0.1:9", token=TOKEN)
    assert main(["push", str(run), "me/pairs"]) == 2
    said = capfd.readouterr().err.splitlines()
    assert "cannot be reached: nothing was written to me/pairs" in said[-1]


@pytest.mark.slow
def test_the_commands_talk_to_the_hub_of_the_environment(tmp_path, run):
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    with hub_server() as hub:
        own = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN}
        calls = [
            ["push", str(run), "me/pairs"],
            ["export", "me/pairs", "--out", "again", "--format", "none"],
        ]
        for call in calls:
            done = subprocess.run(
                [sys.executable, "-m", "mmlight", *call],
                env=plain | own | {"HF_HUB_DISABLE_XET": "1"},
                cwd=tmp_path,
                text=True,
                capture_output=True,
            )
            assert done.returncode == 0, done.stderr
            assert TOKEN not in done.stdout + done.stderr
    again, first = (Embedder.load(path).texts(TEXTS) for path in (tmp_path / "again", run))
    assert torch.equal(again, first)
