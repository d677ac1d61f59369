"""The codebook: averages, dead codes, the same on any number of ranks."""

import torch
from ranks import run_ranks

from mmlight import comm
from mmlight.encoders.codebook import Codebook

NUM_STEPS = 45  # with resets at 0, 20 and 40


def drawn(step):
    """Twelve vectors of a step, in four heaps; later on, two of these are gone."""
    draws = torch.Generator().manual_seed(step)
    heap = torch.randint(0, 4 if step < 10 else 2, (12,), generator=draws)
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    return centres[heap] + 0.1 * torch.randn(12, 2, generator=draws)


def trained():
    """Train on this rank's share of each step's vectors."""
    book = Codebook(6, 2, decay=0.9)
    for step in range(NUM_STEPS):
        mine = drawn(step)[comm.rank() :: comm.world_size()]
        book.learn(mine)
        book.follow(mine, book.nearest(mine))
    return dict(book.state_dict())


def test_ranks_share_one_codebook(tmp_path):
    alone = trained()
    for state in run_ranks(trained, world_size=2, folder=tmp_path):
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-5, atol=1e-6)


def test_averages_are_those_of_the_paper():
    book = Codebook(2, 1, decay=0.9)
    book.code_KD.copy_(torch.tensor([[0.0], [1.0]]))
    book.count_K.copy_(torch.tensor([2.0, 4.0]))
    book.sum_KD.copy_(torch.tensor([[0.0], [4.0]]))
    book.follow(torch.tensor([[0.3], [0.1], [1.2]]), torch.tensor([0, 0, 1]))
    # N = 0.9 N + 0.1 n, m = 0.9 m + 0.1 sum z, e = m / N
    expected = [[0.04 / 2.0], [(3.6 + 0.12) / 3.7]]
    torch.testing.assert_close(book.code_KD, torch.tensor(expected))


def test_dead_codes_find_vectors_again():
    book = Codebook(8, 2, decay=0.9)
    for step in range(40):
        vectors = drawn(0)
        book.learn(vectors)
        if step == 0:
            book.code_KD[1:] = 1000.0  # nothing is near
            book.sum_KD[1:] = 1000.0 * book.count_K[1:, None]
        book.follow(vectors, book.nearest(vectors))
    book.learn(drawn(0))
    assert float(book.code_KD.max()) < 20
    assert len(book.nearest(drawn(0)).unique()) >= 4


def test_the_nearest_is_found():
    book = Codebook(5, 3, decay=0.9)
    book.code_KD.copy_(torch.randn(5, 3))
    vectors = torch.randn(40, 3)
    expected = torch.cdist(vectors.double(), book.code_KD.double()).argmin(1)
    assert torch.equal(book.nearest(vectors), expected)
