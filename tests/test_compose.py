import pytest

from mmlight import compose
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
