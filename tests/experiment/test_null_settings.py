"""A null in the place of settings that cannot be null: they have their defaults."""

import cli_data
import pytest
import yaml

from mmlight.errors import UserError
from mmlight.experiment.build import Experiment
from mmlight.experiment.parser import parse, resolve


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return cli_data.write_data(tmp_path_factory.mktemp("nulls"))


def test_settings_that_are_null_have_their_defaults(data, tmp_path):
    values = cli_data.experiment(data, tmp_path / "runs")
    model = values["model"]["init_args"]
    for name in ("tuning", "schedule", "optimizer"):
        model.pop(name, None)
    plain, _ = resolve(["fit", "-c", str(cli_data.write_yaml(tmp_path / "a.yaml", values))])
    null = "{class_path: mmlight.objectives.clip.Clip, init_args: null}"
    model |= {"tuning": None, "schedule": None, "objective": yaml.safe_load(null)}
    values |= {"checkpoint": None} if "checkpoint" not in values else {}
    file = str(cli_data.write_yaml(tmp_path / "b.yaml", values))
    nulled, _ = resolve(["fit", "-c", file, "--model.optimizer", "null"])
    assert nulled["model"]["init_args"].pop("objective")["init_args"]["init_temperature"] == 0.07
    del plain["model"]["init_args"]["objective"]
    assert nulled == plain


def with_null(values, key):
    place = values
    *above, last = key.split(".")
    for part in above:
        place = place[part]
    place[last] = None
    return values


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("model.init_args.towers", "model.towers names none"),
        ("model.init_args", "model.towers names none"),
        ("model", "`model` is not set"),
        ("data.init_args.members", "members"),
    ],
)
def test_null_in_the_place_of_something_needed_is_one_line(data, tmp_path, key, told):
    values = with_null(cli_data.experiment(data, tmp_path / "runs"), key)
    file = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    with pytest.raises(UserError, match=told) as raised:
        Experiment(parse("fit", ["-c", str(file)]))
    assert "\n" not in str(raised.value)
