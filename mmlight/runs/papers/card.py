"""A paper's card: a folder with experiments, and `targets.json`, which says what was reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mmlight.errors import UserError, nearest
from mmlight.runs.papers.json_object import JsonObject

TARGETS, RESULTS, README = "targets.json", "results.json", "README.md"
FOLDER = "experiments/papers"
# A share is reported in percent, and logged as a fraction.
SCALES = {"%": 100.0, "": 1.0}


@dataclass(frozen=True)
class Recipe:
    """An experiment of a card, and how often it is run.

    Attributes:
        file: its YAML, in the card's folder.
        what: it trains, in a few words.
        seeds: a run for each; empty where folds are run.
        folds: what `mmlight folds` is asked for, such as ``("--field", "json:fold")``.
        with_files: further YAMLs that a run takes and that a dry run needs not, such as one that
            names published weights.
        samples: training samples, for the cost where the data is not here.
    """

    file: str
    what: str
    seeds: tuple[int, ...]
    folds: tuple[str, ...]
    with_files: tuple[str, ...]
    samples: int | None

    @property
    def stem(self) -> str:
        """The file's name without its end."""
        return self.file.removesuffix(".yaml")


@dataclass(frozen=True)
class Target:
    """A figure that somebody reported.

    Attributes:
        experiment: the YAML that is to reach it; None where there is none here.
        on: the data that it was measured on.
        metric: what it is, as a run here logs it: ``test/accuracy``.
        value: the figure, in its unit.
        unit: ``%``, or empty.
        by: who: the paper, or somebody who ran it again.
        model: which, where the paper has several.
        source: where it stands.
        status: whether that was read, or the figure was recalled.
    """

    experiment: str | None
    on: str
    metric: str
    value: float
    unit: Literal["%", ""]
    by: Literal["paper", "rerun"]
    model: str
    source: str
    status: Literal["read", "recalled"]


@dataclass(frozen=True)
class Compute:
    """What a training is said to have cost.

    Attributes:
        experiment: the YAML.
        device: as `mmlight cost --device` calls it; None where its table has none such.
        devices: how many; None where that is not said.
        device_hours: of all of them; None where that is not said.
        source: where that stands.
        status: as of `Target`.
    """

    experiment: str
    device: str | None
    devices: int | None
    device_hours: float | None
    source: str
    status: Literal["read", "recalled"]


@dataclass(frozen=True)
class Needed:
    """A file or folder that a run reads, and where it comes from.

    Attributes:
        path: it, from the folder in which commands are typed.
        source: where it comes from, or what makes it.
        experiments: the YAMLs that need it; empty where all do.
    """

    path: str
    source: str
    experiments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """A card.

    Attributes:
        folder: where it lies.
        title: what it reproduces.
        paper: whose.
        recipes: its experiments.
        data: what they read.
        targets: what was reported.
        compute: what it is said to have cost.
        deviations: where the recipes here differ from the paper's.
        planned: what is not here yet.
    """

    folder: Path
    title: str
    paper: str
    recipes: tuple[Recipe, ...]
    data: tuple[Needed, ...]
    targets: tuple[Target, ...]
    compute: tuple[Compute, ...]
    deviations: tuple[str, ...]
    planned: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def recipe(self, file: str) -> Recipe:
        """Return the experiment of a file, which may be named without its end."""
        found = next((r for r in self.recipes if file in (r.file, r.stem)), None)
        if found is None:
            names = [recipe.stem for recipe in self.recipes]
            raise UserError(
                f"card {self.name} has no experiment '{file}'{nearest(file, names)}; it has "
                f"{', '.join(names)}"
            )
        return found

    def path(self, recipe: Recipe) -> Path:
        """Return where the YAML of an experiment lies."""
        return self.folder / recipe.file

    def run_name(self, recipe: Recipe) -> str:
        """Return what its runs are called, by which `record` knows them."""
        return f"{self.name}-{recipe.stem}"


