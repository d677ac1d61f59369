"""Questions about a scene, by type, with their answers.

A question names objects as its split knows them: training never hears of a combination of colour
and shape that is kept out of it, which would be told apart by always being absent.
"""

from collections.abc import Callable
from dataclasses import dataclass

from mmlight.data.scenes.scene import (
    COLOURS,
    RELATIONS,
    SHAPES,
    Meaning,
    SceneRandom,
    Thing,
    things,
)

# For the first and the second object of a scene, by relation.
_SIDES = {"left": ("left", "right"), "above": ("above", "below")}
_AT = {"left": ("on the left", "on the right"), "above": ("at the top", "at the bottom")}
_NUMBERS = ("zero", "one", "two")
_PLACES = tuple(side for pair in _SIDES.values() for side in pair)
ANSWERS = (*COLOURS, *SHAPES, *_PLACES, *_NUMBERS, "yes", "no")


@dataclass(frozen=True)
class Asked:
    """A question, its answer, and its type.

    Answers are out of `ANSWERS` and types out of `TYPES`, unless a description is asked for.
    """

    question: str
    answer: str
    type: str


def ask(meaning: Meaning, draws: SceneRandom, *, number: int) -> Asked:
    """Return the question of this number about a scene; types follow one another.

    Args:
        meaning: the scene.
        draws: random numbers of its own.
        number: from 0.
    """
    kind = TYPES[number % len(TYPES)]
    question, answer = _MAKERS[kind](meaning, draws)
    return Asked(question, answer, kind)


def describe(meaning: Meaning, draws: SceneRandom) -> Asked:
    """Return the question what there is to be seen, and one of the scene's captions."""
    said = meaning.captions()
    return Asked("what do you see?", said[draws.below(len(said))], "description")


def told(asked: Asked, meaning: Meaning, draws: SceneRandom) -> str:
    """Return a question behind a sentence that says what the scene shows."""
    said = meaning.captions()
    return f"{said[draws.below(len(said))]}. {asked.question}"


def _pair(meaning: Meaning, draws: SceneRandom) -> tuple[Thing, Thing, int]:
    """Return one of the two objects, the other, and the place of the first in the scene."""
    place = draws.below(2)
    both = (meaning.first, meaning.second)
    return both[place], both[1 - place], place


def _name(thing: Thing, other: Thing, draws: SceneRandom) -> str:
    """Return what tells an object apart from the other one."""
    names = [thing.name]
    if thing.shape != other.shape:
        names.append(SHAPES[thing.shape])
    if thing.colour != other.colour:
        names.append(f"{COLOURS[thing.colour]} thing")
    return names[draws.below(len(names))]


def _at(meaning: Meaning, place: int) -> str:
    return _AT[RELATIONS[meaning.relation]][place]


def _either(draws: SceneRandom, *phrases: str) -> str:
    return phrases[draws.below(len(phrases))]


def _colour(meaning: Meaning, draws: SceneRandom) -> tuple[str, str]:
    thing, other, place = _pair(meaning, draws)
    what = SHAPES[thing.shape]
    if thing.shape == other.shape:
        what = f"{what} {_at(meaning, place)}"
    said = _either(draws, f"what colour is the {what}?", f"which colour has the {what}?")
    return said, COLOURS[thing.colour]


def _shape(meaning: Meaning, draws: SceneRandom) -> tuple[str, str]:
    thing, other, place = _pair(meaning, draws)
    what = f"{COLOURS[thing.colour]} thing"
    if thing.colour == other.colour:
        what = f"{what} {_at(meaning, place)}"
    said = _either(draws, f"what shape is the {what}?", f"which shape has the {what}?")
    return said, SHAPES[thing.shape]


def _relation(meaning: Meaning, draws: SceneRandom) -> tuple[str, str]:
    thing, other, place = _pair(meaning, draws)
    a, b = _name(thing, other, draws), _name(other, thing, draws)
    said = _either(
        draws, f"where is the {a} from the {b}?", f"seen from the {b}, where is the {a}?"
    )
    return said, _SIDES[RELATIONS[meaning.relation]][place]


def _place(meaning: Meaning, draws: SceneRandom) -> tuple[str, str]:
    thing, _, place = _pair(meaning, draws)
    at = _at(meaning, place)
    if draws.below(2):
        said = _either(draws, f"what colour is the thing {at}?", f"which colour is {at}?")
        return said, COLOURS[thing.colour]
    said = _either(draws, f"what shape is the thing {at}?", f"which shape is {at}?")
    return said, SHAPES[thing.shape]


def _count(meaning: Meaning, draws: SceneRandom) -> tuple[str, str]:
    a, b = meaning.first, meaning.second
    by_colour = bool(draws.below(2))
    if a.colour == b.colour or a.shape == b.shape:  # a pair is rare: ask about each
        by_colour, wanted = a.colour == b.colour, 2
    else:
        wanted = draws.below(2)
    found = [thing.colour if by_colour else thing.shape for thing in (a, b)]
    kinds = range(len(COLOURS if by_colour else SHAPES))
    possible = [kind for kind in kinds if found.count(kind) == wanted]
    kind = possible[draws.below(len(possible))]
    plural = SHAPES[kind] + ("es" if SHAPES[kind].endswith("s") else "s")
    what = f"{COLOURS[kind]} things" if by_colour else plural
    said = _either(draws, f"how many {what} are there?", f"how many {what} do you find?")
    return said, _NUMBERS[wanted]


def _exists(meaning: Meaning, draws: SceneRandom) -> tuple[str, str]:
    a, b = meaning.first, meaning.second
    is_there = bool(draws.below(2))
    what = draws.below(3)
    if what == 0:
        here = [a.name, b.name]
        known = [t for t in things() if t.held_out == a.held_out and t not in (a, b)]
        near = [
            t for t in known if t.colour in (a.colour, b.colour) or t.shape in (a.shape, b.shape)
        ]
        others = [t.name for t in (near if near and draws.below(2) else known)]
    elif what == 1:
        here = [SHAPES[t.shape] for t in (a, b)]
        others = [name for name in SHAPES if name not in here]
    else:
        here = [f"{COLOURS[t.colour]} thing" for t in (a, b)]
        others = [f"{name} thing" for name in COLOURS if f"{name} thing" not in here]
    among = here if is_there else others
    name = among[draws.below(len(among))]
    article = "an" if name[0] in "aeiou" else "a"
    said = _either(draws, f"is there {article} {name}?", f"do you see {article} {name}?")
    return said, "yes" if is_there else "no"


_MAKERS: dict[str, Callable[[Meaning, SceneRandom], tuple[str, str]]] = {
    "colour": _colour,
    "shape": _shape,
    "relation": _relation,
    "place": _place,
    "count": _count,
    "exists": _exists,
}
TYPES = tuple(_MAKERS)
