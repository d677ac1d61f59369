"""Whether an explanation is true to the model: deletion and insertion curves.

Shapes: U units of a sample, N points of a curve.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mmlight.insight.subject import Subject
from mmlight.insight.units import Units
from mmlight.runs.plots.faithfulness import Curves


def deletion_and_insertion(
    subject: Subject, units: Units, order_U: Tensor, blank: Tensor, *, num_steps: int = 16
) -> Curves:
    """Take units away in an order, and put them into a blank sample in the same order.

    The paper inserts into a blurred image and deletes to a constant one; here both use `blank`.

    Args:
        subject: the sample and the question.
        units: its parts.
        order_U: the units' numbers, most important first.
        blank: what stands where a unit was taken away, laid out as the canvas.
        num_steps: steps of a curve, at most the number of units.
    """
    count = units.count
    steps = min(num_steps, count)
    taken_N = torch.linspace(0, count, steps + 1).round().long()
    rank_U = torch.empty_like(order_U)
    rank_U[order_U] = torch.arange(count, device=order_U.device)
    first_NU = rank_U < taken_N.to(order_U.device).unsqueeze(1)
    first = subject.canvas.spread(units.places(first_NU).float()).bool()
    values = subject.canvas.values
    # Places of no unit (start and end tokens, padding) are the same in both.
    confidence = subject.confidence(
        torch.cat([torch.where(first, blank, values), torch.where(first, values, blank)])
    )
    deletion_N, insertion_N = confidence.float().cpu().numpy().reshape(2, -1)
    return Curves(taken_N.numpy() / count, deletion_N, insertion_N)


def random_curves(
    subject: Subject, units: Units, blank: Tensor, *, num_orders: int, seed: int, num_steps: int
) -> Curves:
    """Return the mean curves of random orders: what an explanation must beat.

    Args:
        subject: the sample and the question.
        units: its parts.
        blank: see `deletion_and_insertion`.
        num_orders: number of orders.
        seed: seed of the orders.
        num_steps: see `deletion_and_insertion`.
    """
    generator = torch.Generator().manual_seed(seed)
    device = units.number_RK.device
    orders = [torch.randperm(units.count, generator=generator) for _ in range(num_orders)]
    return mean_curves(
        [
            deletion_and_insertion(subject, units, order.to(device), blank, num_steps=num_steps)
            for order in orders
        ],
        num_points=None,
    )


def mean_curves(curves: Sequence[Curves], *, num_points: int | None = 21) -> Curves:
    """Return the mean of curves.

    Args:
        curves: one or more; short captions have fewer points than long ones.
        num_points: evenly spaced points of the mean; None where all curves have the same points.
    """
    at_N = curves[0].fraction_N if num_points is None else np.linspace(0, 1, num_points)
    return Curves(
        at_N,
        np.mean([np.interp(at_N, c.fraction_N, c.deletion_N) for c in curves], axis=0),
        np.mean([np.interp(at_N, c.fraction_N, c.insertion_N) for c in curves], axis=0),
    )