def find_cards(root: Path, names: Sequence[str] = ()) -> list[Card]:
    """Return the cards below a folder, in order of their names.

    Args:
        root: the folder.
        names: only these.

    Raises:
        UserError: no such card, or one whose `targets.json` does not hold what it should.
    """
    known = {path.parent.name: path.parent for path in sorted(root.glob(f"*/{TARGETS}"))}
    if not known:
        raise UserError(f"no cards in {root} (folders with {TARGETS}); --papers names their folder")
    for name in names:
        if name not in known:
            raise UserError(
                f"no card '{name}' in {root}{nearest(name, known)}; `mmlight papers` lists them"
            )
    return [read_card(known[name]) for name in (names or known)]


def read_card(folder: Path) -> Card:
    """Return a card.

    Raises:
        UserError: `targets.json` is missing, is no JSON, or lacks or misnames something.
    """
    top = JsonObject.of_file(folder / TARGETS)
    recipes = top.parts("experiments", _recipe)
    files = [recipe.file for recipe in recipes]
    for recipe in recipes:
        for file in (recipe.file, *recipe.with_files):
            if not (folder / file).is_file():
                raise UserError(f"{folder / TARGETS}: experiments names {file}, which is not there")
        if bool(recipe.seeds) == bool(recipe.folds):
            raise UserError(
                f"{folder / TARGETS}: experiment {recipe.file} needs seeds, such as [0, 1, 2], or "
                'folds, such as ["--field", "json:fold"], and not both'
            )
    targets = top.parts("targets", lambda one: _target(one, files))
    _check_places(targets, where=str(folder / TARGETS))
    card = Card(
        folder=folder,
        title=top.text("title"),
        paper=top.text("paper"),
        recipes=recipes,
        data=top.parts("data", _needed),
        targets=targets,
        compute=top.parts("compute", lambda one: _compute(one, files)),
        deviations=tuple(top.list_of(str, "deviations")),
        planned=tuple(top.list_of(str, "planned")),
    )
    top.end()
    return card


def _check_places(targets: Sequence[Target], *, where: str) -> None:
    """Refuse a metric of one experiment that is compared with figures of several data sets."""
    places: dict[tuple[str, str], str] = {}
    for target in targets:
        key = (target.experiment or "", target.metric)
        known = places.setdefault(key, target.on)
        if target.experiment is not None and known != target.on:
            raise UserError(
                f"{where}: {target.metric} of {target.experiment} is on '{known}' and on "
                f"'{target.on}'; leave experiment out of what no run here is compared with"
            )


def _recipe(one: JsonObject) -> Recipe:
    return Recipe(
        file=one.text("file"),
        what=one.text("what"),
        seeds=tuple(one.list_of(int, "seeds")),
        folds=tuple(one.list_of(str, "folds")),
        with_files=tuple(one.list_of(str, "with")),
        samples=one.optional(int, "samples"),
    )


def _needed(one: JsonObject) -> Needed:
    return Needed(one.text("path"), one.text("from"), tuple(one.list_of(str, "experiments")))


def _target(one: JsonObject, files: Sequence[str]) -> Target:
    return Target(
        experiment=one.choice("experiment", (*files, None), default=None),
        on=one.text("on"),
        metric=one.text("metric"),
        value=one.number("value"),
        unit=one.choice("unit", ("%", "")),
        by=one.choice("by", ("paper", "rerun")),
        model=one.text("model", default=""),
        source=one.text("source"),
        status=one.choice("status", ("read", "recalled")),
    )


def _compute(one: JsonObject, files: Sequence[str]) -> Compute:
    return Compute(
        experiment=one.choice("experiment", files),
        device=one.optional(str, "device"),
        devices=one.optional(int, "devices"),
        device_hours=one.optional(float, "device_hours"),
        source=one.text("source"),
        status=one.choice("status", ("read", "recalled")),
    )


def devices_of(card: Card, recipe: Recipe, *, batch: int) -> int:
    """Return how many devices a recipe's cost is foretold for.

    Those of the source; where it does not say, as many as leave 256 samples of a step for each.

    Args:
        card: the card.
        recipe: its experiment.
        batch: samples of a step.
    """
    said = next((c.devices for c in card.compute if c.experiment == recipe.file), None)
    if said is not None and batch % said == 0:
        return said
    return next(n for n in range(max(batch // 256, 1), batch + 1) if batch % n == 0)
