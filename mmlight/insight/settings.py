"""What can be asked of an explanation; imports nothing heavy, since every command reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from mmlight.errors import UserError, nearest

Method = Literal["attention", "rollout", "grad_cam", "integrated_gradients"]
METHODS: tuple[Method, ...] = get_args(Method)
ImageBlank = Literal["mean", "black", "blurred"]


@dataclass(frozen=True)
class ExplainSettings:
    """What is explained, and how finely; see `mmlight.callbacks.showing.explain.Explain`.

    Attributes:
        methods: by which methods; None takes those that suit a tower.
        num_samples: number of samples.
        target: which class of a classifier.
        image_blank: what an image becomes where something is taken away.
        gradient_steps: most points of the integral of integrated gradients.
        curve_steps: steps of deletion and insertion curves.
        random_orders: random orders that an explanation is compared with.
        batch_size: versions of a sample that go through the model at once.
        seed: seed of the random orders.
    """

    methods: Sequence[Method] | None = None
    num_samples: int = 16
    target: Literal["predicted", "true"] = "predicted"
    image_blank: ImageBlank = "mean"
    gradient_steps: int = 512
    curve_steps: int = 16
    random_orders: int = 3
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range, and methods for which a package is missing."""
        for name in self.methods or ():
            if name not in METHODS:
                raise UserError(f"explain.methods: no '{name}'{nearest(name, METHODS)}")
        if self.methods is not None and not self.methods:
            raise UserError(f"explain.methods is empty; name some of {', '.join(METHODS)}")
        for key in ("num_samples", "gradient_steps", "curve_steps", "random_orders", "batch_size"):
            if getattr(self, key) < 1:
                raise UserError(f"explain.{key} is {getattr(self, key)}; it must be 1 or more")
        if self.image_blank not in get_args(ImageBlank):
            raise UserError(f"explain.image_blank: use one of {', '.join(get_args(ImageBlank))}")
        integrates = self.methods is None or "integrated_gradients" in self.methods
        if integrates and find_spec("captum") is None:
            raise UserError(
                "explain: integrated_gradients needs captum; install it with "
                "pip install 'mmlight[explain]', or name other explain.methods"
            )
