"""Texts that come in rows (`Text.sample_NL`) give each token what it has alone."""

from dataclasses import replace

import pytest
import torch
from test_text_batching import PACKED, make

from mmlight.batch import Text
from mmlight.errors import UserError

LENGTHS = (5, 9, 3, 1, 6)
WIDTH = 10


def ids_of(encoder, length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 45, (length,), generator=generator)


def rows(encoder):
    """Return texts in rows, and the pieces of which they are made."""
    ids = torch.cat([ids_of(encoder, length, seed) for seed, length in enumerate(LENGTHS)])
    of = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    size = -(-len(ids) // WIDTH) * WIDTH
    pad = encoder.pad_token_id if encoder.pad_token_id is not None else 0
    ids_NL = torch.full((size,), pad).index_copy(0, torch.arange(len(ids)), ids).view(-1, WIDTH)
    sample_NL = torch.full((size,), -1).index_copy(0, torch.arange(len(ids)), of).view(-1, WIDTH)
    return text_of(ids_NL, sample_NL >= 0, sample_NL)


def text_of(ids_NL, mask_NL, sample_NL=None):
    row_N = torch.arange(len(ids_NL))
    return Text(ids_NL, mask_NL, mask_NL[:, 0], row_N, row_N, sample_NL=sample_NL)


def pieces(text):
    for row, of_L in enumerate(text.sample_NL.tolist()):
        for number in sorted({one for one in of_L if one >= 0}):
            yield row, [place for place, one in enumerate(of_L) if one == number]


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(PACKED))
def test_a_token_sees_its_own_piece_of_text_only(kind):
    encoder = make(kind)
    text = rows(encoder)
    tokens_NLD = encoder(text, tokens=True).tokens_BLD
    assert tokens_NLD.isfinite().all()
    for row, places in pieces(text):
        alone = text.token_ids_NL[row, places][None]
        expected = encoder(text_of(alone, alone > -1), tokens=True).tokens_BLD[0]
        torch.testing.assert_close(tokens_NLD[row, places], expected, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_layers_that_see_a_window_see_it_in_rows_too():
    config = PACKED["modernbert"] | dict(local_attention=4)
    encoder = type(make("modernbert"))(config=config).eval()
    text = rows(encoder)
    tokens_NLD = encoder(text, tokens=True).tokens_BLD
    for row, places in pieces(text):
        alone = text.token_ids_NL[row, places][None]
        expected = encoder(text_of(alone, alone > -1), tokens=True).tokens_BLD[0]
        torch.testing.assert_close(tokens_NLD[row, places], expected, atol=2e-5, rtol=1e-4)


def test_a_model_that_is_not_known_to_be_exact_refuses_them():
    encoder = make("deberta")
    assert not encoder.takes_packed and make("bert").takes_packed
    with pytest.raises(UserError, match="not known to be exact for this DebertaModel"):
        encoder(replace(rows(encoder)))
