"""The metric of scenes in experiments/own says which attribute a caption gets right."""

import sys
from pathlib import Path

import pytest

OWN = Path(__file__).parents[2] / "experiments" / "own"


def test_attributes_are_counted_in_their_places(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(OWN), *sys.path])
    from scene_words import SceneWords

    metric = SceneWords()
    metric.update(
        ["a red star to the left of a blue ring", "a cyan moon above a white heart", ""],
        [
            ["a red star to the left of a blue moon"],
            ["a white moon to the left of a cyan heart"],
            ["a red ring above a red star"],
        ],
    )
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx(
        {"colours_accuracy": 2 / 6, "shapes_accuracy": 3 / 6, "relation_accuracy": 1 / 3}
    )
