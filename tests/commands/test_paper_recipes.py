"""Every recipe of every card passes `mmlight fit --dry_run`; a test for each YAML."""

from pathlib import Path

import cli_data
import pytest

from mmlight.experiment.parser import resolve
from mmlight.runs.papers.card import FOLDER, devices_of, find_cards

ROOT = Path(__file__).parents[2]
CARDS = find_cards(ROOT / FOLDER)
# Some 4 s of CPU time each: the first of each card here, all others among the slow tests. A GRU is
# counted frame by frame, which takes a minute.
_SLOW = ("an4_ctc",)
RECIPES = [
    pytest.param(
        card,
        recipe,
        id=f"{card.name}/{recipe.stem}",
        marks=[pytest.mark.slow] if place or card.name in _SLOW else [],
    )
    for card in CARDS
    for place, recipe in enumerate(card.recipes)
]


@pytest.mark.parametrize(("card", "recipe"), RECIPES)
def test_the_recipe_passes_a_dry_run(card, recipe, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a fetch would fail
    path = card.path(recipe).relative_to(ROOT)
    config, _ = resolve(["fit", "-c", str(path)])
    devices = devices_of(card, recipe, batch=config["data"]["init_args"]["global_batch_size"])
    samples = ["--samples", recipe.samples] if recipe.samples else []
    code = cli_data.run_in_process(
        *("fit", "--dry_run", "-c", path, "--device", "h100", "--devices", devices, *samples)
    )
    said = capsys.readouterr()
    assert code == 0, said.err
    for part in ("parameters", "memory of each device", "samples a step"):
        assert part in said.out


def test_every_yaml_of_a_card_is_run_or_goes_with_one():
    for card in CARDS:
        named = {file for recipe in card.recipes for file in (recipe.file, *recipe.with_files)}
        folder = {path.name for path in card.folder.glob("*.yaml")}
        assert folder <= named | {"parity.yaml"}, card.name
