"""Classes of one's own, from a module in the working directory."""

import sys

import cli_data
import pytest
import yaml

from mmlight import own_modules
from mmlight.errors import UserError
from mmlight.own_modules import bring_in, names_of, take_imports

MODULE = """
import torch.nn.functional as F
from mmlight.encoders.timm_image import TimmImage
from mmlight.objectives.labels import CrossEntropy

class OwnEncoder(TimmImage):
    pass

class Focal(CrossEntropy):
    def __init__(self, *, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a module; afterwards it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    monkeypatch.setattr(own_modules, "_allowed", set())
    monkeypatch.delenv(own_modules.TRUST, raising=False)
    (tmp_path / "lab_module.py").write_text(MODULE)
    yield tmp_path
    sys.modules.pop("lab_module", None)


def experiment(folder, data):
    values = cli_data.experiment(data, folder / "runs")
    values["trainer"]["max_steps"] = 1
    towers = values["model"]["init_args"]["towers"]
    encoder = towers["image"]["encoder"] | {"class_path": "lab_module.OwnEncoder"}
    objective = {"class_path": "lab_module.Focal", "init_args": {"gamma": 1.0}}
    values["model"] = {
        "class_path": "mmlight.tasks.classification.Classification",
        "init_args": {"towers": {"image": {"encoder": encoder}}, "objective": objective},
    }
    return values


def test_a_class_in_the_working_directory_is_trained_exported_answered_and_taken_over(
    folder, tmp_path_factory, capsys
):
    data = cli_data.write_data(tmp_path_factory.mktemp("data"))
    values = experiment(folder, data)
    (folder / "own.yaml").write_text(yaml.safe_dump(values))
    assert cli_data.run_in_process("fit", "-c", "own.yaml") == 0
    (run,) = (folder / "runs/own").iterdir()

    sys.modules.pop("lab_module")
    own_modules._allowed.clear()
    source = ("--ckpt_path", run, "--data.predict.files", run / "plots")
    (run / "plots").mkdir(exist_ok=True)
    (run / "plots/a.png").write_bytes(cli_data.make_sample(0)["png"])
    assert cli_data.run_in_process("predict", *source) == 2
    assert "lab_module" in capsys.readouterr().err
    assert cli_data.run_in_process("predict", "--import", "lab_module", *source) == 0

    own_modules._allowed.clear()
    export = ("export", run, "--out", folder / "out", "--format", "none")
    assert cli_data.run_in_process(*export) == 2
    assert cli_data.run_in_process(*export, "--import=lab_module") == 0

    # The next experiment names the run alone: the key is what allows its encoder.
    own_modules._allowed.clear()
    again = values | {"import": "lab_module"}
    again["model"] = {
        "class_path": "mmlight.tasks.classification.Classification",
        "init_args": {"towers": {"image": {"from_run": str(run)}}},
    }
    (folder / "again.yaml").write_text(yaml.safe_dump(again))
    assert cli_data.run_in_process("fit", "-c", "again.yaml") == 0
    (second,) = (folder / "runs/again").iterdir()
    kept = yaml.safe_load((second / "config.yaml").read_text())
    assert kept["import"] == ["lab_module"]
    assert "import" not in yaml.safe_load((run / "config.yaml").read_text())


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("", "lab_modul", "no such module in .* mean 'lab_module'"),
        ("import no_such_thing", "broken", r"broken.py, line 1: No module named 'no_such_thing'"),
        ("x = 1\nx x", "broken", r"broken.py, line 2: invalid syntax"),
        ("def f(): raise RuntimeError('a\\nb')\nf()", "broken", r"broken.py, line 1: a b"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(folder, text, name, said):
    from mmlight.own_modules import see_working_folder

    see_working_folder()
    (folder / "broken.py").write_text(text)
    with pytest.raises(UserError, match=said):
        bring_in([name])


def test_names_are_taken_out_of_the_arguments():
    given = ["--import", "a,b.c", "-c", "x.yaml", "--import=d", "--run.name", "e"]
    assert take_imports(given) == (["-c", "x.yaml", "--run.name", "e"], ["a", "b.c", "d"])
    assert take_imports(['--import=["a", "b"]'])[1] == ["a", "b"]
    with pytest.raises(UserError, match="needs the name of a module"):
        take_imports(["--import", "-c"])
    with pytest.raises(UserError, match="name the module: --import my_module"):
        names_of("./my_module.py", where="--import")
    with pytest.raises(UserError, match=r"must name modules, not \[3\]"):
        names_of([3], where="import")


def test_what_lies_in_the_working_directory_hides_no_installed_package(folder):
    from mmlight.own_modules import see_working_folder

    (folder / "yaml.py").write_text("raise RuntimeError('not this one')")
    see_working_folder()
    assert sys.path[-1] == str(folder)
