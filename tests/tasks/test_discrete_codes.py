"""Training of a tokenizer, by what comes back of its codes."""

import json

import cli_data
import pytest
import torch
from tasks import code_tasks, tiny

from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.tasks.discrete_codes import DiscreteCodes
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.load import load_task
from mmlight.tasks.tower import Towers


def test_scores_are_of_what_came_back():
    task = code_tasks.codes_task().train()
    given = tiny.batch(6)
    task.training_step(given, 0)
    task.eval()
    scores = evaluate(task, [given])
    rebuilt = task.encoder.decode(task.encoder.codes(given.image))
    error_B = (rebuilt.detach() - given.image.pixels_BCHW / 255).double().square().mean((1, 2, 3))
    assert scores["psnr"] == pytest.approx(float((-10 * error_B.log10()).mean()), rel=1e-5)
    used = len(task.encoder.codes(given.image).unique())
    assert scores["code_share"] == used / 8 and 1 <= scores["code_perplexity"] <= used
    assert set(scores) == task.score_names()
    redrawn = task.redrawn(given).pixels_BCHW
    assert torch.equal(redrawn, (rebuilt.clamp(0, 1) * 255).round().to(torch.uint8))


def test_pictures_show_originals_and_the_codebook(tmp_path):
    task = code_tasks.codes_task().train()
    task.training_step(tiny.batch(6), 0)
    evaluate(task, [tiny.batch(6), tiny.batch(6, seed=1)])
    assert task.evaluation.wanted_SCHW.shape == (8, 3, 16, 16)
    files = task.draw(task.evaluation, tmp_path, None)
    assert [file.name for file in files] == ["val_reconstructions.png", "val_codebook.png"]


@pytest.mark.parametrize(
    ("towers", "settings", "said"),
    [
        (Towers(), {}, "model.towers names none"),
        (Towers(text=tiny.towers().text), {}, "model.towers names text"),
        (Towers(image=tiny.towers().image), {}, "a TimmImage cannot be trained to be a tokenizer"),
        (Towers(image=tiny.towers().image), {"commitment": -1}, "model.commitment"),
    ],
)
def test_mistakes_are_one_line(towers, settings, said):
    with pytest.raises(UserError, match=said) as refused:
        DiscreteCodes(towers=towers, **settings).configure_model()
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("codes")
    data = cli_data.write_data(folder / "data")
    values = code_tasks.codes_experiment(data, folder / "runs")
    values["trainer"] |= {"max_steps": 40, "check_val_every_n_epoch": 4}
    values["pictures"] = {}
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return values, cli_data.only_run(folder / "runs")


def test_a_run_learns_and_shows_what_it_learned(trained):
    _, run = trained
    final = json.loads((run / "summary.json").read_text())["final"]
    assert final["val/psnr"] > 12.5 and final["val/code_perplexity"] > 1.5
    names = {path.name for path in (run / "plots").iterdir()}
    assert {"val_reconstructions.png", "val_codebook.png"} <= names
    assert "codebook" in (run / "report.html").read_text()


def test_a_perceptual_loss_sees_by_another_run(trained, tmp_path):
    values, _ = trained
    classes = cli_data.experiment(tmp_path, tmp_path / "runs")
    resnet = {"name": "resnet10t", "kwargs": {"stem_width": 8, "channels": [8, 8, 8, 8]}}
    encoder = {"class_path": "mmlight.encoders.timm_image.TimmImage", "init_args": resnet}
    classes["model"] = {
        "class_path": "mmlight.tasks.classification.Classification",
        "init_args": {"towers": {"image": {"encoder": encoder}}, "num_classes": 4},
    }
    classes["data"]["init_args"] = values["data"]["init_args"] | {
        "members": {"image": "png", "label": "cls"}
    }
    classes = cli_data.changed(classes, {"trainer.max_steps": 1})
    path = cli_data.write_yaml(tmp_path / "classes.yaml", classes)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    seen = cli_data.only_run(tmp_path / "runs", "classes")
    values = cli_data.changed(
        values,
        {
            "model.init_args.perceptual": {"from_run": str(seen), "weight": 0.1},
            "trainer.max_steps": 2,
            "run.root": str(tmp_path / "runs"),
        },
    )
    path = cli_data.write_yaml(tmp_path / "seen.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    made = cli_data.only_run(tmp_path / "runs", "seen")
    assert "train/perceptual" in (made / "metrics.csv").read_text().splitlines()[0]
    kept = load_task(Run(made).newest_checkpoint())
    assert kept._perceptual_settings is None and not any("percep" in n for n in kept.state_dict())
