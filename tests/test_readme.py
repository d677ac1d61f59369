"""What the README tells to type is there."""

import re
import shlex
from pathlib import Path

import cli_data
import pytest

from mmlight.__main__ import OTHER_VERBS, TRAINING_VERBS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
BLOCKS = [text for language, text in FENCED if not language]
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
INLINE = re.findall(r"`(mmlight [^`]+)`", README)
TYPED = [text for text in (*LINES, *INLINE) if text.startswith("mmlight ")]
COMMANDS = [shlex.split(text, comments=True) for text in TYPED]


def test_every_verb_of_the_readme_exists():
    verbs = {words[1] for words in COMMANDS if words[1] != "VERB"}
    assert {"init", "list", "fit", "predict", "export"} <= verbs
    assert verbs <= {*TRAINING_VERBS, *OTHER_VERBS}


def test_help_and_lists_of_the_readme_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = [w for w in COMMANDS if w[1] == "list" or (".help" in " ".join(w) and "FILE" not in w)]
    assert len(shown) >= 2
    for words in shown:
        assert cli_data.run_in_process(*words[1:]) == 0, words
        assert capsys.readouterr().out


def test_a_folder_is_begun_as_the_readme_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        path = tmp_path / f"my/photos/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cli_data.make_sample(number)["png"])
    for words in (w for w in COMMANDS if w[1] == "init" and "FOLDER" not in w):
        assert cli_data.run_in_process(*words[1:]) == 0, words
    for path in re.findall(r"experiments/(?:own|finetune)/photos\w*\.yaml", README):
        assert (tmp_path / "lab" / path).is_file(), path


@pytest.mark.parametrize("path", sorted(set(re.findall(r"experiments/[\w/]+\.\w+", README))))
def test_experiments_that_the_readme_names_exist(path):
    of_ones_own = ("mine", "photos", "FILE", "NAME")
    if not any(name in path for name in of_ones_own):
        assert (Path(__file__).parents[1] / path).is_file()
