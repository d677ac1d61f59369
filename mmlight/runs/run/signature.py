"""The id of an experiment: equal for equal settings, so that none is launched twice unawares."""

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from mmlight.files import plain

# Where a run lives, who hears of it, and on what and how fast it runs: not what is computed.
LEFT_OUT = (
    "run",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.enable_progress_bar",
    "data.init_args.num_workers",
    "data.init_args.allow_changed",
)
_DIGITS = 8


SEED = "seed_everything"


def setting(config: Mapping[str, Any]) -> str:
    """Return a key that runs share which differ in nothing but their seeds.

    Args:
        config: the configuration with every default filled in.
    """
    return signature(_without_seeds(config))


def _without_seeds(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_seeds(v) for k, v in value.items() if k not in ("seed", SEED)}
    return [_without_seeds(v) for v in value] if isinstance(value, list) else value


def signature(config: Mapping[str, Any]) -> str:
    """Return the signature of an experiment, 8 hexadecimal digits.

    It is a hash of the resolved configuration, the seed included, but for `LEFT_OUT`. The code is
    not part of it: with changed code an experiment is launched again when asked to.

    Args:
        config: the configuration with every default filled in.
    """
    values = deepcopy(dict(config))
    for key in LEFT_OUT:
        *above, last = key.split(".")
        place: Any = values
        for part in above:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    text = json.dumps(plain(values), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
