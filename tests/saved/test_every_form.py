"""Whatever takes a trained model takes a run's folder, a checkpoint, one in parts and an export."""

import json
import shutil
from pathlib import Path

import cli_data
import pytest
import torch

from mmlight.__main__ import USER_MISTAKE
from mmlight.data.splits.plain_files import PredictSplit
from mmlight.interop.embedder import Embedder
from mmlight.interop.export_command import export
from mmlight.interop.predictor import Predictor
from mmlight.published.saved_tokenizer import SavedTokenizer
from mmlight.runs.run.folder import Run
from mmlight.saved.checkpoint import check_whole, read_checkpoint, read_saved
from mmlight.saved.locate import locate
from mmlight.saved.parts import OPTIMIZERS, by_name
from mmlight.tasks.load import load_task
from mmlight.tasks.source import read_source
from mmlight.trainer.sharded_files import save_sharded

# Of a run, its newest checkpoint: in one file, or in the parts that FSDP writes.
FORMS = ("run", "file", "sharded run", "parts", "export")


def write_parts(file: Path, path: Path) -> None:
    """Write a checkpoint as the ranks of a sharded run do."""
    checkpoint = read_checkpoint(file)
    for number, state in enumerate(checkpoint[OPTIMIZERS]):
        groups = state["param_groups"]
        names = [{"params": [f"parameter {i}" for i in group["params"]]} for group in groups]
        checkpoint[OPTIMIZERS][number] = by_name(state, names)
    save_sharded(checkpoint, path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The experiment's file, and the trained model by its form."""
    folder = tmp_path_factory.mktemp("forms")
    values = cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path, "--run.id", "one") == 0
    run = folder / "runs/tiny/one"
    file = Run(run).newest_checkpoint()
    assert file is not None
    sharded = run.with_name("two")
    shutil.copytree(run, sharded)
    parts = sharded / "checkpoints" / file.name
    parts.unlink()
    write_parts(file, parts)
    export(file, folder / "exported", formats=())
    forms = (run, file, sharded, parts, folder / "exported")
    return path, dict(zip(FORMS, forms, strict=True))


def scored(verb, *arguments):
    """Return what scores a model as a verb does; the scores are in a file of its run's folder."""

    def run(path, config, folder):
        given = [str(path) if argument == "MODEL" else argument for argument in arguments]
        own = ("-c", config, "--run.root", folder, "--run.id", "it")
        assert cli_data.run_in_process(verb, *given, *own) == 0
        (name,) = (folder / "tiny").iterdir()
        return name

    return run


def scores(verb):
    def run(path, config, folder):
        made = scored(verb, "--ckpt_path", "MODEL")(path, config, folder)
        final = json.loads((made / "summary.json").read_text())["final"]
        return {k: v for k, v in final.items() if "samples_per_s" not in k}

    return run


def robustness(path, config, folder):
    made = scored(
        *(
            "robustness",
            "--ckpt_path",
            "MODEL",
            "--corruptions",
            "image:noise",
            "--severities",
            "1",
            "--metric",
            "loss",
        )
    )(path, config, folder)
    return (made / "robustness.json").read_text()


def soup(path, config, folder):
    made = scored("soup", "MODEL", "MODEL", "--metric", "loss")(path, config, folder)
    load_task(made / "soup.ckpt")
    return json.loads((made / "soup.json").read_text())["scores"]


def wise_ft(path, config, folder):
    made = scored(
        *("wise-ft", "--pretrained", "MODEL", "--finetuned", "MODEL"),
        *("--metric", "loss", "--points", "2"),
    )(path, config, folder)
    return json.loads((made / "wise_ft.json").read_text())["points"]


def predict(path, config, folder):
    given = ("--data.predict.text", "red 1", "--run.root", folder, "--run.id", "it")
    assert cli_data.run_in_process("predict", "--ckpt_path", path, *given) == 0
    made = {path.name: path.read_bytes() for path in folder.rglob("*.parquet")}
    assert made
    return made


def exported(path, config, folder):
    assert cli_data.run_in_process("export", path, "--out", folder / "o", "--format", "none") == 0
    return (folder / "o/model.safetensors").read_bytes()


def card(path, config, folder):
    """The card tells of the run, where the model lies in one."""
    out = folder / "o"
    export(path, out, formats=())
    told = (out / "README.md").read_text()
    assert ("## Training" in told) == (locate(path, key="path").kind != "export")
    return read_saved(out).preprocessing


def tower(path, config, folder):
    return read_source(str(path), "text").encoder.state_dict()


def encoded(path, config, folder):
    return SavedTokenizer(str(path)).encode(["red 1"], max_tokens=9)


def predicted(path, config, folder):
    predictor = Predictor.load(path)
    (batch,) = predictor.batches(PredictSplit(text=["red 1", "blue 2"]), batch_size=2)
    return predictor.task.predict_step(batch, 0)


def embedded(path, config, folder):
    return Embedder.load(path).texts(["red 1"])


def weights(path, config, folder):
    return load_task(path).state_dict()


CLASSES = (card, embedded, encoded, predicted, tower, weights)
VERBS = {
    "export": exported,
    "predict": predict,
    "robustness": robustness,
    "soup": soup,
    "test": scores("test"),
    "validate": scores("validate"),
    "wise-ft": wise_ft,
}


def same(one, other):
    """Compare two answers, tensors to the bit."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    else:
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("form", FORMS)
def test_what_a_path_is(trained, form):
    _, forms = trained
    found = locate(forms[form], key="here")
    assert found.kind == {"run": "file", "sharded run": "parts"}.get(form, form)
    assert (found.run is None) == (form == "export")
    check_whole(found.path)
    assert locate(found.path, key="here") == found


@pytest.mark.parametrize("entry", CLASSES, ids=lambda entry: entry.__name__)
def test_every_class_takes_every_form(trained, tmp_path, entry):
    config, forms = trained
    wanted = entry(forms["file"], config, tmp_path / "wanted")
    for form in FORMS:
        same(entry(forms[form], config, tmp_path / form), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_every_form(trained, tmp_path, verb):
    config, forms = trained
    wanted = VERBS[verb](forms["file"], config, tmp_path / "wanted")
    for form in FORMS:
        same(VERBS[verb](forms[form], config, tmp_path / form), wanted)


def test_a_training_goes_on_from_every_form_but_an_export(trained, tmp_path, capsys):
    config, forms = trained
    wanted = None
    for form in FORMS:
        given = ("--ckpt_path", forms[form], "--trainer.max_steps", "8", "--run.root", tmp_path)
        code = cli_data.run_in_process(
            "fit", "-c", config, *given, "--run.id", form.replace(" ", "")
        )
        if form == "export":
            assert code == USER_MISTAKE
            assert (
                "is an export, which has no state to go on training from" in capsys.readouterr().err
            )
            continue
        losses = cli_data.losses(tmp_path / "tiny" / form.replace(" ", ""))
        assert sorted(losses) == [7, 8]
        wanted = wanted or losses
        assert losses == wanted
