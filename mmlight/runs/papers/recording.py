"""From finished runs of a card's experiment to what `results.json` says of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmlight import compose
from mmlight.errors import UserError, nearest
from mmlight.files import read_json
from mmlight.runs.papers.card import SCALES, Card, Recipe
from mmlight.runs.papers.results import Result
from mmlight.runs.run.find import find_all
from mmlight.runs.run.folder import Run

# Settings that say where and how fast a run goes, not what it computes.
_ELSEWHERE = (
    *("run.", "import", "seed_everything", "data.init_args.num_workers"),
    "data.init_args.seed",
    *(f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")),
    *("trainer.log_every_n_steps", "trainer.enable_", "model.compile", "pictures", "verbose"),
)
# What a cross-validation sets for each fold.
_OF_FOLDS = tuple(f"data.init_args.{split}" for split in ("train", "val", "test", "predict"))


@dataclass(frozen=True)
class Repeats:
    """The runs of one experiment: its seeds, or the folds of one cross-validation.

    Attributes:
        runs: each has finished.
        folds: their names; empty where they are seeds.
    """

    runs: tuple[Run, ...]
    folds: tuple[str, ...] = ()


def gather_runs(references: Sequence[str], *, root: Path) -> Repeats:
    """Return the runs that are named; a folder of `mmlight folds` stands for its folds.

    Raises:
        UserError: there is none such, one has not finished, or folds and other runs are mixed.
    """
    named = ((reference, _folds(reference, root)) for reference in references)
    of_folds = {reference: repeats for reference, repeats in named if repeats is not None}
    if of_folds and len(references) > 1:
        raise UserError(
            f"record one cross-validation ({next(iter(of_folds))}) by itself, without other runs"
        )
    (repeats,) = of_folds.values() or [Repeats(tuple(find_all(references, root=root)))]
    for run in repeats.runs:
        if run.status != "finished":
            raise UserError(f"run {run.label} has not finished ({run.status or 'no summary'})")
    return repeats


def _folds(reference: str, root: Path) -> Repeats | None:
    """Return the folds of what `mmlight folds` made; None where it is no such folder."""
    for folder in (Path(reference), root / reference):
        plan = read_json(folder / "folds.json")
        if plan is not None:
            folds = plan["folds"]
            runs = tuple(Run(folder.parent / str(fold["run"])) for fold in folds)
            return Repeats(runs, tuple(str(fold["name"]) for fold in folds))
    return None


def card_of(runs: Sequence[Run], cards: Sequence[Card]) -> tuple[Card, Recipe]:
    """Return whose runs these are, by their name.

    Raises:
        UserError: they belong to no card, or not all to the same experiment.
    """
    named = {card.run_name(recipe): (card, recipe) for card in cards for recipe in card.recipes}
    names = {run.name for run in runs}
    if len(names) > 1:
        raise UserError(f"runs of one experiment are recorded together, not of {sorted(names)}")
    (name,) = names
    if name not in named:
        raise UserError(
            f"run {runs[0].label} bears the name of no card's experiment{nearest(name, named)}; "
            "--as CARD/EXPERIMENT says which it is of"
        )
    return named[name]


def record(
    card: Card,
    recipe: Recipe,
    repeats: Repeats,
    *,
    config: Mapping[str, Any],
    deviations: Sequence[str] = (),
    kwh: float | None = None,
    why: str | None = None,
) -> list[Result]:
    """Return a result for each metric that the card has a target of.

    Args:
        card: the card.
        recipe: the experiment.
        repeats: its runs.
        config: the experiment's own configuration, every default filled in.
        deviations: told by whoever records, beside the settings that differ.
        kwh: energy of all runs, where it is known.
        why: what explains a miss.

    Raises:
        UserError: a run lacks a metric, or the card has no target for this experiment.
    """
    units = {t.metric: t.unit for t in card.targets if t.experiment == recipe.file}
    if not units:
        raise UserError(f"card {card.name} has no target for {recipe.file}")
    summaries = [run.summary or {} for run in repeats.runs]
    seeds = () if repeats.folds else tuple(_seed(run) for run in repeats.runs)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"runs of one seed count once; these are of {', '.join(map(str, seeds))}")
    found = []
    for metric, unit in units.items():
        values = []
        for run in repeats.runs:
            value = run.value(metric)
            if value is None:
                near = nearest(metric, run.final)
                raise UserError(f"run {run.label} has no {metric}{near}; train with run.test true")
            values.append(round(SCALES[unit] * value, 4))
        found.append(
            Result(
                experiment=recipe.file,
                metric=metric,
                unit=unit,
                value=round(mean(values), 4),
                std=round(stdev(values), 4) if len(values) > 1 else None,
                values=tuple(values),
                seeds=seeds,
                folds=repeats.folds,
                deviations=(*deviations, *_differences(config, repeats), *_commits(summaries)),
                hardware=_hardware(summaries[0]),
                hours=round(sum(float(s.get("wall_s") or 0.0) for s in summaries) / 3600, 4),
                kwh=kwh,
                commit=(summaries[0].get("git") or {}).get("commit"),
                uncommitted=any(bool((s.get("git") or {}).get("dirty")) for s in summaries),
                runs=tuple(run.label for run in repeats.runs),
                recorded=date.today().isoformat(),
                why=why,
            )
        )
    return found


def _seed(run: Run) -> int:
    seed = (run.summary or {}).get("seed")
    if not isinstance(seed, int):
        raise UserError(f"run {run.label} has no seed: set seed_everything")
    return seed


def _differences(config: Mapping[str, Any], repeats: Repeats) -> list[str]:
    """Return the settings in which any of the runs differs from the card's experiment."""
    passed = (*_ELSEWHERE, *(_OF_FOLDS if repeats.folds else ()))
    found: dict[str, None] = {}
    for run in repeats.runs:
        theirs = compose.load_yaml(run.config_text, where=str(run.config_yaml)) or {}
        for key, (ours, was) in compose.diff(config, theirs).items():
            if not key.startswith(passed):
                found[f"{key.replace('init_args.', '')}: {was} in place of {ours}"] = None
    return list(found)


def _commits(summaries: Sequence[Mapping[str, Any]]) -> list[str]:
    commits = {str((s.get("git") or {}).get("commit"))[:10] for s in summaries}
    return [f"runs of {len(commits)} commits: {', '.join(sorted(commits))}"] * (len(commits) > 1)


def _hardware(summary: Mapping[str, Any]) -> str:
    devices = [str(name) for name in summary.get("devices") or ("cpu",)]
    if devices == ["cpu"]:
        threads, cores = summary.get("num_threads"), summary.get("num_cpus")
        return f"CPU, {threads} of {cores} cores"
    return f"{summary.get('num_devices') or 1} x {devices[0]}"
