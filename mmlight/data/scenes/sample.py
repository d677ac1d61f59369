"""Makes one sample of the scenes: its members, with every label that a later task may need."""

import io
import json
from typing import Any

import soundfile
from PIL import Image

from mmlight.data.scenes.image import IMAGE_SIZE, draw
from mmlight.data.scenes.scene import COLOURS, RELATIONS, SHAPES, Draws, Meaning, Split, Thing
from mmlight.data.scenes.sound import SAMPLE_RATE_HZ, say


def _describe(thing: Thing, box: tuple[int, int, int, int]) -> dict[str, Any]:
    return {
        "label": thing.name,
        "colour": COLOURS[thing.colour],
        "shape": SHAPES[thing.shape],
        "box": box,
        "held_out": thing.held_out,
    }


def members(meaning: Meaning, draws: Draws, *, split: Split) -> dict[str, bytes]:
    """Return the members of a sample by extension: jpg, txt, flac, cls and json."""
    drawn = draw(meaning, draws)
    picture = io.BytesIO()
    # Full colour resolution: at 64 px halved chroma would smear the colours over the outlines.
    Image.fromarray(drawn.pixels).save(picture, "JPEG", quality=90, subsampling=0)
    sound = io.BytesIO()
    wave = say(meaning.transcript, draws)
    soundfile.write(sound, wave, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    captions = meaning.captions()
    tokens, tags = meaning.tagged_tokens()
    things = (meaning.first, meaning.second)
    notes = {
        "caption": captions[0],
        "captions": captions,
        "paraphrases": captions[1:],
        "transcript": meaning.transcript,
        "tokens": tokens,
        "tags": tags,
        "relation": RELATIONS[meaning.relation],
        "objects": [_describe(t, b) for t, b in zip(things, drawn.boxes, strict=True)],
        "boxes": drawn.boxes,
        "labels": [t.name for t in things],
        "width": IMAGE_SIZE,
        "height": IMAGE_SIZE,
        "sample_rate_hz": SAMPLE_RATE_HZ,
        "duration_s": round(len(wave) / SAMPLE_RATE_HZ, 4),
        "split": split,
    }
    return {
        "jpg": picture.getvalue(),
        "txt": captions[0].encode(),
        "flac": sound.getvalue(),
        "cls": str(meaning.class_number).encode(),
        "json": json.dumps(notes, separators=(",", ":")).encode(),
    }
