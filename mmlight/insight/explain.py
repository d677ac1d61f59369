"""Explains one sample by several methods, each with its faithfulness.

Shapes: U units, R rows and K columns of a canvas, H heads.
"""

from dataclasses import dataclass

import numpy as np
import torch

from mmlight.errors import UserError
from mmlight.insight.attention import (
    Attention,
    attention_maps,
    last_attention,
    pooled_by_head,
    rollout,
)
from mmlight.insight.blank import blank_canvas
from mmlight.insight.faithfulness import deletion_and_insertion, random_curves
from mmlight.insight.gradients import grad_cam, integrated_gradients
from mmlight.insight.settings import METHODS, ExplainSettings, Method
from mmlight.insight.subject import Subject
from mmlight.insight.units import Tokens, lay_tokens_over, units_of
from mmlight.runs.plots.faithfulness import Curves

# Grad-CAM is about maps; of the features of tokens it says little.
_TEXT_METHODS: tuple[Method, ...] = ("attention", "rollout", "integrated_gradients")


@dataclass(frozen=True)
class Attribution:
    """What one method says of a sample.

    Attributes:
        method: its name.
        importance_U: a number for each unit; above 0 speaks for the answer.
        map_RK: its density on the canvas; NaN where there is no unit.
        curves: what the model says as units go and come in this order.
        gap: for integrated gradients, the part by which they miss the score's difference.
    """

    method: Method
    importance_U: np.ndarray
    map_RK: np.ndarray
    curves: Curves
    gap: float | None = None


@dataclass(frozen=True)
class Explanation:
    """What all methods say of a sample.

    Attributes:
        about: the answer that is explained.
        confidence: what the model says of the whole sample.
        attributions: one per method.
        random: what random orders reach.
        canvas_RK: what the network reads, averaged over channels or features.
        heads: attention of the pooled tokens, (layers, H, R, K) on the canvas; None without any.
    """

    about: str
    confidence: float
    attributions: list[Attribution]
    random: Curves
    canvas_RK: np.ndarray
    heads: np.ndarray | None


def explain(
    subject: Subject, settings: ExplainSettings, *, tokens: Tokens | None = None, seed: int = 0
) -> Explanation:
    """Explain one sample.

    Args:
        subject: the sample and the question; the model in evaluation mode.
        settings: by which methods and how finely. Where no methods are named, it is those that suit
            the encoder (Grad-CAM for images and sounds only).
        tokens: how the caption was cut, for text.
        seed: seed of the random orders.

    Raises:
        UserError: a method that does not suit the encoder.
    """
    canvas, steps = subject.canvas, settings.curve_steps
    units = units_of(subject.encoder, canvas, tokens=tokens)
    blank = blank_canvas(subject, image_blank=settings.image_blank, tokens=tokens)
    suitable = _TEXT_METHODS if subject.modality == "text" else METHODS
    attention: Attention | None = None
    attributions = []
    for method in suitable if settings.methods is None else settings.methods:
        gap = None
        try:
            if method == "integrated_gradients":
                integrated = integrated_gradients(
                    subject, blank, most_steps=settings.gradient_steps
                )
                map_RK, gap = integrated.map_RK, integrated.gap
            elif method == "grad_cam":
                map_RK = grad_cam(subject)
            else:
                attention = attention or attention_maps(subject.encoder, subject.inputs)
                flow_BL = rollout(attention) if method == "rollout" else last_attention(attention)
                map_RK = lay_tokens_over(flow_BL[0], attention.grid, canvas)
        except UserError:
            if settings.methods is not None:
                raise
            continue
        means_U = units.means(map_RK)
        # Only of integrated gradients the sum has a meaning.
        importance_U = means_U if gap is None else units.sums(map_RK)
        order_U = importance_U.argsort(descending=True, stable=True)
        curves = deletion_and_insertion(subject, units, order_U, blank, num_steps=steps)
        painted_RK = units.paint(means_U.cpu().numpy())
        attributions.append(
            Attribution(method, importance_U.cpu().numpy(), painted_RK, curves, gap)
        )
    return Explanation(
        about=subject.question.about,
        confidence=float(subject.confidence(canvas.values)),
        attributions=attributions,
        random=random_curves(
            subject,
            units,
            blank,
            num_orders=settings.random_orders,
            seed=seed,
            num_steps=steps,
        ),
        canvas_RK=_mean_map(subject),
        heads=None if attention is None else _heads(attention, subject),
    )


def _heads(attention: Attention, subject: Subject) -> np.ndarray:
    by_head = pooled_by_head(attention)[:, 0]
    maps = [
        lay_tokens_over(tokens_L, attention.grid, subject.canvas)
        for tokens_L in by_head.flatten(0, 1)
    ]
    return torch.stack(maps).unflatten(0, by_head.shape[:2]).cpu().numpy()


def _mean_map(subject: Subject) -> np.ndarray:
    canvas = subject.canvas
    depth = canvas.values[0].numel() // (canvas.rows * canvas.columns)
    mean_RK: np.ndarray = (canvas.to_map(canvas.values)[0] / depth).cpu().numpy()
    return mean_RK
