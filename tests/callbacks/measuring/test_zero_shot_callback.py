import pytest

from mmlight.callbacks.measuring.zero_shot import ZeroShot
from mmlight.errors import UserError


def test_templates_of_clip_benchmark_are_read_as_they_are(tmp_path):
    file = tmp_path / "zeroshot_classification_templates.txt"
    file.write_text("a photo of a {c}.\n\na drawing of a {c}.\n")
    assert ZeroShot(templates=str(file)).templates == ["a photo of a {}.", "a drawing of a {}."]


def test_builtin_list_goes_by_its_name():
    assert ZeroShot(templates="plain").templates == ["{}"]


def test_unknown_templates_are_refused_with_what_there_is():
    with pytest.raises(UserError, match="neither a built-in list \\(plain, image, audio, speech"):
        ZeroShot(templates="plane")
