"""Pictures of captions: some samples with theirs, and what each word looked at."""

from pathlib import Path

from mmlight.metrics.captions import CaptionEvaluation
from mmlight.runs.plots.canvas import spread
from mmlight.runs.plots.captions import Captioned, WordMaps, plot_captions, plot_word_attention
from mmlight.runs.plots.examples import Example
from mmlight.runs.show.sounds import keep_sounds
from mmlight.tasks.pictures import ShownSamples


def draw_captions(evaluation: CaptionEvaluation, folder: Path, samples: ShownSamples) -> list[Path]:
    """Draw captions below their images or spectrograms, and their words; return the files.

    Args:
        evaluation: captions of a whole set.
        folder: where the files go; their names begin with the stage.
        samples: some of the set.
    """
    stage = evaluation.stage
    rows = [
        row for row, number in enumerate(evaluation.samples_S.tolist()) if number in samples.kept
    ]
    captioned, heard = [], []
    for place in spread(len(rows), 4 * samples.num_queries):
        row = rows[place]
        of_sample = samples.kept[int(evaluation.samples_S[row])]
        example = of_sample.get("image") or of_sample.get("audio") or Example()
        found, right = evaluation.found[row], evaluation.references[row][0]
        captioned.append(Captioned(example, found, right, bool(evaluation.is_exact_S[row])))
        if example.waveform_T is not None:
            heard.append((found, example.waveform_T))
    drawn = []
    if captioned:
        path = folder / f"{stage}_captions.png"
        rate = samples.sample_rate_hz
        drawn.append(plot_captions(captioned, path, sample_rate_hz=rate))
        if heard and rate is not None:
            keep_sounds(path, heard, sample_rate_hz=rate)
    looks = [
        WordMaps(look.picture, look.words, look.maps_WRC, look.covered)
        for look in evaluation.looks
        if look.words
    ]
    if looks := looks[: samples.num_queries]:
        path = folder / f"{stage}_caption_words.png"
        drawn.append(plot_word_attention(looks, path))
    return drawn
