"""What is to be done: every model on every set, as far as it can, and what is embedded for it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError
from mmlight.files import plain
from mmlight.metrics.zero_shot import read_templates
from mmlight.modality import MODALITIES, Modality
from mmlight.suites.features import Part, Piece, pieces_of
from mmlight.suites.layout import completed
from mmlight.suites.model import Model
from mmlight.suites.suite import FITTED, PROMPTED, EvalSet, Suite
from mmlight.terminal import note

_VERSION = 1
# What a folder of open_clip may be without: its vocabulary is the package's, or the hub's.
_NO_WORDS = (
    "no tokenizer beside its weights (tokenizer.json; for CLIP's vocabulary also merges.txt, or "
    "open_clip installed)"
)


@dataclass(frozen=True)
class How:
    """How features are computed, and where things are kept.

    Attributes:
        out: the folder of results.
        cache: the folder of features.
        device: of this rank.
        workers: processes that decode.
        batch_size: samples that are embedded at once.
    """

    out: Path
    cache: Path
    device: torch.device
    workers: int
    batch_size: int


@dataclass(frozen=True)
class Prompts:
    """Class names in sentences, whose features a model compares samples with.

    Attributes:
        templates: the sentences.
        path: where the features are kept.
    """

    templates: list[str]
    path: Path


@dataclass(frozen=True)
class Job:
    """One model on one set.

    Attributes:
        model: the model.
        name: of the set.
        set: the set, complete.
        tasks: those that the model can do, with their settings.
        pieces: by part, what is embedded.
        parts: by name.
        prompts: by task, the class names in sentences.
        suite: the suite.
    """

    model: Model
    name: str
    set: EvalSet
    tasks: dict[str, Any]
    parts: dict[str, Part]
    pieces: dict[str, list[Piece]]
    prompts: dict[str, Prompts]
    suite: Suite

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"sets.{self.name}"

    def path(self, task: str, how: How) -> Path:
        """Return where a task's result is kept."""
        return how.out / "results" / self.model.name / self.name / f"{task}.json"

    def key(self, task: str) -> str:
        """Return the hash of all that a task's result depends on."""
        about = {
            "version": _VERSION,
            "model": self.model.digest,
            "pieces": {part: [p.path.name for p in of] for part, of in self.pieces.items()},
            "class_names": self.set.class_names,
            "modality": self.set.modality,
            "prompts": self.prompts[task].path.name if task in self.prompts else None,
            "task": task,
            "settings": asdict(self.tasks[task]),
            "bootstrap": [self.suite.seed, self.suite.draws],
        }
        return sha256(json.dumps(plain(about), sort_keys=True).encode()).hexdigest()


def plan(models: Sequence[Model], suite: Suite, *, how: How, tells: bool) -> list[Job]:
    """Return what is to be evaluated, every model on every set.

    Args:
        models: the models.
        suite: the suite.
        how: where things are kept.
        tells: whether to say what a model cannot do.

    Raises:
        UserError: a set that is not what the suite says, or a model that can do nothing.
    """
    sets = {name: completed(s, where=f"sets.{name}") for name, s in suite.sets.items()}
    opened: dict[tuple[str, str], Corpus] = {}
    jobs = []
    for model in models:
        mine = [_job(model, name, one, suite, how, opened) for name, one in sets.items()]
        if not any(job.tasks for job, _ in mine):
            has = f"towers for {', '.join(model.modalities)}"
            if "text" in model.modalities and not model.has_tokenizer:
                has += f" and {_NO_WORDS}"
            raise UserError(
                f"--model {model.name} has {has}, which is not enough for any task of suite "
                f"'{suite.name}'"
            )
        if tells:
            for job, lacking in mine:
                for task, what in lacking.items():
                    note(f"{model.name} on {job.name}: no {task}, which needs {what}")
        jobs += [job for job, _ in mine if job.tasks]
    return jobs


def _job(
    model: Model,
    name: str,
    one: EvalSet,
    suite: Suite,
    how: How,
    opened: dict[tuple[str, str], Corpus],
) -> tuple[Job, dict[str, str]]:
    """Return a job, and what the model lacks for the tasks that are left out of it."""
    tasks, lacking = {}, {}
    for task, settings in one.tasks.given().items():
        missing = _missing(task, one, model)
        if missing is None:
            tasks[task] = settings
        else:
            lacking[task] = missing
    parts = _parts(name, one, tasks, model) if tasks else {}
    pieces = {}
    for part, about in parts.items():
        key = (name, json.dumps(plain(about.describe()), sort_keys=True) + str(about.shards))
        corpus = opened[key] = opened[key] if key in opened else about.corpus()
        pieces[part] = pieces_of(about, model, cache=how.cache, corpus=corpus)
    prompts = {}
    for task in PROMPTED & tasks.keys():
        where = f"sets.{name}.tasks.{task}.templates"
        templates = read_templates(tasks[task].templates or "plain", key=where)
        said = json.dumps([model.digest, list(one.class_names or ()), templates])
        file = f"{sha256(said.encode()).hexdigest()}.safetensors"
        prompts[task] = Prompts(templates, how.cache / model.digest[:16] / file)
    return Job(model, name, one, tasks, parts, pieces, prompts, suite), lacking


def _missing(task: str, one: EvalSet, model: Model) -> str | None:
    """Return what of a task a model lacks."""
    assert one.modality is not None and one.members is not None
    wanted: list[Modality] = [one.modality]
    if task == "retrieval":
        wanted = [m for m in one.members.modalities() if m in model.modalities]
        if len(wanted) < 2:
            return f"two of {', '.join(one.members.modalities())}"
    elif task in PROMPTED or task == "pairs":
        wanted.append("text")
    lacking = [m for m in wanted if m not in model.modalities]
    if not lacking and "text" in wanted and not model.has_tokenizer:
        return f"texts as tokens; the model has {_NO_WORDS}"
    return " and ".join(f"a tower for {m}" for m in lacking) or None


def _parts(name: str, one: EvalSet, tasks: dict[str, Any], model: Model) -> dict[str, Part]:
    assert one.modality is not None and one.members is not None
    test: set[Modality] = set()
    if (FITTED | PROMPTED) & tasks.keys():
        test.add(one.modality)
    if "pairs" in tasks:
        test |= {one.modality, "text"}
    if "retrieval" in tasks:
        test |= set(one.members.modalities()) & set(model.modalities)
    labelled = (FITTED | {"zero_shot"}) & tasks.keys()
    members = one.members
    if not labelled and not members.class_captions:  # which need not be there
        members = replace(members, label=None)
    whole = Part(
        where=f"sets.{name} (test)",
        shards=one.shards,
        members=members,
        modalities=tuple(m for m in MODALITIES if m in test),
        class_names=tuple(one.class_names or ()),
        targets=one.targets if "multi_label" in tasks else None,
        limit=one.limit,
    )
    parts = {"test": whole}
    if one.second is not None and "pairs" in tasks:
        parts["second"] = replace(whole, where=f"sets.{name} (second)", members=one.second)
    fitted = replace(whole, modalities=(one.modality,), targets=None)
    if FITTED & tasks.keys():
        assert one.train is not None
        parts["train"] = replace(fitted, where=f"sets.{name} (train)", shards=one.train)
    if one.val is not None and "linear_probe" in tasks:
        parts["val"] = replace(fitted, where=f"sets.{name} (val)", shards=one.val)
    return parts
