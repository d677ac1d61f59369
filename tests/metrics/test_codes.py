"""How much of a codebook is in use."""

import pytest
import torch

from mmlight.metrics.codes import code_use


def test_even_use_of_a_part_is_as_perplexing_as_the_part_is_large():
    use = code_use(torch.tensor([[0, 1], [2, 3]], dtype=torch.int32), num_codes=16)
    assert (use.share, use.perplexity) == (0.25, pytest.approx(4.0))


def test_one_code_is_no_surprise():
    assert code_use(torch.zeros(3, 5), num_codes=4).perplexity == pytest.approx(1.0)
