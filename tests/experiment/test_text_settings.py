"""Texts of configurations and of the command line reach the settings as they are."""

import cli_data
import pytest

from mmlight import yaml_text
from mmlight.experiment.arguments import gather
from mmlight.experiment.parser import resolve

PREDICT = "data.init_args.predict"


@pytest.fixture
def experiment(tmp_path):
    values = cli_data.experiment(tmp_path / "data", tmp_path / "runs")

    def write(text=""):
        path = cli_data.write_yaml(tmp_path / "base.yaml", values)
        (tmp_path / "tiny.yaml").write_text(f"extends: {path.name}\n{text}")
        return str(tmp_path / "tiny.yaml")

    return write


def test_quoted_texts_and_off_stay_texts(experiment, tmp_path):
    path = experiment(
        "run: {id: '12e4', wandb: off, name: '#5', tags: [no, 'null']}\n"
        "trainer: {enable_progress_bar: off, max_time: 12:00:00:00, gradient_clip_val: 1e-1}\n"
        "data:\n  init_args:\n    class_names: ['1e3', off, yes, 'true']\n"
        "    predict: {text: '[laughs]', shards: null}\n"
        "    val: {only: {json:place: ['1e3', 'no']}}\n"
    )
    config, _ = resolve(["fit", "-c", path])
    run, data = config["run"], config["data"]["init_args"]
    assert (run["id"], run["wandb"], run["name"], run["tags"]) == (
        "12e4",
        "off",
        "#5",
        ["no", "null"],
    )
    assert data["class_names"] == ["1e3", "off", "yes", "true"]
    assert data["predict"]["text"] == "[laughs]"
    assert data["val"]["only"] == {"json:place": ["1e3", "no"]}
    trainer = config["trainer"]
    assert trainer["enable_progress_bar"] is False
    assert trainer["max_time"] == "12:00:00:00" and trainer["gradient_clip_val"] == 0.1
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml_text.dump(config))
    assert resolve(["fit", "-c", str(saved)])[0] == config, "what is saved runs again as it is"


def test_texts_of_the_command_line_are_not_read_as_yaml(experiment):
    given = {"run.name": "#5", "data.class_names": "#x.txt", "run.notes": "a: b"}
    arguments = [f"--{key}={text}" for key, text in given.items()]
    config, _ = resolve(
        ["fit", "-c", experiment(), *arguments, "--data.train.shards", "a: b.tar", "--run.id=1e3"]
    )
    assert config["run"]["name"] == "#5" and config["run"]["notes"] == "a: b"
    assert config["run"]["id"] == "1e3"
    data = config["data"]["init_args"]
    assert data["class_names"] == "#x.txt" and data["train"]["shards"] == "a: b.tar"


@pytest.mark.parametrize(
    "text", ["# monday", "&x", "~", "- one", "-1", "note: call me", "1e3", "null", "[laughs]", "😀"]
)
def test_texts_to_predict_are_taken_as_they_are(text):
    flag = "--data.predict.text"
    (joined,) = gather("predict", [flag, text]).flags
    assert yaml_text.parse_value(joined.partition("=")[2]) == [text]
    assert gather("predict", [f"{flag}={text}"]).flags == [joined]


def test_a_flag_ends_the_texts_before_it():
    flag = "--data.predict.text"
    joined = gather("predict", [flag, "a", "- b", "--run.id", "x", "--ckpt_path", "y"]).flags
    assert joined == [f'{flag}=["a", "- b"]', "--run.id", "x", "--ckpt_path", "y"]


def test_switches_within_free_settings_are_true_or_false(experiment):
    path = experiment("model: {init_args: {towers: {image: {encoder: {init_args: {kwargs: "
                      "{dynamic_img_size: no, embed_dim: 16, x: 'no'}}}}}}}\n")  # fmt: skip
    config, _ = resolve(["fit", "-c", path])
    image = config["model"]["init_args"]["towers"]["image"]["encoder"]["init_args"]
    assert image["kwargs"]["dynamic_img_size"] is False
    assert image["kwargs"]["x"] == "no"
