import math

import pytest
from ranks import run_ranks

from mmlight import comm
from mmlight.tasks.transcript_scores import TranscriptRow, TranscriptStore, scores_of

# The fourth clip has too few frames for what was said.
SAID = ["one two", "three", "f i v e", "six seven"]
HEARD = ["one too", "three", "f v e e", ""]
LOSS = [1.0, 2.0, 3.0, math.nan]


def gathered():
    store = TranscriptStore()
    # Dealt out in turn, so that ranks must be sorted into each other.
    for number in range(comm.rank(), len(SAID), comm.world_size()):
        store.add(
            number,
            TranscriptRow(
                key=f"k{number}",
                said=SAID[number],
                heard=HEARD[number],
                score=-float(number),
                loss=LOSS[number],
                fields={"speaker": f"s{number}"},
            ),
        )
    return store.gather("val")


def plain() -> dict:
    evaluation = gathered()
    return scores_of(evaluation) | {
        "keys": evaluation.keys,
        "said": evaluation.said,
        "speakers": evaluation.fields["speaker"],
    }


def test_scores_of_the_whole_set():
    scores = scores_of(gathered())
    # too, i missing, e added; six and seven missing.
    assert scores["wer"] == pytest.approx(5 / 9)
    assert scores["sentence_error"] == 0.75
    assert scores["loss"] == 2.0
    assert scores["num_impossible"] == 1


def test_every_rank_has_all_clips_in_order(tmp_path):
    alone = plain()
    for rank in run_ranks(plain, world_size=2, folder=tmp_path):
        assert rank == alone


def test_a_set_without_transcripts_has_no_scores():
    assert scores_of(TranscriptStore().gather("val")) == {}
