"""What is wrong with a command and is said before torch is loaded."""

import subprocess
import sys

import pytest

from mmlight.errors import UserError
from mmlight.experiment.arguments import TOP_KEYS, check_start


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text("trainer: {max_steps: 1}\n")
    (tmp_path / "bad.yaml").write_text("trainer: {max_steps: 1\n")
    (tmp_path / "key.yaml").write_text("trainr: {max_steps: 1}\n")
    (tmp_path / "extends.yaml").write_text("extends: key.yaml\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-c", "goood.yaml"], "config file goood.yaml: no such file .*mean 'good'"),
        (["--config=x/y.yaml"], "config file x/y.yaml: no such file$"),
        (["goood.yaml"], "config file goood.yaml: no such file .*mean 'good'"),
        (["-c", "bad.yaml"], "bad.yaml line 2"),
        (["-c", "key.yaml"], "key.yaml: unknown key `trainr` .*mean 'trainer'"),
        (["-c", "extends.yaml"], "key.yaml: unknown key `trainr`"),
        (["-c", "good.yaml", "--modl.x", "1"], "unknown key `modl` .*mean 'model'"),
        (["-c", "good.yaml", "--ckpt_path", "runs/a/b"], "runs/a/b: no such file or run folder"),
    ],
)
def test_a_wrong_command_is_refused_in_one_line(folder, arguments, said):
    with pytest.raises(UserError, match=said):
        check_start("fit", arguments)


def test_nothing_is_imported_for_it(folder):
    code = (
        "import sys; from mmlight.__main__ import main; "
        "assert main(['fit', '-c', 'zzz.yaml']) == 2; assert main(['list', 'tasks']) == 0; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "mmlight: config file zzz.yaml: no such file\n"
    assert "mmlight.tasks.tagging.Tagging" in done.stdout


def test_an_experiment_alone_is_taken_as_the_config(folder):
    assert check_start("fit", ["good.yaml", "--run.id", "x"])[:2] == ["-c", "good.yaml"]
    assert check_start("fit", ["-c", "good.yaml"]) == ["-c", "good.yaml"]
    assert check_start("soup", ["a", "b"]) == ["a", "b"]
    assert check_start("fit", ["-c", "good.yaml", "--ckpt_path", "last"])[-1] == "last"


@pytest.mark.parametrize("verb", ["fit", "test", "predict"])
def test_the_keys_are_those_of_the_parser(verb):
    from mmlight.experiment.parser import make_parser

    keys = {str(key).partition(".")[0] for key in make_parser(verb).get_defaults().keys()}
    assert keys - {"config"} <= set(TOP_KEYS)
    of_verbs = {"weights_only", "verbose", "return_predictions", "ckpt_path"}
    assert set(TOP_KEYS) - of_verbs <= keys
