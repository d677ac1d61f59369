"""What the recipes of papers' cards are foretold to cost on a device."""

from collections.abc import Sequence
from pathlib import Path

from mmlight.commands.cost import CostOptions, foretell_experiment
from mmlight.costs.rates import find_device
from mmlight.errors import UserError
from mmlight.experiment.absent import assemble_absent
from mmlight.runs.papers.card import Card, devices_of
from mmlight.runs.papers.figures import Cost
from mmlight.terminal import note


def foretell_cards(cards: Sequence[Card], *, device: str) -> dict[Path, Cost]:
    """Return the cost of each recipe by its path; no data has to be there.

    It is that of one run: a recipe has several seeds or folds.

    Args:
        cards: the cards.
        device: as `mmlight cost --device` calls it.

    Raises:
        UserError: no such device.
    """
    find_device(device)
    found: dict[Path, Cost] = {}
    recipes = [(card, recipe) for card in cards for recipe in card.recipes]
    for place, (card, recipe) in enumerate(recipes):
        note(f"{place + 1} of {len(recipes)}: {card.name}/{recipe.stem}")
        path = card.path(recipe)
        try:
            experiment, _ = assemble_absent(["-c", str(path)])
            count = devices_of(card, recipe, batch=experiment.data.global_batch_size)
            count = 1 if device == "cpu" else count
            options = CostOptions(device, count, samples=recipe.samples, is_blank=True)
            foretold = foretell_experiment(experiment, experiment.task, options=options)
        except UserError as error:
            found[path] = Cost(None, None, None, None, note=str(error))
            continue
        gib = sum(foretold.memory_ddp.values()) / 2**30
        found[path] = Cost(count, foretold.device_hours, foretold.kwh, gib)
    return found
