"""Draws a scene: two coloured shapes on a textured background, with their boxes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mmlight.data.scenes.scene import RELATIONS, SHAPES, Meaning, SceneRandom, Thing

IMAGE_SIZE = 64
# Drawn at this multiple and box-filtered: Pillow's polygons have hard edges.
OVERSAMPLING = 4
_RGB = {
    0: (214, 38, 40),
    1: (250, 138, 22),
    2: (246, 226, 48),
    3: (40, 158, 56),
    4: (64, 222, 226),
    5: (38, 76, 212),
    6: (146, 52, 178),
    7: (244, 244, 244),
}


@dataclass(frozen=True)
class Drawn:
    """A picture and where its objects are.

    Attributes:
        pixels: uint8 (H, W, 3).
        boxes: for each object, first then second, (x0, y0, x1, y1) in pixels; x1 and y1 lie just
            outside.
    """

    pixels: NDArray[np.uint8]
    boxes: list[tuple[int, int, int, int]]


def _arc(
    start: float, stop: float, *, radius: float = 1.0, centre_x: float = 0.0
) -> NDArray[np.float64]:
    angle = np.radians(np.linspace(start, stop, 40))
    return np.stack([centre_x + radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _spiked(radii: list[float], *, turn: float) -> NDArray[np.float64]:
    angle = np.radians(turn) + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.asarray(radii)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0, 2 * np.pi, 60)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2.5
    return np.stack([x, y], axis=1) / 16


def _cross() -> NDArray[np.float64]:
    arm = 0.34
    corner = np.array([[arm, -1.0], [arm, -arm], [1.0, -arm], [1.0, arm]])
    turns = [
        np.array([[np.cos(q), np.sin(q)], [-np.sin(q), np.cos(q)]])
        for q in np.arange(4) * np.pi / 2
    ]
    return np.concatenate([corner[:3] @ turn for turn in turns])


# Outlines within a circle of radius 1, y downwards. The ring's hole hangs on a seam of no width.
_OUTLINES = {
    "circle": _arc(0, 360, radius=0.92),
    "square": _spiked([1.12] * 4, turn=45),
    "triangle": _spiked([1.15] * 3, turn=-90),
    "star": _spiked([1.12, 0.46] * 5, turn=-90),
    "cross": _cross(),
    "heart": _heart(),
    "ring": np.concatenate([_arc(0, 360), _arc(360, 0, radius=0.55)]),
    "moon": np.concatenate([_arc(50, 310), _arc(292, 68, radius=0.83, centre_x=0.33)]),
}
# Degrees each way. A square turned by 45 degrees would still be one, a moon by 180 is a moon too.
_MAX_TURN = {"circle": 180, "ring": 180, "square": 20, "triangle": 25, "star": 36, "cross": 20}


def _background(draws: SceneRandom) -> NDArray[np.float32]:
    """Return float32 (H, W, 3): a dull colour, coarse and middling blotches, a gradient."""
    base = draws.uniform(45, 140) + 14 * draws.noise(3)
    picture = np.broadcast_to(base, (IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.float32)
    for cells, strength in ((4, 22.0), (14, 16.0)):
        grid = draws.noise(cells, cells, 3) * 0.5 + draws.noise(cells, cells, 1)
        grid = np.clip(127.5 + 80 * grid, 0, 255).astype(np.uint8)
        smooth = Image.fromarray(grid).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        picture = picture + strength * (np.asarray(smooth, dtype=np.float32) / 127.5 - 1)
    ramp = np.linspace(-1, 1, IMAGE_SIZE, dtype=np.float32)
    slope_x, slope_y = draws.uniform(-18, 18), draws.uniform(-18, 18)
    return picture + (slope_x * ramp[None, :] + slope_y * ramp[:, None])[..., None]


def _place(meaning: Meaning, draws: SceneRandom) -> list[tuple[float, float, float]]:
    """Return (x, y, radius) in pixels of both objects, apart from each other and inside."""
    radii = [draws.uniform(7.5, 11.5) for _ in range(2)]
    # The outlines reach to 1.15 of the radius, turned ones included.
    reach = [1.16 * r + 1 for r in radii]
    gap = draws.uniform(reach[0] + reach[1] - 1, IMAGE_SIZE - reach[0] - reach[1])
    start = draws.uniform(reach[0], IMAGE_SIZE - reach[1] - gap)
    # Off the axis by less than half of the way along it, so that the relation is unmistakable.
    side = gap * draws.uniform(-0.45, 0.45)
    low = max(reach[0], reach[1] - side)
    other = draws.uniform(low, min(IMAGE_SIZE - reach[0], IMAGE_SIZE - reach[1] - side))
    along = [start, start + gap]
    across = [other, other + side]
    if RELATIONS[meaning.relation] == "left":
        return list(zip(along, across, radii, strict=True))
    return list(zip(across, along, radii, strict=True))


def _mask(thing: Thing, *, x: float, y: float, radius: float, draws: SceneRandom) -> Image.Image:
    name = SHAPES[thing.shape]
    turn = np.radians(_MAX_TURN.get(name, 30) * draws.uniform(-1, 1))
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    stretch = 1 + 0.08 * draws.noise(2)
    points = (_OUTLINES[name] * stretch) @ rotation * radius + np.array([x, y])
    large = Image.new("L", (IMAGE_SIZE * OVERSAMPLING, IMAGE_SIZE * OVERSAMPLING))
    corners = np.round(points * OVERSAMPLING, 3)
    ImageDraw.Draw(large).polygon([(float(px), float(py)) for px, py in corners], fill=255)
    return large.reduce(OVERSAMPLING)


def draw(meaning: Meaning, draws: SceneRandom) -> Drawn:
    """Draw `meaning` with random places, sizes, turns, shades and background."""
    picture = _background(draws)
    boxes = []
    for thing, place in zip((meaning.first, meaning.second), _place(meaning, draws), strict=True):
        picture, box = _paint(picture, thing, place, draws)
        boxes.append(box)
    return Drawn(_finished(picture, draws), boxes)


def draw_frames(meaning: Meaning, draws: SceneRandom, *, count: int) -> list[NDArray[np.uint8]]:
    """Draw a video of `meaning`: first one object moves through the scene, then the other.

    No frame shows both, so that none says all of what is in the scene.

    Args:
        meaning: the scene.
        draws: its random numbers.
        count: frames, 2 or more.
    """
    still, places = _background(draws), _place(meaning, draws)
    ways = [(draws.uniform(-1, 1), draws.uniform(-1, 1)) for _ in places]
    frames = []
    for number in range(count):
        which = 2 * number // count
        (x, y, radius), (way_x, way_y) = places[which], ways[which]
        low, high = 1.16 * radius + 1, IMAGE_SIZE - 1.16 * radius - 1
        at = [min(max(v + 2 * number * way, low), high) for v, way in ((x, way_x), (y, way_y))]
        thing = (meaning.first, meaning.second)[which]
        frames.append(_finished(_paint(still, thing, (*at, radius), draws)[0], draws))
    return frames


def _paint(
    picture: NDArray[np.float32], thing: Thing, place: tuple[float, ...], draws: SceneRandom
) -> tuple[NDArray[np.float32], tuple[int, int, int, int]]:
    x, y, radius = place
    mask = _mask(thing, x=x, y=y, radius=radius, draws=draws)
    box = mask.point(lambda level: 255 if level >= 128 else 0).getbbox()
    assert box is not None
    paint = np.asarray(_RGB[thing.colour], dtype=np.float32) + 12 * draws.noise(3)
    paint = paint * np.float32(draws.uniform(0.88, 1.04))
    opacity = (np.asarray(mask, dtype=np.float32) / np.float32(255))[..., None]
    return picture + (paint - picture) * opacity, box


def _finished(picture: NDArray[np.float32], draws: SceneRandom) -> NDArray[np.uint8]:
    picture = picture + 9 * draws.noise(IMAGE_SIZE, IMAGE_SIZE, 1)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
