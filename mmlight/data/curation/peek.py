"""``mmlight shards peek``: some samples on one page, which opens anywhere and runs nothing.

Pictures and sounds are decoded and encoded anew, and every text is escaped: what a shard holds may
come from anybody.
"""

import argparse
import base64
import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmlight.data.curation.copying import open_shards
from mmlight.data.curation.expression import Expression
from mmlight.data.curation.known import Known
from mmlight.data.decode.audio import AudioSettings, load_audio
from mmlight.data.decode.probe import PILLOW_FORMATS, kind
from mmlight.data.members import Contents
from mmlight.data.scan import scan
from mmlight.data.shards.corpus import Corpus
from mmlight.errors import UserError
from mmlight.files import check_writable, write_text
from mmlight.runs.show.page import render
from mmlight.runs.show.sounds import flac
from mmlight.terminal import note

_SIDE_PX = 224
# A picture may be a bomb; training's default is as much.
_MAX_PIXELS = 100_000_000
_SOUND = AudioSettings(sample_rate_hz=16_000, max_seconds=10.0, eval_crop="start")
_MOST_TEXT, _MOST_SAMPLES, _MOST_MEMBERS = 2_000, 2_000, 40
_MOST_READ = 32 << 20


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    check_writable(options.out, option="--out")
    corpus = open_shards(options.patterns)
    if not 1 <= options.samples <= _MOST_SAMPLES:
        raise UserError(f"--samples {options.samples}: 1 to {_MOST_SAMPLES:,}")
    order = np.random.Generator(np.random.Philox(options.seed)).random(len(corpus)).argsort()
    numbers = order[: options.samples].tolist() if options.where is None else []
    if options.where is not None:
        expression = Expression(options.where, corpus)
        for number in order.tolist():
            if len(numbers) < options.samples and _holds(expression, corpus, number):
                numbers.append(number)
        expression.check_names()
        if not numbers:
            raise UserError(f"--where {options.where}: no sample meets it")
    found = scan(
        sorted(numbers), lambda number: _shown(corpus, number), what="Looking", total=len(numbers)
    )
    page = render(
        "shards.html",
        title="Samples",
        glance={
            "shards": f"{len(corpus.shards):,}",
            "samples": f"{len(numbers):,} of {len(corpus):,}",
        },
        grids={},
        figures=[],
        samples=[sample for _, sample in found],
        remark="Drawn at random; pictures are made smaller, of sounds the first 10 s are shown.",
    )
    write_text(options.out, page)
    note(f"page: {options.out}")
    return 0


def _holds(expression: Expression, corpus: Corpus, number: int) -> bool:
    try:
        contents = Contents(corpus.read(number, expression.extensions))
        return expression.holds(Known(corpus, number, contents))
    except UserError:
        raise
    except (OSError, ValueError):
        return False


def _shown(corpus: Corpus, number: int) -> dict[str, Any]:
    """Return what the page shows of a sample."""
    shard, key = corpus.origin(number)
    members = []
    sizes = corpus.members(number)
    for extension, size in list(sizes.items())[:_MOST_MEMBERS]:
        one: dict[str, Any] = {"name": extension, "size": f"{size:,} bytes"}
        try:
            if size <= _MOST_READ:
                one |= _of_member(extension, corpus.read(number, [extension])[extension])
            else:
                one["error"] = "too large to be shown"
        # Decoders raise what they like about broken bytes.
        except Exception as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            one["error"] = f"{type(error).__name__}: {said[0][:300]}"
        members.append(one)
    left = len(sizes) - len(members)
    return {"key": key, "shard": shard, "members": members, "left": left}


def _of_member(extension: str, data: bytes) -> Mapping[str, str]:
    match kind(extension):
        case "image":
            return {"image": _picture(data)}
        case "audio":
            wave = load_audio(data, _SOUND, draws=None)
            sound = base64.b64encode(flac(wave, _SOUND.rate_hz)).decode()
            return {"image": _spectrogram(wave), "sound": f"data:audio/flac;base64,{sound}"}
        case "text" | "json":
            value = Contents({extension: data}).value(extension)
            text = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
            )
            more = f" ... ({len(text):,} characters)" if len(text) > _MOST_TEXT else ""
            return {"text": text[:_MOST_TEXT] + more}
    return {}


def _picture(data: bytes) -> str:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own limits; ours comes first
        with Image.open(io.BytesIO(data), formats=PILLOW_FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            image.draft("RGB", (_SIDE_PX, _SIDE_PX))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((_SIDE_PX, _SIDE_PX))
    return _url(upright, "JPEG", quality=85)


def _spectrogram(wave: np.ndarray) -> str:
    """Return a picture of a sound: time to the right, frequency up to 8 kHz, 80 dB."""
    from PIL import Image
    from scipy.signal import stft

    _, _, found = stft(np.pad(wave, (0, max(0, 512 - len(wave)))), nperseg=512, noverlap=352)
    level = 20 * np.log10(np.maximum(np.abs(found), 1e-8))
    shade = np.clip((level - level.max() + 80) / 80 * 255, 0, 255).astype(np.uint8)
    image = Image.fromarray(shade[::-1]).resize((2 * _SIDE_PX, _SIDE_PX // 2))
    return _url(image, "PNG")


def _url(image: Any, format: str, **settings: Any) -> str:
    file = io.BytesIO()
    image.save(file, format, **settings)
    kind_of = f"image/{format.lower()}"
    return f"data:{kind_of};base64,{base64.b64encode(file.getvalue()).decode()}"
