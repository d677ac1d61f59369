# ruff: noqa: RUF001
"""Captions to compare tokenizers on: plain ones, and what turns up in files from the web."""

import random
import unicodedata

_THINGS = (
    "cat dog street river café façade Straße piñata niño 東京 машина house's won't they're".split()
)
_SAID = "a photo of|an image with|the best|two|THE|I'd say:|№ 7,|$19.99 -|@home #new|https://x.org/a?b=c"
# Each a way in which text is unlike a sentence.
# fmt: off
_PIECES = [
    "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "1️⃣",
    "שלום עולם", "مرحبا بالعالم", "\u202eabc\u202c", "\u200fא\u200e", "ﷺ", "ﬁne", "Ⅻ", "½",
    "&amp;", "&amp;amp;lt;", "&#39;", "&#x1F600;", "&nbsp;", "&notit;", "&#xD800;", "&#0;", "&lt",
    "\x00", "\x1b[31mred\x1b[0m", "\x07", "\x85", "\ufeff", "\x7f", "\ufffd", "\x9d",
    " \t ", "\r\n", "\u00a0", "\u2003", "\u3000", "\u2028", "\x0b", "\x1c", "\u200b", "\u180e",
    "e\u0301", "a\u0328\u0301\u0323", "Z̷̛͇a̵l̸g̴o̶", "İstanbul", "ΣΊΣΥΦΟΣ", "ſharp", "ǅ", "ß", "ẞ", "ﬀ",
    "cafÃ©", "â€œquotedâ€\x9d", "l’humanitÃ©", "“curly” ‘q’", "…", "—", "\u00ad",
    "Ｆｕｌｌ　ｗｉｄｔｈ",
    "<start_of_text>", "<END_OF_TEXT>", "<|endoftext|>", "<\u017ftart_of_text>", "</w>", "<pad>",
    "</s>", "<s>", "<unk>", "▁", "Ġ", "<0x0A>", "[SEP]", "'s", "'\u017f", "'LL", "x'd've", "''s",
    "\\ud83d", "\\u0000", "\\n", "_under_score_", "{}{}", "%s %d", "a/b\\c", "~`^|", "0123456789",
    "१२३", "٣", "²³", "๑", "한국어", "ᄒ\u1161\u11ab", "ไทยไม่มีเว้นวรรค", "नमस्ते",
    "𝒳𝓎", "𐍈", "\U000e0041",
    "a" * 60, "pneumonoultramicroscopic" * 4, "!?" * 30, "né" * 40, "9" * 50, "ab" * 200,
]
# fmt: on


def captions(number: int, *, seed: int = 0) -> list[str]:
    """Return so many plain captions."""
    draw = random.Random(seed)
    return [
        " ".join(
            [draw.choice(_SAID.split("|")), *draw.choices(_THINGS, k=draw.randint(1, 30))]
        ).replace(" ", ", " if draw.random() < 0.1 else " ")
        for _ in range(number)
    ]


def nasty_captions(number: int, *, seed: int = 0) -> list[str]:
    """Return so many captions that no one should have written.

    One of 200 has 10,000 characters, one of 100 is nothing but drawn code points.
    """
    draw = random.Random(seed)
    made: list[str] = [*_PIECES, "", " ", "\n\n"]
    while len(made) < number:
        kind = draw.random()
        if kind < 0.005:
            made.append(("".join(draw.choices([*_PIECES, *_THINGS, " "], k=2500)))[:10_000])
        elif kind < 0.015:
            made.append("".join(_code_point(draw) for _ in range(draw.randint(1, 40))))
        elif kind < 0.02:
            made.append("".join(draw.choices("abcdefg", k=draw.randint(300, 1500))))
        else:
            parts = draw.choices([*_PIECES, *_THINGS], k=draw.randint(1, 12))
            made.append(draw.choice(["", " ", "  ", "\n"]).join(parts))
    return made[:number]


def _code_point(draw: random.Random) -> str:
    while unicodedata.category(found := chr(draw.randrange(0x11_0000))) in ("Cs", "Cn"):
        pass
    return found
