import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import hostile_descriptions as hostile
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tasks import tiny

from mmlight.errors import UserError
from mmlight.saved.rebuild import check_description, rebuild
from mmlight.tasks.task import Task


def test_unknown_setting_of_a_checkpoint_is_one_line():
    described = {"class_path": "mmlight.tasks.contrastive.Contrastive", "init_args": {"nope": 1}}
    with pytest.raises(UserError, match="don't fit this version") as error:
        rebuild(described, base=Task)
    assert "\n" not in str(error.value)


OWN = """
from mmlight.objectives.clip import Clip


class Mine(Clip):
    def __init__(self, *, softness: float, **settings) -> None:
        super().__init__(**settings)
        self.softness = softness


def make() -> Mine:
    return Mine(softness=1)


def __getattr__(name):
    raise SystemExit
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A description with the user's own class, whose module nobody has imported."""
    (tmp_path / "own_objective.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    described = tiny.task().rebuild_description()
    arguments = {"softness": 1, "init_temperature": 0.1}
    described["init_args"]["objective"] = {
        "class_path": "own_objective.Mine",
        "init_args": arguments,
    }
    yield described
    sys.modules.pop("own_objective", None)


def test_own_class_needs_the_users_word(own):
    with pytest.raises(UserError, match=r"not part of mmlight.*MMLIGHT_TRUST=own_objective"):
        rebuild(own, base=Task)
    assert "own_objective" not in sys.modules
    __import__("own_objective")  # what happens to be imported is not what was allowed
    with pytest.raises(UserError, match="not part of mmlight"):
        rebuild(own, base=Task)


@pytest.mark.parametrize("named", ["own_objective", "other,own_objective.Mine"])
def test_variable_allows_a_module_or_a_class(own, named, monkeypatch):
    monkeypatch.setenv("MMLIGHT_TRUST", named)
    task = rebuild(own, base=Task)
    task.configure_model()
    assert task.objective.softness == 1.0
    assert task.objective.log_scale.exp().tolist() == pytest.approx([10] * 3)


def test_argument_allows_a_module_for_one_call(own):
    assert rebuild(own, base=Task, trust=["own_objective"])
    with pytest.raises(UserError, match="not part of mmlight"):
        rebuild(own, base=Task)


@pytest.mark.parametrize(
    "path", ["own_objective.make", "own_objective.Clip", "own_objective.no", "own_objective_2.Mine"]
)
def test_allowed_module_gives_only_classes_that_it_defines(own, path):
    own["init_args"]["objective"] = {"class_path": path}
    with pytest.raises(UserError, match=r"defines no such class|not part of mmlight"):
        rebuild(own, base=Task, trust=["own_objective"])


@cache
def honest():
    return tiny.task().rebuild_description()


def places(value, path=()):
    """Return the path of everything in a description."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))
        else:
            yield (*path, key)


def put(value, path, new):
    if not path:
        return new
    inside = value
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return value


def payloads(folder):
    """Anything plain, and what would show itself if it were run, imported or read."""
    ran, bait = str(folder / "ran"), str(folder / "bait.yaml")
    paths = st.sampled_from(
        [
            *("os.system", "subprocess.getoutput", "builtins.open", "builtins.eval"),
            *("canary_module.Enc", "canary_module.func", "mmlight.files.write_text"),
            *("mmlight.encoders.timm_image.TimmImage", "mmlight.objectives.clip.Clip"),
            *("mmlight.tasks.contrastive.Contrastive", "mmlight.files.os.system", bait, "1"),
        ]
    )
    keys = st.sampled_from(
        [
            *("class_path", "init_args", "dict_kwargs", "command", "file", "path", "cmd", "source"),
            *(
                "name",
                "weights",
                "pretrained",
                "from_run",
                "encoder",
                "text",
                "mode",
            ),
            *("encoder.class_path", "objective.init_args.command", "checkpoint_path"),
        ]
    )
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-3, 40)
        | st.floats(-2, 2)
        | paths
        | st.sampled_from([f"touch {ran}", ran, f"open({ran!r}, 'w')", f"@{bait}", "hf-hub:a/b"])
        | st.text(max_size=5)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(keys | st.text(max_size=3), inner, max_size=3)
            | st.fixed_dictionaries(
                {"class_path": paths, "init_args": st.dictionaries(keys, inner, max_size=3)}
            )
        ),
        max_leaves=8,
    )


@pytest.fixture(scope="module")
def bait(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bait")
    hostile.lay_bait(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def describe_anything(data, folder: Path):
    described = deepcopy(honest())
    for _ in range(data.draw(st.integers(1, 3))):
        known = list(places(described)) if isinstance(described, dict | list) else [()]
        described = put(described, data.draw(st.sampled_from(known)), data.draw(payloads(folder)))
    return described


def check_anything(data, folder: Path):
    described = describe_anything(data, folder)
    before = set(sys.modules)
    try:
        check_description(described, base=Task)
    except UserError as error:
        assert str(error).isprintable()
    assert not (folder / "ran").exists()
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    assert new <= {"mmlight"}


SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=300, derandomize=True, **SETTINGS)
@given(st.data())
def test_no_description_runs_or_imports_anything(bait, data):
    check_anything(data, bait)


@pytest.mark.slow
@settings(max_examples=2000, **SETTINGS)
@given(st.data())
def test_thousands_of_descriptions_run_and_import_nothing(bait, data):
    check_anything(data, bait)


@pytest.mark.slow
@settings(max_examples=1000, **SETTINGS)
@given(st.data())
def test_what_passes_is_built_or_refused_in_one_line(bait, data):
    described = describe_anything(data, bait)
    try:
        rebuild(described, base=Task)
    except UserError as error:
        assert str(error).isprintable()
    assert not (bait / "ran").exists() and "canary_module" not in sys.modules
