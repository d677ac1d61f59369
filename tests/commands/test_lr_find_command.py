"""`mmlight lr-find` on tiny real data: what it suggests, and that it leaves no trace."""

import csv

import cli_data
import pytest
import yaml

from mmlight.commands.lr_find import yaml_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lr_find")
    data = cli_data.write_data(path / "data")
    values = cli_data.changed(
        cli_data.experiment(data, path / "runs"),
        {
            "trainer.max_steps": 60,
            "trainer.max_epochs": -1,
            "model.init_args.schedule": {"warmup_steps": 30, "kind": "cosine"},
            "run.test": True,
            "checkpoint": {"every_n_steps": 5},
        },
    )
    cli_data.write_yaml(path / "tiny.yaml", values)
    return path


def test_curve_picture_and_lines_for_the_yaml(folder, capsys):
    path = folder / "tiny.yaml"
    code = cli_data.run_in_process("lr-find", "-c", path, "--steps", "40", "--lowest=1e-5")
    assert code == 0
    run = cli_data.only_run(folder / "runs")
    assert run.name.startswith("lr-find-")
    assert sorted(p.name for p in run.iterdir()) == ["lr_find.csv", "lr_find.png"]
    with (run / "lr_find.csv").open() as file:
        rows = [(float(row["lr"]), float(row["loss"])) for row in csv.DictReader(file)]
    assert 20 <= len(rows) <= 40
    assert rows[0][0] == pytest.approx(1e-5)
    assert rows[1][0] / rows[0][0] == pytest.approx(1e5 ** (1 / 39))
    out = capsys.readouterr().out
    said = out.partition("for the YAML:\n")[2].partition("picture:")[0]
    suggested = yaml.safe_load(said)["model"]["init_args"]["optimizer"]["lr"]
    assert 1e-5 < float(suggested) < 1
    assert f"falls fastest at {float(suggested):.1e}" in out


def test_training_afterwards_is_what_it_was_before(folder, tmp_path):
    path = folder / "tiny.yaml"
    short = ("--trainer.max_steps=31", "--run.test=false", "--trainer.limit_val_batches=0")
    before, after = tmp_path / "before", tmp_path / "after"
    assert cli_data.run_in_process("fit", "-c", path, *short, "--run.root", before) == 0
    assert cli_data.run_in_process("lr-find", "-c", path, "--run.root", after) == 0
    assert cli_data.run_in_process("fit", "-c", path, *short, "--run.root", after) == 0
    run = next(p for p in (after / "tiny").iterdir() if not p.name.startswith("lr-find"))
    assert cli_data.losses(run) == cli_data.losses(cli_data.only_run(before))
    assert len(cli_data.losses(run)) == 31


def test_a_short_run_does_not_shorten_the_test(folder, tmp_path):
    path = folder / "tiny.yaml"
    short = ("--trainer.max_steps=5", "--trainer.max_epochs=1", "--run.root", tmp_path)
    schedule = ("--model.schedule.warmup_steps=2",)
    asked = ("--steps=30", "--highest=1e-3")
    assert cli_data.run_in_process("lr-find", "-c", path, *short, *schedule, *asked) == 0
    with (cli_data.only_run(tmp_path) / "lr_find.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert float(rows[-1]["lr"]) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--lowest", "1", "--highest", "0.1"], "first below the second"),
        (["--steps", "5"], "needs 20 or more"),
        (["--ckpt_path", "last"], "from_run"),
        (["--stepz", "50"], "unknown key `stepz`"),
    ],
)
def test_mistakes_are_told_in_a_line(folder, capsys, arguments, said):
    assert cli_data.run_in_process("lr-find", "-c", folder / "tiny.yaml", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


class FakeTask:
    """The settings of a task whose image tower comes from runs at these learning rates."""

    def __init__(self, *, backbone_lr, rates):
        from mmlight.optim.adamw import AdamWSettings
        from mmlight.tasks.tuning import Tuning

        self.optimizer_settings = AdamWSettings(lr=1e-3)
        self.tuning = Tuning(backbone_lr=backbone_lr)
        self.rates = rates
        self.tower_settings = self

    def given(self):
        return self.rates

    def tower(self, name):
        source = type("Source", (), {"lr": self.rates[name]})() if self.rates[name] else None
        return type("Tower", (), {"source": source})()


def test_rates_of_backbones_keep_their_ratio():
    lines = yaml_lines(2e-3, FakeTask(backbone_lr=1e-5, rates={"image": None}))
    assert lines[-1].strip() == "tuning: {backbone_lr: 2.0e-05}"
    lines = yaml_lines(2e-3, FakeTask(backbone_lr=None, rates={"image": 5e-4}))
    assert lines[-1].strip() == "tuning: {backbone_lr: 1.0e-04}"
    lines = yaml_lines(2e-3, FakeTask(backbone_lr=None, rates={"image": None}))
    assert len(lines) == 3
    lines = yaml_lines(2e-3, FakeTask(backbone_lr=None, rates={"image": 5e-4, "text": 1e-4}))
    assert "2 times those of their runs" in lines[-1]
