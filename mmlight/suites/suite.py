"""What a suite file says: sets of samples, and what is measured on each."""

from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from mmlight import compose
from mmlight.config_errors import one_line
from mmlight.data.members import Members
from mmlight.errors import UserError, nearest
from mmlight.modality import Modality
from mmlight.yaml_text import parser_mode


@dataclass(frozen=True)
class ZeroShotTask:
    """Samples are of the class whose prompts are most similar (arXiv 2103.00020, section 3.1).

    Attributes:
        templates: prompts, as those of `zero_shot` in an experiment; None takes the class names as
            they are, or those of a folder in CLIP_benchmark's layout.
    """

    templates: str | list[str] | None = None


@dataclass(frozen=True)
class MultiLabelTask:
    """Zero-shot with several classes a sample, scored by mean average precision.

    Attributes:
        templates: as those of zero-shot.
    """

    templates: str | list[str] | None = None


@dataclass(frozen=True)
class RetrievalTask:
    """Recall between every two modalities of a set; any caption of a sample is a hit.

    Attributes:
        ks: cut-offs.
    """

    ks: tuple[int, ...] = (1, 5, 10)


@dataclass(frozen=True)
class LinearProbeTask:
    """Logistic regression on frozen features, regularised as suits a validation split.

    Attributes:
        solver: ``lbfgs``, as CLIP (arXiv 2103.00020, appendix A.3), or ``adamw``, as
            CLIP_benchmark: a linear layer, 10 epochs at a rate of 0.1 that falls to 0.
        val_share: what part of the training samples is validated on, where the set names no `val`;
            0 takes no validation and almost no regularisation.
        max_steps: of L-BFGS.
        epochs: of AdamW.
        lr: of AdamW.
        seed: of the split, and of AdamW's weights and order.
    """

    solver: Literal["lbfgs", "adamw"] = "lbfgs"
    val_share: float = 0.2
    max_steps: int = 1000
    epochs: int = 10
    lr: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class KnnTask:
    """The votes of the nearest training samples.

    Attributes:
        k: neighbours that vote.
        temperature: smaller trusts the nearest more.
    """

    k: int = 20
    temperature: float = 0.07


@dataclass(frozen=True)
class FewShotTask:
    """Linear probes on a few training samples of each class, drawn several times.

    Their regularisation is chosen on as many further samples of each class, four at most (CoOp's
    protocol, arXiv 2109.01134).

    Attributes:
        shots: samples of each class.
        draws: how often they are drawn.
        seed: of the draws.
    """

    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 3
    seed: int = 0


@dataclass(frozen=True)
class PairsTask:
    """Whether an image, or a sound, is more similar to a right caption than to every wrong one.

    A sample's first captions are right, all others wrong (ARO, SugarCrepe). With `second` members
    each sample has two images and a caption for each (Winoground, arXiv 2204.03162): scores are of
    the text, the image and the group.

    Attributes:
        right: how many captions of a sample are right.
    """

    right: int = 1


@dataclass(frozen=True)
class Tasks:
    """What is measured on a set; a task that is not named is left out.

    Attributes:
        zero_shot: accuracy by class names in prompts.
        multi_label: the same for samples of several classes.
        retrieval: recall among modalities.
        linear_probe: logistic regression on the features of `train`.
        knn: nearest neighbours among those of `train`.
        few_shot: the probe on a few samples of each class.
        pairs: right captions against wrong ones.
    """

    zero_shot: ZeroShotTask | None = None
    multi_label: MultiLabelTask | None = None
    retrieval: RetrievalTask | None = None
    linear_probe: LinearProbeTask | None = None
    knn: KnnTask | None = None
    few_shot: FewShotTask | None = None
    pairs: PairsTask | None = None

    def given(self) -> dict[str, Any]:
        """Return the tasks that are named, with their settings."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: settings for name, settings in named.items() if settings is not None}


TASKS = tuple(f.name for f in fields(Tasks))
# They fit on training samples.
FITTED = frozenset(("linear_probe", "knn", "few_shot"))
PROMPTED = frozenset(("zero_shot", "multi_label"))


@dataclass(frozen=True)
class EvalSet:
    """Samples that models are evaluated on.

    Attributes:
        shards: a folder in CLIP_benchmark's layout (`test` and perhaps `train` with N.tar,
            `classnames.txt`, ...), which says all else; or shards, as those of a split are named.
        split: which folder of such a layout is evaluated.
        members: which members of a sample are its image, text, audio, label.
        second: of a sample with two images and two captions, which members are the second of each.
        targets: member with a sample's several classes: ``npy`` (a 0 or 1 for each class, as in
            CLIP_benchmark) or a list of numbers or names, such as ``json:labels``.
        train: shards that classifiers are fitted on.
        val: shards that their regularisation is chosen on; None takes a part of `train`.
        class_names: a file with a name per line, or the names, in the order of the labels.
        modality: what is classified; None takes the first of image, audio and text that is mapped.
        limit: takes only the first so many samples of each split.
        tasks: what is measured: names, or settings by name. A folder in CLIP_benchmark's layout
            needs none: its type says it.
    """

    shards: str | list[str]
    split: str = "test"
    members: Members | None = None
    second: Members | None = None
    targets: str | None = None
    train: str | list[str] | None = None
    val: str | list[str] | None = None
    class_names: str | list[str] | None = None
    modality: Modality | None = None
    limit: int | None = None
    tasks: Tasks = field(default_factory=Tasks)


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name: of its results' folder.
        sets: by name.
        seed: of the bootstrap's draws.
        draws: of the bootstrap.
    """

    name: str
    sets: dict[str, EvalSet]
    seed: int = 0
    draws: int = 1000


