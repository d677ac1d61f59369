"""A path that does not exist is not looked for on a hub."""

import pytest

from mmlight.errors import UserError
from mmlight.hub_name import check_hub_name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./weights", "no file or folder ./weights"),
        ("/no/such/place", "no file or folder /no/such/place"),
        ("~/no-such-place", "no file or folder ~/no-such-place"),
        ("data/text/minilm", "no file or folder data/text/minilm"),
        ("data/minilm", "no file or folder data/minilm .*mean 'minilm2'"),
        ("runs/none", "no file or folder runs/none"),
        ("weights/", "no file or folder weights/"),
        ("tokenizer.json", "no file or folder tokenizer.json"),
    ],
)
def test_a_path_that_is_not_there_is_refused(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/minilm2").mkdir(parents=True)
    with pytest.raises(UserError, match=f"pretrained: there is {said}"):
        check_hub_name(name, key="pretrained")


@pytest.mark.parametrize("name", ["bert-base-uncased", "org/name", "hf-hub:a/b/c", "data/minilm2"])
def test_names_of_the_hub_and_folders_pass(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/minilm2").mkdir(parents=True)
    check_hub_name(name, key="pretrained")


@pytest.mark.parametrize("make", ["config", "tokenizer"])
def test_what_loads_from_a_hub_checks_first(tmp_path, monkeypatch, make):
    from mmlight.encoders.hf_model import read_config
    from mmlight.text.json_tokenizer import HfTokenizer

    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no file or folder \./none"):
        if make == "config":
            read_config("./none", key="pretrained", changes=None)
        else:
            HfTokenizer("./none")
