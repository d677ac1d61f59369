"""What a suite file may say, and what it is told where it says something else."""

from pathlib import Path

import pytest
import suite_data

from mmlight.data.members import Members
from mmlight.errors import UserError
from mmlight.suites.layout import completed
from mmlight.suites.suite import EvalSet, FewShotTask, KnnTask, Tasks, ZeroShotTask, read_suite


def test_tasks_are_names_or_settings(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "sets:\n"
        "  a: {shards: x, members: {image: png, label: cls}, tasks: [zero_shot, knn]}\n"
        "  b: {shards: y, tasks: {few_shot: {shots: [2]}, zero_shot: }}\n"
    )
    suite = read_suite(path)
    assert suite.name == "mine"
    assert suite.sets["a"].members == Members(image="png", label="cls")
    assert suite.sets["a"].tasks.given() == {"zero_shot": ZeroShotTask(), "knn": KnnTask()}
    assert suite.sets["b"].tasks.few_shot == FewShotTask(shots=(2,))
    assert suite.sets["b"].tasks.zero_shot == ZeroShotTask()


def test_a_suite_extends_another(tmp_path):
    suite_data.write_suite(tmp_path / "base.yaml", {"a": {"shards": "x"}}, seed=3)
    path = suite_data.write_suite(
        tmp_path / "more.yaml", {"b": {"shards": "y"}}, extends="base.yaml"
    )
    suite = read_suite(path)
    assert list(suite.sets) == ["a", "b"] and suite.seed == 3 and suite.name == "more"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({}, "sets must name one set or more"),
        ({"a": "x"}, "sets.a must say which shards"),
        ({"a": {}}, "sets.a: shards is missing"),
        ({"a": {"shard": "x"}}, "unknown key 'shard' (did you mean 'shards'?)"),
        ({"a": {"shards": "x", "tasks": ["zeroshot"]}}, "unknown key 'zeroshot'"),
        ({"a": {"shards": "x", "tasks": {"knn": {"k": "many"}}}}, "sets.a.tasks.knn.k"),
        ({"a": {"shards": "x", "tasks": {"knn": {"k": 0}}}}, "sets.a.tasks.knn.k is 0"),
        ({"a": {"shards": "x", "tasks": {"few_shot": {"shots": [0]}}}}, "few_shot.shots is 0"),
        ({"a": {"shards": "x", "tasks": {"retrieval": {"ks": []}}}}, "the number of ks is 0"),
        ({"a": {"shards": "x", "tasks": {"linear_probe": {"val_share": 1.0}}}}, "val_share"),
        ({"a": {"shards": "x", "limit": 0}}, "sets.a.limit is 0"),
        ({"a": {"shards": "x", "members": {"image": "png", "labels": "cls"}}}, "labels"),
    ],
)
def test_a_mistake_is_named_in_one_line(sets, said, tmp_path):
    path = suite_data.write_suite(tmp_path / "s.yaml", sets)
    with pytest.raises(UserError) as error:
        read_suite(path)
    assert said in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "task", "members"),
    [
        (None, "zero_shot", Members(image=["webp", "png", "jpg", "jpeg"], label="cls")),
        ("multilabel", "multi_label", Members(image=["webp", "png", "jpg", "jpeg"])),
        (
            "retrieval",
            "retrieval",
            Members(image=["webp", "png", "jpg", "jpeg"], text="txt", text_lines=True),
        ),
    ],
)
def test_the_layout_of_clip_benchmark_says_all_else(kind, task, members, tmp_path):
    folder = suite_data.layout(tmp_path / "d", kind)
    one = completed(EvalSet(str(folder)), where="sets.d")
    assert list(one.tasks.given()) == [task]
    assert one.members == members
    assert one.shards == str(folder / "test")
    if task != "retrieval":
        templates = getattr(one.tasks, task).templates
        assert templates == str(folder / "zeroshot_classification_templates.txt")
        assert one.class_names == ["red", "green", "blue", "grey"]


def test_a_folder_cut_short_is_refused(tmp_path):
    folder = suite_data.layout(tmp_path / "d")
    (folder / "test" / "nshards.txt").write_text("3\n")
    with pytest.raises(UserError, match=r"holds 1 shards, but nshards.txt says 3"):
        completed(EvalSet(str(folder)), where="sets.d")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": Tasks()}, "names nothing to measure"),
        ({"members": None}, "has no folder 'test'"),
        ({"modality": "audio"}, "modality is audio, but members maps image"),
        ({"class_names": None}, "zero_shot needs class_names"),
        ({"members": Members(image="png")}, "zero_shot needs labels"),
        ({"tasks": Tasks(knn=KnnTask())}, "knn fits on training samples: give train"),
        ({"targets": "npy"}, "targets and the task multi_label need each other"),
        ({"val": "x"}, "val has no effect"),
        ({"second": Members(image="png")}, "second has an effect on the task pairs"),
    ],
)
def test_a_set_that_contradicts_itself_is_refused(changes, said, tmp_path):
    settings = {
        "shards": str(tmp_path / "x.tar"),
        "members": Members(image="png", label="cls"),
        "class_names": ["a", "b"],
        "tasks": Tasks(zero_shot=ZeroShotTask()),
    }
    with pytest.raises(UserError, match=r"^sets.d: ") as error:
        completed(EvalSet(**settings | changes), where="sets.d")
    assert said in str(error.value)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "experiments" / "suites").glob("*.yaml")), ids=str
)
def test_every_suite_of_the_experiments_is_read(path):
    assert read_suite(path).sets
