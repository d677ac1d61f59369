"""Help on a key, on an experiment's classes, and what a mistyped key is told."""

import cli_data
import pytest


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("help")
    values = cli_data.experiment(folder / "data", folder / "runs")
    return cli_data.write_yaml(folder / "tiny.yaml", values)


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["fit", "--data.image.help"], "--data.image.size"),
        (["fit", "--data.train.help"], "--data.train.per_class"),
        (["fit", "--ema.help"], "--ema.decay"),
        (["predict", "--data.predict.help"], "--data.predict.files"),
        (["fit", "-c", "FILE", "--model.towers.image.help"], "--model.towers.image.locked"),
        (["fit", "-c", "FILE", "--model.objective.help"], "mmlight.objectives.clip.Clip"),
        (["fit", "--model.help", "mmlight.tasks.tagging.Tagging"], "--model.types"),
        (
            ["fit", "--model.objective.help=mmlight.objectives.labels.CrossEntropy"],
            "--model.objective.label_smoothing",
        ),
    ],
)
def test_help_on_one_key(path, arguments, shown, capsys):
    given = [str(path) if a == "FILE" else a for a in arguments]
    assert cli_data.run_in_process(*given) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.help"], "name the class: --model.help CLASS; `mmlight list tasks` has them"),
        (["--model.objective.help"], "below a class that nobody has named; give -c FILE"),
        (["--data.imag.help"], "unknown key `data.imag` (did you mean 'image'?)"),
        (
            ["--data.image.help", "mmlight.data.members.Mem"],
            "there is no class mmlight.data.me",
        ),
        (
            ["-c", "FILE", "--model.optimizr.lr", "1"],
            "(did you mean 'optimizer'?)",
        ),
        (
            ["-c", "FILE", "--model.tower.image.locked=true"],
            "(did you mean 'towers'?)",
        ),
        (["-c", "FILE", "--model.optimizer.lrr=1"], "`model.optimizer.lrr` (did you mean 'lr'?)"),
        (["-c", "FILE", "--data.image.sizze", "9"], "`data.image.sizze` (did you mean 'size'?)"),
    ],
)
def test_a_key_that_is_not_there_is_named_with_the_nearest(path, arguments, said, capsys):
    given = [str(path) if a == "FILE" else a for a in arguments]
    assert cli_data.run_in_process("fit", *given) == 2
    assert said in capsys.readouterr().err


def test_help_with_an_experiment_shows_what_its_classes_take(path, capsys):
    assert cli_data.run_in_process("fit", "-c", path, "--help") == 0
    out = capsys.readouterr().out
    for shown in (
        "--trainer.max_steps",
        "model: mmlight.tasks.contrastive.Contrastive",
        "model.towers.image.encoder: mmlight.encoders.timm_image.TimmImage",
        "--model.towers.image.encoder.patch_drop_rate",
        "--data.global_batch_size",
        "mmlight list tasks",
    ):
        assert shown in out
