"""Models are fetched from a local server that speaks the hub's API."""

import json

import pytest
import torch
from hf_models import write_folder
from hub_server import TOKEN, hub_server, use_hub

from mmlight.__main__ import main
from mmlight.errors import UserError
from mmlight.published.read import read_model


def read(given):
    """Return the files that were read, or what was said instead."""
    try:
        path, saved = read_model(given, key="model.from_pretrained")
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    assert "towers.image.projection.weight" in saved.tensors
    return sorted(one.name for one in path.iterdir())


@pytest.fixture
def hub():
    with hub_server() as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_folder(folder, "clip")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_is_fetched_once_and_in_one_form(tmp_path, monkeypatch, capsys, hub, files):
    also = {"pytorch_model.bin": b"the same again", "modeling.py": b"raise", "flax.msgpack": b"0"}
    hub.add("org/clip", files | also)
    use_hub(monkeypatch, tmp_path, hub.address)
    assert read("org/clip") == read("org/clip@main") == sorted(files)
    got = [one.rpartition("/")[2] for one in hub.requests if "GET" in one and "/resolve/" in one]
    assert sorted(got) == sorted(files)

    use_hub(monkeypatch, tmp_path, hub.address, offline=True)
    hub.requests.clear()
    assert read("org/clip") == sorted(files) and hub.requests == []
    said = capsys.readouterr().err
    assert "the hub cannot be reached; org/clip as it was fetched before" in said


def test_a_revision_may_be_a_branch_or_a_commit(tmp_path, monkeypatch, hub, files):
    repository = hub.add("org/clip", files)
    first = repository.branches["main"]
    config = json.loads(files["config.json"]) | {"model_type": "imagebind"}
    repository.commit({"config.json": json.dumps(config).encode()})
    repository.branches["v1"] = first
    use_hub(monkeypatch, tmp_path, hub.address)
    assert read(f"org/clip@{first}") == read("org/clip@v1") == sorted(files)
    assert "holds a 'imagebind' of transformers" in read("org/clip")


def test_what_cannot_be_had_gets_one_line(tmp_path, monkeypatch, capfd, hub, files):
    hub.add("org/open", files)
    hub.add("org/gated", files, gated=True)
    hub.add("org/private", files, private=True)
    hub.add("org/empty", {"config.json": b"{}"})
    wanted = {
        "org/gated": f"org/gated is gated: ask for access at {hub.address}/org/gated, and set HF_",
        "org/private": f"no folder org/private here, and no such repository at {hub.address}",
        "org/none": f"no folder org/none here, and no such repository at {hub.address}",
        "org/open@v9": f"org/open has no revision v9 at {hub.address}",
        "org/empty": "org/empty on the hub holds no weights",
        "org/a b": "no such run folder",
    }
    use_hub(monkeypatch, tmp_path, hub.address)
    for name, line in wanted.items():
        assert read(name).startswith("model.from_pretrained: ") and line in read(name)
    use_hub(monkeypatch, tmp_path, hub.address, token=TOKEN)
    assert read("org/gated") == read("org/private") == sorted(files)
    assert TOKEN not in "".join(capfd.readouterr())


@pytest.mark.parametrize("offline", [False, True])
def test_without_a_network_one_line_says_so(tmp_path, monkeypatch, offline):
    use_hub(monkeypatch, tmp_path, "http://127.0.0.1:9", offline=offline)
    assert "cannot be reached, and org/clip was not fetched before" in read("org/clip")


def test_a_folder_of_the_same_name_is_taken_without_the_hub(tmp_path, monkeypatch, hub):
    write_folder(tmp_path / "org/clip", "clip")
    monkeypatch.chdir(tmp_path)
    use_hub(monkeypatch, tmp_path, hub.address)
    assert "model.safetensors" in read("org/clip") and hub.requests == []


def test_a_model_goes_back_in_the_form_of_transformers(tmp_path, monkeypatch, hub, files):
    hub.add("org/clip", files)
    use_hub(monkeypatch, tmp_path, hub.address, token=TOKEN)
    assert main(["push", "org/clip", "me/clip", "--format", "transformers"]) == 0
    repository = hub.repositories["me/clip"]
    there = repository.commits[repository.branches["main"]]
    card = there["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers\n") and "FOLDER" not in card
    assert "task.json" not in there and json.loads(there["config.json"])["model_type"] == "clip"
    first, second = (read_model(f"{owner}/clip", key="x")[1].tensors for owner in ("org", "me"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
