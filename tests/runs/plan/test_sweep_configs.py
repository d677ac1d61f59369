import pytest
import yaml

from mmlight.compose import expand
from mmlight.runs.plan.configs import freeze, place

CONFIG = {
    "seed_everything": 0,
    "trainer": {"precision": "32-true", "gradient_clip_val": None, "benchmark": False},
    "model": {"class_path": "a.B", "init_args": {"lr": 0.1, "width": 8, "objective": {"x": 1}}},
}


def test_plain_values_are_placed_and_the_original_stays():
    values = {
        "model.init_args.lr": 3,
        "model.init_args.width": 16,
        "seed_everything": 7,
        "trainer.precision": "bf16-mixed",
        "trainer.benchmark": True,
    }
    placed = place(CONFIG, values)
    assert placed["model"] == {
        "class_path": "a.B",
        "init_args": {"lr": 3.0, "width": 16, "objective": {"x": 1}},
    }
    assert isinstance(placed["model"]["init_args"]["lr"], float)
    assert placed["trainer"]["precision"] == "bf16-mixed" and placed["trainer"]["benchmark"] is True
    assert placed["seed_everything"] == 7 and CONFIG["seed_everything"] == 0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.init_args.objective", "mmlight.objectives.siglip.SigLip"),  # a class
        ("model.class_path", "a.C"),
        ("model.lr", 0.2),  # short for init_args
        ("model.init_args.lr", "1e-5"),  # YAML's text for a number
        ("model.init_args.width", 0.5),
        ("model.init_args.width", True),
        ("trainer.gradient_clip_val", 1.0),  # unknown kind
        ("trainer.devices.x", 1),
    ],
)
def test_what_the_parser_must_read_is_not_placed(key, value):
    assert place(CONFIG, {"seed_everything": 1, key: value}) is None


def test_a_frozen_experiment_keeps_its_layers_when_its_files_change(tmp_path):
    (tmp_path / "base.yaml").write_text("model: {lr: 1}\n")
    (tmp_path / "own").mkdir()
    experiment = tmp_path / "own/base.yaml"
    experiment.write_text("extends: ../base.yaml\nmodel: {width: 2}\n")
    frozen = freeze(experiment, tmp_path / "copies")
    before = [layer.values for layer in expand(experiment)]
    (tmp_path / "base.yaml").write_text("model: {lr: 5}\n")
    assert [layer.values for layer in expand(frozen)][:2] == before
    assert freeze(experiment, tmp_path / "copies").parent != frozen.parent
    assert yaml.safe_load(frozen.read_text()) == {"extends": ["00-base.yaml", "01-base.yaml"]}
