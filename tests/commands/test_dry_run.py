"""`mmlight fit --dry_run`: nothing that it names has to be there."""

import cli_data
import pytest

ABSENT = {
    "class_path": "mmlight.text.json_tokenizer.HfTokenizer",
    "init_args": {"path": "nowhere/tokenizer"},
}


@pytest.fixture
def experiment(tmp_path):
    """One whose data, tokenizer, class names, templates and timm weights are not here."""
    values = cli_data.experiment(tmp_path / "no_data", tmp_path / "runs")
    values["data"]["init_args"]["text"]["tokenizer"] = ABSENT
    values["zero_shot"] = {"templates": str(tmp_path / "no_templates.txt")}
    image = values["model"]["init_args"]["towers"]["image"]["encoder"]["init_args"]
    image["weights"] = str(tmp_path / "no_weights.safetensors")
    return values


def dry_run(tmp_path, values, *arguments):
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    return cli_data.run_in_process("fit", "--dry_run", "-c", path, *arguments)


def test_nothing_has_to_be_there(experiment, tmp_path, capsys):
    assert dry_run(tmp_path, experiment, "--device", "a100", "--devices", "2") == 0
    said = capsys.readouterr().out
    for wanted in (
        "train     " + str(tmp_path / "no_data/train") + " (not here)",
        "images 16 x 16 px, 3 channels",
        "texts of 16 tokens",
        "sounds of 0.2 s at 4,000 Hz",
        "8 samples a step",
        "FLOP in all",
        "memory of each device, MiB",
        "not here: tokenizer nowhere/tokenizer",
        "not here: class names",
        "not here: templates",
        "not here: weights",
    ):
        assert wanted in said, wanted
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "no_data").exists()


def test_a_dry_run_costs_what_cost_says_of_absent_data(experiment, tmp_path, capsys):
    del experiment["zero_shot"]
    init_args = experiment["data"]["init_args"]
    init_args["text"]["tokenizer"] = {"class_path": "mmlight.text.tokenizer.ByteTokenizer"}
    del init_args["class_names"]
    image = experiment["model"]["init_args"]["towers"]["image"]["encoder"]["init_args"]
    del image["weights"]
    assert dry_run(tmp_path, experiment, "--device", "h100") == 0
    dry = capsys.readouterr().out
    path = tmp_path / "tiny.yaml"
    assert cli_data.run_in_process("cost", "-c", path, "--device", "h100") == 0
    (total,) = [line for line in dry.splitlines() if line.startswith("FLOP in all")]
    assert total in capsys.readouterr().out


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("model.init_args.towers.text.encoder.init_args.pretrained", "org/name", "fetches nothing"),
        ("model.init_args.embed_dimm", 3, "embed_dimm"),
        ("data.init_args.global_batch_size", 7, "cannot be divided by --devices 2"),
    ],
)
def test_what_cannot_be_built_is_told_in_a_line(where, value, told, experiment, tmp_path, capsys):
    experiment = cli_data.changed(experiment, {where: value})
    if where.endswith("pretrained"):
        del experiment["model"]["init_args"]["towers"]["text"]["encoder"]["init_args"]["config"]
    assert dry_run(tmp_path, experiment, "--device", "a100", "--devices", "2") == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
