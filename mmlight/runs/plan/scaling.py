"""Power laws through runs of several sizes: how much more of something lowers an error.

Both axes are taken as logarithms, as the sources do. Shapes: N runs, K points of an envelope.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from mmlight.errors import UserError

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """``y = floor + scale * x ** -exponent``.

    Attributes:
        scale: y above the floor at x = 1.
        exponent: how fast it falls.
        floor: what no x gets below.
    """

    scale: float
    exponent: float
    floor: float = 0.0

    def at(self, x: npt.ArrayLike) -> Numbers:
        """Return y at some x."""
        return self.floor + self.scale * np.asarray(x, np.float64) ** -self.exponent

    def __str__(self) -> str:
        """Return it as people write it."""
        floor = f" + {self.floor:.4g}" if self.floor else ""
        return f"{self.scale:.4g} C^{-self.exponent:.4g}{floor}"


@dataclass(frozen=True)
class Points:
    """Points that a law goes through: x (K,) and y (K,)."""

    x: Numbers
    y: Numbers


def lower_envelope(
    x: npt.ArrayLike, y: npt.ArrayLike, *, bins: int = 5, at_centres: bool = False
) -> Points:
    """Return the best of each part of the range of x: what a well-chosen run of that size reaches.

    Args:
        x: compute, or what else is scaled (N,).
        y: error (N,).
        bins: into how many equal parts the range of log x is cut; those without a run are left out.
        at_centres: give the middle of each part as x, not the best run's own: the way of LAION's
            figures (arXiv 2212.07143), whose range also goes on by 0.1 of a decade.
    """
    return _envelope(_log(x, "x"), _log(y, "y"), _log(x, "x"), bins=bins, at_centres=at_centres)


def fit_power_law(points: Points, *, with_floor: bool = False) -> PowerLaw:
    """Fit by least squares of log y.

    Args:
        points: two or more, with a floor four or more.
        with_floor: also fit what no x gets below; it is at least 0.

    Raises:
        UserError: too few points.
    """
    log_x, log_y = _log(points.x, "x"), _log(points.y, "y")
    needed = 4 if with_floor else 2
    if len(np.unique(log_x)) < needed:
        raise UserError(f"a power law needs {needed} sizes or more; there are {len(log_x)} points")
    slope, intercept = np.polyfit(log_x, log_y, 1)
    plain = PowerLaw(float(np.exp(intercept)), float(-slope))
    if not with_floor:
        return plain

    # In the middle of the points, where scale and exponent hardly depend on one another.
    middle, lowest = log_x.mean(), float(points.y.min())

    def residuals(given: Numbers) -> Numbers:
        above, exponent, share = given
        return np.log(lowest * share + np.exp(above - exponent * (log_x - middle))) - log_y

    best = min(
        (
            least_squares(
                residuals,
                [log_y.mean(), max(plain.exponent, 1e-3), share],
                bounds=([-np.inf, 0, 0], [np.inf, np.inf, 1]),
                x_scale=[1, 0.1, 0.1],
            )
            for share in (0.05, 0.5, 0.9)
        ),
        key=lambda found: found.cost,
    )
    above, exponent, share = (float(value) for value in best.x)
    return PowerLaw(float(np.exp(above + exponent * middle)), exponent, lowest * share)


@dataclass(frozen=True)
class Prediction:
    """What a law says of one x.

    Attributes:
        y: the law itself.
        low: bound of the interval from below.
        high: from above.
    """

    y: float
    low: float
    high: float


@dataclass(frozen=True)
class ScalingFit:
    """A law with what drawing the runs again says of it.

    Attributes:
        law: through the runs as they are.
        draws: the laws of runs that were drawn with replacement.
        residuals_K: log y of the points above the law.
    """

    law: PowerLaw
    draws: tuple[PowerLaw, ...]
    residuals_K: Numbers

    def band(self, x: npt.ArrayLike, *, level: float = 0.95) -> tuple[Numbers, Numbers]:
        """Return between which y the law itself lies."""
        y_draws = np.stack([law.at(x) for law in self.draws])
        low, high = np.quantile(y_draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return low, high

    def predict(self, x: float, *, level: float = 0.95, seed: int = 0) -> Prediction:
        """Return what one further run of this size will reach; its own scatter counts too."""
        rng = np.random.default_rng(seed)
        # Of few points the residuals themselves say too little about the largest ones.
        freedom = max(1, len(self.residuals_K) - (3 if self.law.floor else 2))
        spread = np.sqrt(np.square(self.residuals_K).sum() / freedom)
        scatter = spread * rng.standard_t(freedom, size=(len(self.draws), 20))
        y = np.array([law.at(x) for law in self.draws])[:, None] * np.exp(scatter)
        low, high = np.quantile(y, [(1 - level) / 2, (1 + level) / 2])
        return Prediction(float(self.law.at(x)), float(low), float(high))


def fit_scaling(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    bins: int | None = 5,
    at_centres: bool = False,
    with_floor: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> ScalingFit:
    """Fit a power law to runs, or to the best of them, with its bootstrap.

    Args:
        x: compute, or what else is scaled (N,).
        y: error (N,).
        bins: see `lower_envelope`; None fits every run.
        at_centres: likewise.
        with_floor: see `fit_power_law`.
        draws: how often runs are drawn again.
        seed: of these draws.

    Raises:
        UserError: values that are not above 0, or too few runs.
    """
    log_x, log_y = _log(x, "x"), _log(y, "y")
    if len(log_x) != len(log_y):
        raise UserError(f"a scaling fit needs pairs, not {len(log_x)} x and {len(log_y)} y")

    def points(rows: npt.NDArray[np.intp]) -> Points:
        if bins is None:
            return Points(np.exp(log_x[rows]), np.exp(log_y[rows]))
        return _envelope(log_x[rows], log_y[rows], log_x, bins=bins, at_centres=at_centres)

    all_points = points(np.arange(len(log_x)))
    law = fit_power_law(all_points, with_floor=with_floor)
    rng = np.random.default_rng(seed)
    laws = _bootstrap(
        lambda: points(rng.integers(len(log_x), size=len(log_x))),
        draws=draws,
        with_floor=with_floor,
    )
    residuals_K = np.log(all_points.y) - np.log(law.at(all_points.x))
    return ScalingFit(law, laws, residuals_K)


def _bootstrap(draw: Callable[[], Points], *, draws: int, with_floor: bool) -> tuple[PowerLaw, ...]:
    laws: list[PowerLaw] = []
    for _ in range(20 * draws):
        if len(laws) == draws:
            break
        drawn = draw()
        if len(np.unique(drawn.x)) >= (4 if with_floor else 2):
            laws.append(fit_power_law(drawn, with_floor=with_floor))
    if len(laws) < draws:
        raise UserError("a scaling fit has too few runs to draw them again; add sizes")
    return tuple(laws)


def _envelope(
    log_x: Numbers, log_y: Numbers, all_log_x: Numbers, *, bins: int, at_centres: bool
) -> Points:
    high = all_log_x.max() + (0.1 * np.log(10) if at_centres else 0.0)
    edges = np.linspace(all_log_x.min(), high, bins + 1)
    part_N = np.searchsorted(edges[1:-1], log_x, side="right")
    xs, ys = [], []
    for part in np.unique(part_N):
        rows = np.flatnonzero(part_N == part)
        best = rows[np.argmin(log_y[rows])]
        xs.append((edges[part] + edges[part + 1]) / 2 if at_centres else log_x[best])
        ys.append(log_y[best])
    return Points(np.exp(np.array(xs)), np.exp(np.array(ys)))


def _log(values: npt.ArrayLike, name: str) -> Numbers:
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.all(numbers > 0):
        raise UserError(f"a scaling fit needs {name} above 0 for every run")
    return np.log(numbers)
