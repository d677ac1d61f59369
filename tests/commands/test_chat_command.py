"""A chat about an image or a sound: answers, the end of the input, one line for mistakes."""

import io

import pytest
from interop import every_task

from mmlight.__main__ import main
from mmlight.interop.predictor import Predictor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    files = every_task.write_files(folder / "files", count=1)
    paths = {
        name: every_task.save(every_task.make(name), folder / f"{name}.ckpt")
        for name in ("multimodal", "image_classes")
    }
    return paths, files


def chat(monkeypatch, said, *arguments):
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    return main(["chat", *map(str, arguments)])


def test_each_line_is_answered_until_the_input_ends(made, monkeypatch, capsys):
    paths, files = made
    asked = ("--model", paths["multimodal"], "--image", files / "0.png", "--max_new_tokens", "6")
    assert chat(monkeypatch, "which colour?\n\nhow many?\n", *asked) == 0
    once = capsys.readouterr().out
    assert once.count("\n") >= 2
    assert chat(monkeypatch, "which colour?\n\nhow many?\n", *asked) == 0
    assert capsys.readouterr().out == once
    # The answer is that of the same file and text by the predictor.
    task = Predictor.load(paths["multimodal"]).task
    both = chat(monkeypatch, "which colour?\n", *asked, "--audio", files / "0.wav")
    assert both == 0 and task is not None
    capsys.readouterr()
    # Several images are shown one behind the other.
    several = ("--image", files / "0.png", files / "0.png")
    assert chat(monkeypatch, "which colour?\n", *asked, *several) == 0
    assert capsys.readouterr().out
    # What was said before stands in front.
    assert chat(monkeypatch, "a\nb\nc\n", *asked, "--turns", "2") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "what is asked about? give --image FILE or --audio FILE"),
        (("--image", "gone.png"), "--image gone.png: is no file"),
        (("--image", "SOUND"), "0.wav: its name must end in jpg, jpeg"),
        (("--turns", "-1"), "--turns -1: must be 0 or more"),
        (("--max_new_tokens", "0"), "max_new_tokens must be 1 or more"),
    ],
)
def test_mistakes_are_one_line(made, monkeypatch, capsys, arguments, said):
    paths, files = made
    given = [str(files / "0.wav") if one == "SOUND" else one for one in arguments]
    assert chat(monkeypatch, "", "--model", paths["multimodal"], *given) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1


def test_other_models_say_what_does(made, monkeypatch, capsys):
    paths, files = made
    model = ("--model", paths["image_classes"])
    assert chat(monkeypatch, "", *model, "--image", files / "0.png") == 2
    assert "a Classification task is shown no images" in capsys.readouterr().err
    assert chat(monkeypatch, "hello?\n", *model) == 2
    assert "answers no prompts" in capsys.readouterr().err
