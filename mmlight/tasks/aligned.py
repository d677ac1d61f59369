"""A contrastive task that begins with another's: towers, projections and objective."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from mmlight.errors import UserError
from mmlight.modality import MODALITIES, Modality
from mmlight.objectives.clip import Clip
from mmlight.objectives.objective import Objective
from mmlight.objectives.pair_objective import PairObjective
from mmlight.published.read import read_model
from mmlight.saved.checkpoint import Saved
from mmlight.saved.rebuild import rebuild, rebuild_settings
from mmlight.tasks.source import Source, described_towers, take_source, under
from mmlight.tasks.tower import Towers, TowerSettings

_KEY = "model.from_pretrained"


@dataclass(frozen=True)
class Aligned:
    """A model that a contrastive task begins with.

    Attributes:
        path: what it was read from.
        saved: the model.
    """

    path: Path
    saved: Saved

    @property
    def embed_dim(self) -> int:
        """Width of its joint space."""
        width = self._arguments.get("embed_dim")
        return width if type(width) is int else 512

    @property
    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = self.saved.description["init_args"]
        return arguments

    def towers(self, given: Towers) -> Towers:
        """Return the towers of a task: its own settings, and where they say nothing the model's."""
        there = described_towers(self.saved)
        merged: dict[str, TowerSettings | None] = {}
        for name in MODALITIES:
            own = getattr(given, name)
            if name in there:
                own = own or TowerSettings()
                if own.projection is None and isinstance(there[name], Mapping):
                    fields = {"projection": there[name].get("projection")}
                    theirs: TowerSettings = rebuild_settings(
                        fields, TowerSettings, key=f"{_KEY}: towers.{name}"
                    )
                    own = replace(own, projection=theirs.projection)
            merged[name] = own
        return Towers(**merged)

    @property
    def objective_description(self) -> Any:
        """What its description says of its objective; None where that is the default."""
        return self._arguments.get("objective")

    def objective(self) -> Callable[[], Objective]:
        """Return what makes its objective, with the values it began with."""
        described = self.objective_description
        if described is None:
            return Clip
        return lambda: cast(Objective, rebuild(described, base=Objective))

    def sources(self, towers: Towers) -> dict[Modality, Source]:
        """Return its towers, for those of a task that are not taken from elsewhere."""
        there = described_towers(self.saved)
        return {
            name: take_source(
                self.saved,
                name,
                path=self.path,
                key=_KEY,
                changes=settings.changes,
                is_whole=True,
            )
            for name, settings in towers.given().items()
            if name in there and settings.from_run is None
        }

    @torch.no_grad()
    def load_objective(self, objective: Objective) -> str:
        """Give an objective what the model's learned: its temperature, its bias.

        Args:
            objective: of the task, built; another than the model's takes what both have. Of several
                pairs those that the model has are filled.

        Returns:
            A line that says what was taken.
        """
        tensors = under(self.saved.tensors, "objective.")
        theirs = self.objective()()
        theirs.build(cast(Any, tuple(described_towers(self.saved))))
        taken = []
        for name, parameter in objective.named_parameters():
            if name not in tensors or not isinstance(objective, PairObjective):
                continue
            pairs = theirs.pairs if isinstance(theirs, PairObjective) else ()
            rows = {frozenset((p.first, p.second)): row for row, p in enumerate(pairs)}
            if tensors[name].shape != (len(pairs),):
                raise UserError(
                    f"{_KEY}: objective.{name} of {self.path} has shape "
                    f"{tuple(tensors[name].shape)}, not {(len(pairs),)}"
                )
            for row, pair in enumerate(objective.pairs):
                if (other := rows.get(frozenset((pair.first, pair.second)))) is not None:
                    parameter[row] = tensors[name][other]
            taken.append(name)
        return f"objective: {', '.join(taken) or 'nothing'} of {self.path}"


def read_aligned(given: str) -> Aligned:
    """Read a model to begin with.

    Args:
        given: as for `mmlight.published.read.read_model`.

    Raises:
        UserError: it cannot be read, or has fewer than two towers.
    """
    path, saved = read_model(given, key=_KEY)
    towers = described_towers(saved)
    if len(towers) < 2:
        raise UserError(
            f"{_KEY}: {given} has {', '.join(towers) or 'no'} tower alone, and no joint space; "
            f"take it with model.towers.{next(iter(towers), 'MODALITY')}.from_run"
        )
    return Aligned(path, saved)
