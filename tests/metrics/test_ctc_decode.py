"""Decoding against every alignment of tiny problems."""

import itertools
import math

import pytest
import torch

from mmlight.errors import UserError
from mmlight.metrics.ctc_decode import BeamDecoder, GreedyDecoder


def random_log_p(size=4, length=5, num_classes=4, *, sharp=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharp * torch.randn(
        size, length, num_classes, generator=generator, dtype=torch.float64
    )
    return logits.log_softmax(-1)


def collapse(alignment, blank):
    runs = [symbol for symbol, _ in itertools.groupby(alignment)]
    return tuple(symbol for symbol in runs if symbol != blank)


def all_transcripts(log_p_LK):
    """The log-probability of every transcript, from all K^L alignments."""
    length, num_classes = log_p_LK.shape
    total = {}
    for alignment in itertools.product(range(num_classes), repeat=length):
        symbols = collapse(alignment, num_classes - 1)
        log_p = sum(float(log_p_LK[frame, k]) for frame, k in enumerate(alignment))
        total[symbols] = total.get(symbols, 0.0) + math.exp(log_p)
    return {symbols: math.log(p) for symbols, p in total.items()}


@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_every_transcript_with_its_probability(seed):
    log_p_BLK = random_log_p(seed=seed)
    frames_B = torch.tensor([5, 4, 1, 5])
    found = BeamDecoder(beam_width=400).beams(log_p_BLK, frames_B)
    for row, beams in enumerate(found):
        expected = all_transcripts(log_p_BLK[row, : frames_B[row]])
        assert {tuple(beam.symbols) for beam in beams} == set(expected)
        for beam in beams:
            assert beam.log_probability == pytest.approx(expected[tuple(beam.symbols)], abs=1e-9)
        scores = [beam.log_probability for beam in beams]
        assert scores == sorted(scores, reverse=True)


def test_repeated_symbols_need_a_blank_between_them():
    # Two classes: one symbol and the blank.
    log_p_BLK = random_log_p(size=3, length=7, num_classes=2, sharp=0.3)
    found = BeamDecoder(beam_width=16).beams(log_p_BLK, torch.full((3,), 7))
    for row, beams in enumerate(found):
        expected = all_transcripts(log_p_BLK[row])
        assert len(beams) == len(expected) == 5
        for beam in beams:
            assert beam.log_probability == pytest.approx(expected[tuple(beam.symbols)], abs=1e-9)


def test_a_narrow_beam_never_claims_more_than_the_truth():
    log_p_BLK = random_log_p(size=6, length=5, sharp=1.0)
    frames_B = torch.full((6,), 5)
    truths = [all_transcripts(log_p_LK) for log_p_LK in log_p_BLK]
    for width in (1, 2, 5):
        for row, beams in enumerate(BeamDecoder(beam_width=width).beams(log_p_BLK, frames_B)):
            truth = truths[row]
            assert len(beams) <= width
            assert len({tuple(beam.symbols) for beam in beams}) == len(beams)
            for beam in beams:
                assert beam.log_probability <= truth[tuple(beam.symbols)] + 1e-9


def test_the_sum_of_alignments_may_beat_the_best_alignment():
    # Blank is the best class of both frames, yet "a" has 0.64 of the probability.
    log_p_1LK = torch.tensor([[[0.4, 0.6], [0.4, 0.6]]]).log()
    frames_1 = torch.tensor([2])
    assert GreedyDecoder()(log_p_1LK, frames_1)[0].symbols == []
    best = BeamDecoder()(log_p_1LK, frames_1)[0]
    assert best.symbols == [0]
    assert best.log_probability == pytest.approx(math.log(0.64), abs=1e-6)


def test_greedy_takes_the_best_alignment():
    log_p_BLK = random_log_p(size=6, length=5)
    frames_B = torch.tensor([5, 4, 3, 2, 1, 5])
    for row, found in enumerate(GreedyDecoder()(log_p_BLK, frames_B)):
        frames = int(frames_B[row])
        best = max(
            itertools.product(range(4), repeat=frames),
            key=lambda a, row=row: sum(float(log_p_BLK[row, f, k]) for f, k in enumerate(a)),
        )
        assert tuple(found.symbols) == collapse(best, 3)
        assert found.log_probability == pytest.approx(
            sum(float(log_p_BLK[row, f, k]) for f, k in enumerate(best))
        )


@pytest.mark.parametrize("decoder", [GreedyDecoder(), BeamDecoder(beam_width=4)])
def test_a_clip_is_decoded_the_same_in_any_batch(decoder):
    log_p_BLK = random_log_p(size=3, length=9, num_classes=6)
    frames_B = torch.tensor([9, 5, 7])
    together = decoder(log_p_BLK, frames_B)
    for row in range(3):
        frames = int(frames_B[row])
        (alone,) = decoder(log_p_BLK[row : row + 1, :frames], frames_B[row : row + 1])
        assert alone.symbols == together[row].symbols
        assert alone.log_probability == pytest.approx(together[row].log_probability)


def test_a_width_below_one_is_refused():
    with pytest.raises(UserError, match="beam_width: 0"):
        BeamDecoder(beam_width=0)


def test_no_two_prefixes_of_a_long_search_are_taken_for_one():
    """As many symbols as a byte tokenizer has, in a beam of a width that nobody needs."""
    log_p_BLK = random_log_p(size=1, length=30, num_classes=200, sharp=0.1)
    beams = BeamDecoder(beam_width=500).beams(log_p_BLK, torch.tensor([30]))[0]
    assert len({tuple(beam.symbols) for beam in beams}) == len(beams) == 500
