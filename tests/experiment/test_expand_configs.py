import pytest
import yaml

from mmlight.experiment.arguments import expand_configs


def write(path, text):
    path.write_text(text)
    return str(path)


def test_tower_file_may_come_before_the_class_it_sets(tmp_path):
    write(tmp_path / "tower.yaml", "model: {init_args: {embed_dim: 8}}\n")
    first = write(
        tmp_path / "mine.yaml", "extends: tower.yaml\nmodel: {class_path: a.Contrastive}\n"
    )
    second = write(tmp_path / "overlay.yaml", "trainer: {max_steps: 1}\n")
    expanded, name = expand_configs(["-c", first, f"--config={second}", "--run.root", "x"])
    inline = [yaml.safe_load(a.removeprefix("--config=")) for a in expanded[:-2]]
    assert inline == [
        {"model": {"class_path": "a.Contrastive"}},
        {"model": {"init_args": {"embed_dim": 8}}},
        {"model": {"class_path": "a.Contrastive"}},
        {"trainer": {"max_steps": 1}},
    ]
    assert expanded[-2:] == ["--run.root", "x"]
    assert name == "mine", "an overlay does not rename the experiment"


def test_tower_is_left_out_by_a_null(tmp_path):
    path = write(tmp_path / "mine.yaml", "trainer: {max_steps: 1}\n")
    arguments = ["--model.towers.audio", "null", "--model.towers.text=a.yaml"]
    expanded, _ = expand_configs(["-c", path, *arguments])
    without = yaml.safe_load(expanded[1].removeprefix("--config="))
    assert without == {"model": {"init_args": {"towers": {"audio": None}}}}
    assert expanded[2:] == ["--model.towers.text=a.yaml"]


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
    expanded, _ = expand_configs(["-c", str(file), flag, "null", f"{flag}=None", "--run.id", "x"])
    *_, first, second, key, value = expanded
    assert (key, value) == ("--run.id", "x") and first == second
    found = yaml.safe_load(first.removeprefix("--config="))
    for part in path:
        assert list(found) == [part]
        found = found[part]
    assert found is None
