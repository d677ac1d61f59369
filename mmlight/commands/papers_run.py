"""``mmlight papers run``: trains a card's recipe as its runs, records and compares them."""

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from mmlight.errors import UserError
from mmlight.runs.papers.card import Card, Recipe, find_cards
from mmlight.runs.plan.processes import Command, ends_on_term, run_one
from mmlight.runs.run.folder import Run
from mmlight.runs.run.ids import RUN_ID
from mmlight.terminal import say


def check_data(card: Card, recipe: Recipe) -> None:
    """Refuse to train without the data of a card, saying where each part comes from.

    Raises:
        UserError: something that the experiment names is not here.
    """
    wanted = [n for n in card.data if not n.experiments or recipe.file in n.experiments]
    missing = [needed for needed in wanted if not Path(needed.path).exists()]
    if missing:
        listed = "; ".join(f"{needed.path} (from: {needed.source})" for needed in missing)
        raise UserError(f"card {card.name}, {recipe.file}: not here: {listed}")


def run_recipe(card: Card, recipe: Recipe, *, root: Path, more: Sequence[str]) -> tuple[str, ...]:
    """Train an experiment of a card, once for each seed, or as its folds.

    Args:
        card: the card.
        recipe: the experiment.
        root: the folder of all runs.
        more: further arguments of `mmlight fit`.

    Returns:
        What `mmlight papers record` takes: the runs, or the folder of the folds.

    Raises:
        UserError: a run fails.
    """
    files = [str(card.folder / file) for file in (recipe.file, *recipe.with_files)]
    given = [word for file in files for word in ("-c", file)]
    name, stamp = card.run_name(recipe), f"{datetime.now():%Y%m%d-%H%M%S}"
    where = ["--run.root", str(root), "--run.name", name]
    if recipe.folds:
        arguments = ["folds", *given, *recipe.folds, *where, "--run.id", stamp, *more]
        return (_train(arguments, Run(root / name / stamp)),)
    made = []
    for seed in recipe.seeds:
        run = Run(root / name / f"{stamp}-seed{seed}")
        seeds = ["--seed_everything", str(seed), "--data.seed", str(seed)]
        say(f"{card.name}, {recipe.file}: seed {seed} ({run.path})")
        arguments = ["fit", *given, *where, "--run.id", run.id, "--run.test", "true"]
        made.append(_train([*arguments, *seeds, *more], run))
    return tuple(made)


def _train(arguments: list[str], run: Run) -> str:
    with ends_on_term():
        ended = run_one(Command(arguments, environment={RUN_ID: run.id}))
    if ended.code:
        raise UserError(
            f"{run.label} ended with code {ended.code}; what was trained so far can be gone on "
            f"with (mmlight resume {run.label}) and recorded (mmlight papers record)"
        )
    return str(run.path)


def run_card(
    options: argparse.Namespace, record: Callable[[Card, Recipe, Sequence[str]], None]
) -> None:
    """Train what `mmlight papers run` names, and record it.

    Args:
        options: what it was given.
        record: records the runs of an experiment.

    Raises:
        UserError: no such card or experiment, data that is not here, or a run that fails.
    """
    name, slash, file = options.card.partition("/")
    (card,) = find_cards(options.papers, [name])
    recipes = [card.recipe(file)] if slash else list(card.recipes)
    for recipe in recipes:
        check_data(card, recipe)
    for recipe in recipes:
        record(card, recipe, run_recipe(card, recipe, root=options.root, more=options.more))
