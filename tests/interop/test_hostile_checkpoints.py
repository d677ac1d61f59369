"""What somebody wrote into a checkpoint is neither run nor imported, read or fetched."""

import contextlib
import io
import json
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import every_task
import hostile_descriptions as hostile
import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_parts

from mmlight.__main__ import USER_MISTAKE, main
from mmlight.errors import UserError
from mmlight.interop.embedder import Embedder
from mmlight.interop.predictor import Predictor
from mmlight.saved.checkpoint import TASK, Saved, read_saved, write_export
from mmlight.saved.locate import META
from mmlight.tasks.tower import Tower, TowerSettings

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(scope="module")
def honest(tmp_path_factory) -> Saved:
    task = every_task.make("contrastive")
    return read_saved(every_task.save(task, tmp_path_factory.mktemp("honest") / "honest.ckpt"))


@pytest.fixture
def bait(tmp_path, monkeypatch):
    """The folder with what must not be touched; the module in it can be imported."""
    ran = hostile.lay_bait(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not ran.exists()
    assert "canary_module" not in sys.modules


def whole(description, prepared, tensors):
    own = {"version": 1, "task": description, "preprocessing": prepared}
    return {"mmlight": own, "state_dict": tensors, "pytorch-lightning_version": "2.6.0"}


def as_file(folder, *parts):
    path = folder / "model.ckpt"
    torch.save(whole(*parts), path)
    return path


def as_export(folder, description, prepared, tensors):
    path = folder / "export"
    write_export(path, Saved(description, prepared, tensors))
    return path


def as_parts(folder, *parts):
    path = folder / "parts.ckpt"
    checkpoint = whole(*parts)
    save_parts({"state_dict": checkpoint.pop("state_dict")}, checkpoint_id=path, no_dist=True)
    torch.save(checkpoint, path / META)
    return path


def embedder(path):
    Embedder.load(path)


def predictor(path):
    Predictor.load(path).texts(["a cat"])


def from_run(path):
    for modality in ("image", "text"):
        Tower(TowerSettings(from_run=str(path)), modality=modality, embed_dim=8)


def command(*arguments):
    """Return what runs a verb as the command line does, with its one line as the error."""

    def run(path):
        given = [str(path) if argument == "CKPT" else argument for argument in arguments]
        code, _, said = run_main(given)
        if code:
            assert code == USER_MISTAKE
            assert said.startswith("mmlight: ") and said.count("\n") == 1, said
            raise UserError(said.removeprefix("mmlight: ").rstrip("\n"))

    return run


def run_main(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


EMPTY = ("-c", "empty.yaml")
COMMANDS = {
    "predict": command("predict", "--ckpt_path", "CKPT", "--data.predict.text", "a cat"),
    "export": command("export", "CKPT", "--out", "out", "--format", "none"),
    "soup": command("soup", "CKPT", "CKPT", *EMPTY),
    "wise-ft": command("wise-ft", "--pretrained", "CKPT", "--finetuned", "CKPT", *EMPTY),
}
NAMES = sorted(hostile.changes(Path("unused")))
OF_PREPARATION = (
    "class names",
    "image settings",
    "image setting",
    "text settings",
    "text setting",
    "tokenizer",
)
OF_OBJECTIVE = ("objective", "string of JSON", "string of a file", "string with", "string of a fun")


def refused(entry, path):
    """Return the one line that an entry point says, having refused a checkpoint."""
    with pytest.raises(UserError) as error:
        entry(path)
    said = str(error.value)
    assert said and said.isprintable(), said
    return said


def spoiled(honest, folder, name):
    change = hostile.changes(folder)[name]
    return (*hostile.spoil(change, honest.description, honest.preprocessing), honest.tensors)


def test_there_are_sixty_of_them_and_the_honest_one_loads(honest, bait):
    assert len(NAMES) >= 60
    parts = (deepcopy(honest.description), honest.preprocessing, honest.tensors)
    for path in (as_file(bait, *parts), as_export(bait, *parts), as_parts(bait, *parts)):
        assert Embedder.load(path).texts(["a cat"]).shape == (1, 8)
        from_run(path)


@pytest.mark.parametrize("name", NAMES)
def test_embedder_refuses(honest, bait, name):
    parts = spoiled(honest, bait, name)
    refused(embedder, as_file(bait, *parts))


@pytest.mark.parametrize("name", NAMES[::4])
@pytest.mark.parametrize("write", [as_export, as_parts])
def test_exports_and_checkpoints_in_parts_are_no_way_around(honest, bait, name, write):
    refused(embedder, write(bait, *spoiled(honest, bait, name)))


@pytest.mark.parametrize("entry", COMMANDS)
@pytest.mark.parametrize("name", ["encoder: os.system", "objective: ours write", "string"])
def test_commands_refuse_in_one_line(honest, bait, name, entry):
    (bait / "empty.yaml").write_text("{}\n")
    path = as_file(bait, *spoiled(honest, bait, name))
    assert "the checkpoint's" in refused(COMMANDS[entry], path)
    assert not (bait / "out").exists()


@pytest.mark.parametrize("name", ["encoder: module class", "string", "timm file"])
def test_tower_of_a_run_refuses(honest, bait, name):
    refused(from_run, as_file(bait, *spoiled(honest, bait, name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_entry_point_refuses_in_one_line(honest, bait, name):
    (bait / "empty.yaml").write_text("{}\n")
    parts = spoiled(honest, bait, name)
    for write in (as_file, as_export, as_parts):
        path = write(bait, *parts)
        refused(embedder, path)
        refused(predictor, path)
        for verb, run in COMMANDS.items():
            reads = ("predict",) if name == "tokenizer" else ("predict", "export")
            if name not in OF_PREPARATION or verb in reads:
                refused(run, path)
        of_towers = not name.startswith(OF_OBJECTIVE) and name not in OF_PREPARATION
        if of_towers and ("encoder" in name or "nested" in name or "timm" in name):
            if name != "nested in settings":
                refused(from_run, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "--ckpt_path", "model.ckpt", "--data.predict.text", "a cat"),
        ("export", "model.ckpt", "--out", "out"),
        ("soup", "model.ckpt", "model.ckpt", *EMPTY),
        ("wise-ft", "--pretrained", "model.ckpt", "--finetuned", "model.ckpt", *EMPTY),
    ],
)
def test_fresh_process_says_one_line(honest, bait, arguments):
    (bait / "empty.yaml").write_text("{}\n")
    as_file(bait, *spoiled(honest, bait, "objective: os.system"))
    done = subprocess.run(
        [sys.executable, "-m", "mmlight", *arguments],
        env=os.environ | {"PYTHONPATH": str(bait)},
        cwd=bait,
        capture_output=True,
        text=True,
    )
    assert done.returncode == USER_MISTAKE and not done.stdout
    assert done.stderr.startswith("mmlight: the checkpoint's class os.system")
    assert done.stderr.count("\n") == 1


def test_export_is_refused_also_where_its_checksums_are_removed(honest, bait):
    path = as_export(bait, honest.description, honest.preprocessing, honest.tensors)
    about = json.loads((path / TASK).read_text())
    about["task"]["init_args"]["objective"] = hostile.call("os.system", command="touch ran")
    (path / TASK).write_text(json.dumps(about))
    assert "checksum" in refused(embedder, path) or "grown" in refused(embedder, path)
    (path / "checksums.json").unlink()
    assert "os.system" in refused(embedder, path)
