"""The cards of this repository say what their files hold."""

import json
import re
from pathlib import Path

import pytest

from mmlight.runs.papers.card import find_cards, read_card
from mmlight.runs.papers.figures import figures
from mmlight.runs.papers.results import read_results

PAPERS = Path(__file__).parents[3] / "experiments" / "papers"
CARDS = find_cards(PAPERS) if any(PAPERS.glob("*/targets.json")) else []


def test_the_example_of_the_readme_is_a_card(tmp_path):
    text = re.search(r"```json\n(.*?)```", (PAPERS / "README.md").read_text(), re.DOTALL)[1]
    (tmp_path / "targets.json").write_text(text)
    for name in ("trec.yaml", "folds.yaml", "weights.yaml"):
        (tmp_path / name).write_text("")
    card = read_card(tmp_path)
    assert len(card.recipes) == len(json.loads(text)["experiments"])


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_readme_has_the_figures_of_the_card(card):
    """`mmlight papers readme` writes them."""
    readme = (card.folder / "README.md").read_text()
    assert figures(card) in readme
    assert readme.startswith("# ")
    assert len(re.findall(r"^## ", readme.partition("<!-- figures")[0], re.MULTILINE)) >= 1


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_results_are_of_the_card(card):
    known = {(target.experiment, target.metric) for target in card.targets}
    assert {(one.experiment, one.metric) for one in read_results(card)} <= known
