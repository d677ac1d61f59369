"""Verbs that read a checkpoint, on a real run whose checkpoint somebody has changed."""

import sys
from copy import deepcopy

import cli_data
import hostile_descriptions as hostile
import pytest
import torch
import weights_data

from mmlight.saved.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow  # a training, and ten starts of the command line

EVIL = {
    "functions": hostile.call("os.system", command="touch ran"),
    "a module": hostile.call("canary_module.Enc"),
    "a string": "canary_module.Enc",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = cli_data.write_data(folder / "data")
    run = weights_data.train(weights_data.experiment(data, folder / "runs"), folder)
    return folder / "tiny.yaml", next((run / "checkpoints").glob("*.ckpt"))


@pytest.fixture(params=EVIL)
def changed(request, trained, tmp_path, monkeypatch):
    """The experiment, the honest checkpoint, and the same with another encoder in it."""
    path, whole = trained
    ran = hostile.lay_bait(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    content = deepcopy(read_checkpoint(whole, mapped=False))
    hostile.put(content["mmlight"]["task"], "towers.image.encoder", EVIL[request.param])
    hostile.put(content["mmlight"]["task"], "objective", EVIL[request.param])
    torch.save(content, tmp_path / "changed.ckpt")
    yield path, whole, tmp_path / "changed.ckpt"
    assert not ran.exists() and "canary_module" not in sys.modules


def test_verbs_that_build_a_model_of_it_refuse_in_one_line(changed, capsys):
    path, whole, evil = changed
    tower = ("--model.towers.image.encoder", "null", "--model.towers.image.from_run", evil)
    for arguments in (
        ("fit", "-c", path, *tower),
        ("predict", "--ckpt_path", evil, "--data.predict.files", "."),
        ("export", evil, "--out", "out"),
        ("soup", whole, evil, "-c", path),
        ("wise-ft", "--pretrained", evil, "--finetuned", whole, "-c", path),
        ("wise-ft", "--pretrained", whole, "--finetuned", evil, "-c", path),
    ):
        capsys.readouterr()
        assert cli_data.run_in_process(*arguments) == 2, arguments
        *of_data, said = capsys.readouterr().err.splitlines()
        assert said.startswith("mmlight: "), said
        assert all(line.startswith("mmlight: train 40: ") for line in of_data), of_data


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_verbs_with_a_model_of_their_own_do_not_look_at_its(changed, verb):
    path, _, evil = changed
    more = ("--data.predict.shards", path.parent / "data/test/0.tar") if verb == "predict" else ()
    assert cli_data.run_in_process(verb, "-c", path, "--ckpt_path", evil, *more) == 0
