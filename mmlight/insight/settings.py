"""What can be asked of an explanation; imports nothing heavy, since every command reads it."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, get_args

from mmlight.errors import UserError

Method = Literal["attention", "rollout", "grad_cam", "integrated_gradients"]
METHODS: tuple[Method, ...] = get_args(Method)
ImageBlank = Literal["mean", "black", "blurred"]


@dataclass(frozen=True)
class Effort:
    """How finely to look.

    Attributes:
        gradient_steps: most points of the integral of integrated gradients.
        curve_steps: steps of deletion and insertion curves.
        random_orders: random orders that an explanation is compared with.
    """

    gradient_steps: int = 512
    curve_steps: int = 16
    random_orders: int = 3


@dataclass(frozen=True)
class Asked:
    """What is to be explained; see `mmlight.callbacks.showing.explain.Explain`.

    Attributes:
        methods: by which methods; None takes those that suit a tower.
        num_samples: number of samples.
        target: which class of a classifier.
        image_blank: what an image becomes where something is taken away.
        effort: how finely.
        batch_size: versions of a sample that go through the model at once.
        seed: seed of the random orders.
    """

    methods: list[Method] | None
    num_samples: int
    target: Literal["predicted", "true"]
    image_blank: ImageBlank
    effort: Effort
    batch_size: int
    seed: int


def require_captum() -> None:
    """Raise UserError unless captum is installed."""
    if find_spec("captum") is None:
        raise UserError(
            "explain: integrated_gradients needs captum; install it with "
            "pip install 'mmlight[explain]', or name other explain.methods"
        )