def read_suite(path: Path) -> Suite:
    """Read a suite, which may extend others.

    Raises:
        UserError: no such file, an unknown key, or a value that is none; it names the key.
    """
    values: dict[str, Any] = {}
    for layer in compose.expand(path):
        values = compose.merge(values, layer.values)
    values.setdefault("name", path.stem)
    where = f"suite {path}: "
    _check_keys(values, Suite, where)
    sets = values.get("sets")
    if not isinstance(sets, Mapping) or not sets:
        raise UserError(f"{where}sets must name one set or more, as in sets: {{mine: {{...}}}}")
    suite = Suite(
        name=str(values["name"]),
        sets={str(name): _read_set(one, str(name), where) for name, one in sets.items()},
        **{key: values[key] for key in ("seed", "draws") if key in values},
    )
    for key in ("seed", "draws"):
        if type(getattr(suite, key)) is not int:
            raise UserError(f"{where}{key} must be a whole number, not {getattr(suite, key)!r}")
    _check_numbers(suite, where)
    return suite


def _read_set(given: Any, name: str, where: str) -> EvalSet:
    values = _prepared(given, name, where)
    parser = ArgumentParser(exit_on_error=False, parser_mode=parser_mode())
    parser.add_class_arguments(EvalSet, "set")
    try:
        one: EvalSet = parser.instantiate(parser.parse_object({"set": values}))["set"]
    except (ArgumentError, UserError) as error:
        said = str(error) if isinstance(error, UserError) else one_line(str(error), known_keys=[])
        raise UserError(f"{where}sets.{name}.{said.removeprefix('set.')}") from error
    return one


def _prepared(one: Any, name: str, where: str) -> dict[str, Any]:
    """Check the keys of a set, which the parser would name at great length."""
    where = f"{where}sets.{name}"
    if not isinstance(one, Mapping):
        raise UserError(f"{where} must say which shards, as in {name}: {{shards: FOLDER}}")
    values = dict(one)
    _check_keys(values, EvalSet, f"{where}: ")
    if "shards" not in values:
        raise UserError(
            f"{where}: shards is missing: a folder in CLIP_benchmark's layout, or shards"
        )
    tasks = values.get("tasks")
    if tasks is None:
        values.pop("tasks", None)
        return values
    if isinstance(tasks, str):
        tasks = [tasks]
    if isinstance(tasks, list):
        tasks = {str(task): {} for task in tasks}
    _check_keys(tasks, Tasks, f"{where}.tasks: ")
    values["tasks"] = {task: settings or {} for task, settings in tasks.items()}
    return values


def _check_keys(values: Any, kind: type, where: str) -> None:
    known = [f.name for f in fields(kind)]
    if not isinstance(values, Mapping):
        raise UserError(f"{where}expected keys and values; there are {', '.join(known)}")
    unknown = next((str(key) for key in values if key not in known), None)
    if unknown is not None:
        raise UserError(
            f"{where}unknown key '{unknown}'{nearest(unknown, known)}; there are {', '.join(known)}"
        )


def _check_numbers(suite: Suite, where: str) -> None:
    _at_least(suite.draws, 1, f"{where}draws")
    for name, one in suite.sets.items():
        begin = f"{where}sets.{name}"
        if one.limit is not None:
            _at_least(one.limit, 1, f"{begin}.limit")
        for task, settings in one.tasks.given().items():
            begin_task = f"{begin}.tasks.{task}"
            for key in ("k", "draws", "max_steps", "epochs", "right"):
                if hasattr(settings, key):
                    _at_least(getattr(settings, key), 1, f"{begin_task}.{key}")
            for key in ("ks", "shots"):
                values = getattr(settings, key, (1,))
                _at_least(len(values), 1, f"{begin_task}: the number of {key}")
                _at_least(min(values), 1, f"{begin_task}.{key}")
            if not 0 <= getattr(settings, "val_share", 0) < 1:
                raise UserError(f"{begin_task}.val_share must be 0 or more and below 1")
            for key in ("lr", "temperature"):
                if getattr(settings, key, 1) <= 0:
                    raise UserError(f"{begin_task}.{key} must be above 0")


def _at_least(value: int, least: int, what: str) -> None:
    if value < least:
        raise UserError(f"{what} is {value}; it must be {least} or more")
