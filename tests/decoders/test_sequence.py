"""What comes next at each place, and prompts with their answers in one row."""

import torch

from mmlight.batch import Text
from mmlight.decoders.sequence import joined, next_tokens, without_ends


def text(*rows, **more):
    width = max(map(len, rows))
    count = len(rows)
    return Text(
        token_ids_NL=torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]),
        mask_NL=torch.tensor([[n < len(row) for n in range(width)] for row in rows]),
        present_N=torch.ones(count, dtype=torch.bool),
        item_N=torch.arange(count),
        caption_id_N=torch.arange(count),
        **more,
    )


def rows_of(one):
    return [ids[mask].tolist() for ids, mask in zip(one.token_ids_NL, one.mask_NL, strict=True)]


def test_what_comes_next_ends_with_the_text():
    found = next_tokens(text([5, 6, 7], [8, 9]))
    assert found.token_NL[found.counted_NL].tolist() == [6, 7, 9]
    assert found.counted_NL.tolist() == [[True, True, False], [True, False, False]]


def test_nothing_comes_next_over_the_border_of_packed_texts():
    found = next_tokens(text([5, 6, 7, 8], sample_NL=torch.tensor([[0, 0, 1, 1]])))
    assert found.counted_NL.tolist() == [[True, False, True, False]]


def test_only_the_answer_counts_behind_its_prompt():
    prompt = without_ends(text([1, 5, 6, 2], [1, 7, 2]), end_id=2)
    answer = without_ends(text([1, 8, 2], [1, 9, 9, 2]), start_id=1)
    both = joined(prompt, answer)
    assert rows_of(both) == [[1, 5, 6, 8, 2], [1, 7, 9, 9, 2]]
    found = next_tokens(both)
    assert [ids[c].tolist() for ids, c in zip(found.token_NL, found.counted_NL, strict=True)] == [
        [8, 2],
        [9, 9, 2],
    ]


def test_ends_that_are_not_there_are_not_taken_away():
    assert rows_of(without_ends(text([5, 6], [1, 7]), start_id=1, end_id=2)) == [[5, 6], [7]]
