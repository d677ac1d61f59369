import os
from pathlib import Path

import pytest

from mmlight import compose
from mmlight.__main__ import main
from mmlight.errors import UserError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_extended_files_come_first_and_once(tmp_path):
    write(tmp_path / "base/cpu.yaml", "trainer: {accelerator: cpu}\n")
    write(tmp_path / "towers/a.yaml", "extends: ../base/cpu.yaml\nmodel: {a: 1}\n")
    top = write(
        tmp_path / "pretrain/x.yaml",
        "extends: [../base/cpu.yaml, ../towers/a.yaml]\nmodel: {a: 2}\n",
    )
    layers = compose.expand(top)
    assert [layer.path.name for layer in layers] == ["cpu.yaml", "a.yaml", "x.yaml"]
    assert all("extends" not in layer.values for layer in layers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: [x.yaml]\n", "circle"),
        ("extends: [nowhere.yaml]\n", "No such file"),
        ("extends: {a: 1}\n", "list of paths"),
        ("- 1\n", "keys and values"),
        ("a: [1\n", "line 2"),
    ],
)
def test_bad_file_is_named_in_one_line(tmp_path, text, said):
    path = write(tmp_path / "x.yaml", text)
    with pytest.raises(UserError, match=said) as error:
        compose.expand(path)
    assert "\n" not in str(error.value)


def test_diff_names_flat_keys():
    left = {"model": {"a": 1, "b": 2}, "seed": 0}
    right = {"model": {"a": 1, "b": 3}, "extra": [1]}
    assert compose.diff(left, right) == {
        "extra": (None, [1]),
        "model.b": (2, 3),
        "seed": (0, None),
    }


def bomb(levels=30, width=10, join="[{}]"):
    lines = ["a0: &a0 {k: 1}"]
    for n in range(1, levels):
        lines.append(f"a{n}: &a{n} {join.format(', '.join([f'*a{n - 1}'] * width))}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "aliases stand for more than"),
        (bomb(join="{{<<: [{}]}}"), "aliases stand for more than"),
        ("a: &a [1, *a]\n", "within what it names"),
        ("a: " + "[" * 50_000 + "]" * 50_000, "nested more than"),
        ("a: " + "{b: " * 50_000 + "}" * 50_000, "nested more than"),
        ("a: !!timestamp 2020-99-99\n", "not valid YAML"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: !!timestamp x\n", "not valid YAML"),
        ("a: !!int ''\n", "not valid YAML"),
        ("a: !!bool x\n", "not valid YAML"),
        ("a: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("a: \x00\n", "not allowed|not valid YAML|unacceptable"),
        ("a: *b\n", "alias"),
        ("a: " + "x" * (5 << 20), "more than 4 MiB"),
    ],
)
def test_hostile_yaml_is_refused_in_one_line(tmp_path, text, said):
    path = write(tmp_path / "x.yaml", text)
    with pytest.raises(UserError, match=said) as error:
        compose.read(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_aliases_and_merges_of_usual_size_are_read(tmp_path):
    path = write(tmp_path / "x.yaml", "a: &a {k: 1}\nb: {<<: *a, c: 2}\nd: [*a, *a]\n")
    assert compose.read(path) == {"a": {"k": 1}, "b": {"k": 1, "c": 2}, "d": [{"k": 1}, {"k": 1}]}


@pytest.mark.parametrize("as_parent", [False, True])
def test_what_is_no_file_is_refused_at_once(tmp_path, as_parent):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("/dev/zero", tmp_path / "pipe", tmp_path / "link", tmp_path):
        path = write(tmp_path / "x.yaml", f"extends: {name}\n") if as_parent else Path(name)
        with pytest.raises(UserError, match=r"device or a pipe|is a folder"):
            compose.expand(path)


def test_command_refuses_a_device_in_one_line(capsys):
    assert main(["fit", "-c", "/dev/zero"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "is a device or a pipe" in said
