"""Fills in what a set leaves open: from CLIP_benchmark's layout of a folder, and by default."""

from dataclasses import replace
from pathlib import Path

from mmlight.class_names import CLASS_NAMES, given_names
from mmlight.data.members import Members
from mmlight.data.shards.paths import expand
from mmlight.errors import UserError
from mmlight.suites.suite import (
    FITTED,
    PROMPTED,
    EvalSet,
    MultiLabelTask,
    RetrievalTask,
    Tasks,
    ZeroShotTask,
)
from mmlight.text_file import MIB, read_text_file

_IMAGES = ["webp", "png", "jpg", "jpeg"]
_TEMPLATES = "zeroshot_classification_templates.txt"
_TYPE = "dataset_type.txt"
_COUNT = "nshards.txt"


def completed(given: EvalSet, *, where: str) -> EvalSet:
    """Return a set with its members, shards by split, class names, prompts and tasks.

    Args:
        given: as the suite says it.
        where: the set, for messages.

    Raises:
        UserError: what is missing, contradicts or has no effect.
    """
    folder = Path(given.shards).expanduser() if isinstance(given.shards, str) else None
    if folder is not None and (folder / given.split).is_dir():
        given = _of_folder(given, folder, where=where)
    elif given.members is None:
        raise UserError(
            f"{where}: {given.shards} has no folder '{given.split}', as CLIP_benchmark's layout "
            "has; for other shards, name members"
        )
    members = given.members
    assert members is not None
    tasks = given.tasks.given()
    if not tasks:
        raise UserError(f"{where}: tasks names nothing to measure")
    mapped = members.modalities()
    if not mapped:
        raise UserError(f"{where}: members maps no image, audio or text")
    modality = given.modality or next(m for m in ("image", "audio", "text") if m in mapped)
    if modality not in mapped:
        raise UserError(f"{where}: modality is {modality}, but members maps {', '.join(mapped)}")
    names = given_names(given.class_names)
    fitted = sorted(FITTED & tasks.keys())
    if fitted and given.train is None:
        raise UserError(f"{where}: {fitted[0]} fits on training samples: give train")
    labelled = sorted((FITTED | {"zero_shot"}) & tasks.keys())
    if labelled and members.label is None:
        raise UserError(f"{where}: {labelled[0]} needs labels; name members.label (such as cls)")
    prompted = sorted(PROMPTED & tasks.keys())
    if prompted and not names:
        raise UserError(f"{where}: {prompted[0]} needs class_names, a file with one name per line")
    if ("multi_label" in tasks) != (given.targets is not None):
        raise UserError(f"{where}: targets and the task multi_label need each other; give both")
    if given.second is not None and "pairs" not in tasks:
        raise UserError(f"{where}: second has an effect on the task pairs alone")
    if given.val is not None and "linear_probe" not in tasks:
        raise UserError(f"{where}: val has no effect without linear_probe")
    if "pairs" in tasks and ("text" not in mapped or len(mapped) < 2):
        raise UserError(f"{where}: pairs needs members.text and members.image or audio")
    if "retrieval" in tasks and len(mapped) < 2:
        raise UserError(f"{where}: retrieval needs two of members.image, text and audio")
    return replace(given, modality=modality, class_names=names)


def _of_folder(given: EvalSet, folder: Path, *, where: str) -> EvalSet:
    """Return the set that a folder in CLIP_benchmark's layout is; what is given wins."""
    kind = _line(folder / _TYPE, where) or "classification"
    if kind not in ("classification", "retrieval", "multilabel"):
        raise UserError(
            f"{where}: {folder / _TYPE} says '{kind}'; it may be classification, multilabel or "
            "retrieval"
        )
    members, tasks, targets = given.members, given.tasks, given.targets
    if members is None and kind == "retrieval":
        members = Members(image=_IMAGES, text="txt", text_lines=True)
    elif members is None:
        members = Members(image=_IMAGES, label=None if kind == "multilabel" else "cls")
    if not tasks.given():
        tasks = {
            "classification": Tasks(zero_shot=ZeroShotTask()),
            "multilabel": Tasks(multi_label=MultiLabelTask()),
            "retrieval": Tasks(retrieval=RetrievalTask()),
        }[kind]
    if targets is None and tasks.multi_label is not None:
        targets = "npy"
    prompted = PROMPTED & tasks.given().keys()
    names = given.class_names
    if names is None and kind != "retrieval" and (folder / CLASS_NAMES).is_file():
        names = str(folder / CLASS_NAMES)
    if (folder / _TEMPLATES).is_file():
        for task in prompted:
            settings = getattr(tasks, task)
            if settings.templates is None:
                said = replace(settings, templates=str(folder / _TEMPLATES))
                tasks = replace(tasks, **{task: said})
    train = given.train
    if train is None and FITTED & tasks.given().keys():
        if not (folder / "train").is_dir():
            raise UserError(f"{where}: {folder} has no folder train to fit classifiers on")
        train = _shards(folder / "train", where)
    return replace(
        given,
        shards=_shards(folder / given.split, where),
        members=members,
        tasks=tasks,
        targets=targets,
        train=train,
        class_names=names,
    )


def _shards(folder: Path, where: str) -> str:
    """Return a folder of shards, as many as it says that it has."""
    said = _line(folder / _COUNT, where)
    there = len(expand(str(folder)))
    if said is not None and said != str(there):
        raise UserError(
            f"{where}: {folder} holds {there} shards, but {_COUNT} says {said}; fetch them again"
        )
    return str(folder)


def _line(path: Path, where: str) -> str | None:
    """Return what a file of one word says; None where there is no such file."""
    if not path.is_file():
        return None
    return read_text_file(path, what=f"{where}: {path}", largest=MIB).strip().lower()
