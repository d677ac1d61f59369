"""Configurations, and classes and nulls among the flags, become one mapping before parsing."""

import pytest

from mmlight.compose import merge
from mmlight.experiment.arguments import gather

IMAGE = "mmlight.encoders.timm_image.TimmImage"
TEXT = "mmlight.encoders.hf_text.HfText"


def write(path, text):
    path.write_text(text)
    return str(path)


def encoder_of(values, tower):
    return values["model"]["init_args"]["towers"][tower]["encoder"]


def test_tower_file_may_come_before_the_class_it_sets(tmp_path):
    write(tmp_path / "tower.yaml", "model: {init_args: {embed_dim: 8}}\n")
    first = write(
        tmp_path / "mine.yaml", "extends: tower.yaml\nmodel: {class_path: a.Contrastive}\n"
    )
    second = write(tmp_path / "overlay.yaml", "trainer: {max_steps: 1}\n")
    given = gather("fit", ["-c", first, f"--config={second}", "--run.root", "x"])
    assert given.values == {
        "model": {"class_path": "a.Contrastive", "init_args": {"embed_dim": 8}},
        "trainer": {"max_steps": 1},
    }
    assert given.flags == ["--run.root", "x"]
    assert given.name == "mine", "an overlay does not rename the experiment"


@pytest.mark.parametrize(
    ("before", "after", "both"),
    [
        ({"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}}, {"a": {"b": 1, "c": [3]}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        (
            {"e": {"class_path": "A", "init_args": {"x": 1}}},
            {"e": {"class_path": "B", "init_args": {"y": 2}}},
            {"e": {"class_path": "B", "init_args": {"y": 2}}},
        ),
        (
            {"e": {"class_path": "A", "init_args": {"x": 1}}},
            {"e": {"class_path": "A", "init_args": {"y": 2}}},
            {"e": {"class_path": "A", "init_args": {"x": 1, "y": 2}}},
        ),
        # AdamW, which is not named, has a rate that is not that of SGD.
        ({"o": {"lr": 1}}, {"o": {"class_path": "SGD"}}, {"o": {"class_path": "SGD"}}),
    ],
)
def test_later_configurations_win(before, after, both):
    assert merge(before, after) == both


def test_a_class_and_its_settings_given_by_a_flag_replace_those_before(tmp_path):
    file = write(tmp_path / "a.yaml", "model: {class_path: A, init_args: {optimizer: {lr: 1}}}\n")
    given = gather("fit", ["-c", file, "--model.optimizer", "{class_path: B, init_args: {x: 2}}"])
    optimizer = given.values["model"]["init_args"]["optimizer"]
    assert optimizer == {"fused": None, "class_path": "B", "init_args": {"x": 2}}
    broken = ["--model.optimizer", "{class_path: B"]
    assert gather("fit", ["-c", file, *broken]).flags == broken


def test_a_class_named_by_a_flag_keeps_no_settings_of_the_one_before(tmp_path):
    path = write(
        tmp_path / "x.yaml",
        "model: {class_path: A, init_args: {towers: {image: {encoder: "
        f"{{class_path: {IMAGE}, init_args: {{name: vit}}}}}}}}}}}}\n",
    )
    flag = "--model.towers.image.encoder"
    for given in ([f"{flag}.class_path", TEXT], [f"{flag}.class_path={TEXT}"], [flag, TEXT]):
        found = gather("fit", ["-c", path, *given, "--run.id", "x"])
        assert encoder_of(found.values, "image") == {"class_path": TEXT}
        assert found.flags == ["--run.id", "x"]
    assert gather("fit", ["-c", path, f"{flag}.help", TEXT]).flags == [f"{flag}.help", TEXT]


def test_tower_is_left_out_by_a_null(tmp_path):
    path = write(tmp_path / "mine.yaml", "trainer: {max_steps: 1}\n")
    arguments = ["--model.towers.audio", "null", "--model.towers.text=a.yaml"]
    given = gather("fit", ["-c", path, *arguments])
    assert given.values["model"] == {"init_args": {"towers": {"audio": None}}}
    assert given.flags == ["--model.towers.text=a.yaml"]


@pytest.mark.parametrize(
    ("flag", "path"),
    [
        ("--data.train.limit", ["data", "init_args", "train", "limit"]),
        ("--data.init_args.image", ["data", "init_args", "image"]),
        ("--model.towers.text", ["model", "init_args", "towers", "text"]),
        (
            "--model.objective.label_smoothing",
            ["model", "init_args", "objective", "init_args", "label_smoothing"],
        ),
    ],
)
def test_a_null_below_model_or_data_becomes_a_configuration(tmp_path, flag, path):
    file = tmp_path / "x.yaml"
    file.write_text("model: {class_path: A, init_args: {objective: {class_path: B}}}\n")
    for null in ([flag, "null"], [f"{flag}=None"]):
        given = gather("fit", ["-c", str(file), *null, "--run.id", "x"])
        assert given.flags == ["--run.id", "x"]
        found = given.values
        for part in path:
            found = found[part]
        assert found is None


def test_earlier_names_become_the_present_ones_in_files_and_flags(tmp_path):
    towers = "model: {class_path: A, init_args: {towers: {image: {encoder: {%s}}}}}\n"
    write(tmp_path / "a.yaml", towers % f"class_path: {IMAGE}, init_args: {{timm_name: vit}}")
    # The class stands in the other file.
    text = towers % "init_args: {timm_name: resnet, timm_kwargs: {a: 1}}"
    path = write(tmp_path / "b.yaml", f"extends: a.yaml\n{text}")
    flag = "--model.towers.image.encoder"
    given = gather("fit", ["-c", path, f"{flag}.timm_pretrained", "true", f"{flag}.stem=small"])
    assert encoder_of(given.values, "image")["init_args"] == {"name": "resnet", "kwargs": {"a": 1}}
    renamed = "--model.init_args.towers.image.encoder.init_args.pretrained"
    assert given.flags == [renamed, "true", f"{flag}.stem=small"]
    given = gather("fit", ["-c", path, f"{flag}.init_args.timm_weights=null"])
    assert encoder_of(given.values, "image")["init_args"]["weights"] is None
