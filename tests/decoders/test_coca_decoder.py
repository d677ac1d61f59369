"""CoCa's decoder: one pass, a class token that sees the text and no padding."""

import pytest
import torch

from mmlight.batch import Text
from mmlight.decoders.coca_decoder import CocaDecoder
from mmlight.decoders.decoder import Memory
from mmlight.errors import UserError

SIZES = dict(vocab_size=19, dim=16, num_layers=3, num_heads=2, max_tokens=9, memory_dim=12)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = CocaDecoder(unimodal_layers=2, **SIZES)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made.double().eval()


def texts(*rows, width=None):
    width = width or max(map(len, rows))
    number_N = torch.arange(len(rows))
    return Text(
        token_ids_NL=torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]),
        mask_NL=torch.tensor([[True] * len(r) + [False] * (width - len(r)) for r in rows]),
        present_N=torch.ones(len(rows), dtype=torch.bool),
        item_N=number_N,
        caption_id_N=number_N,
    )


def memory(size):
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randn(size, 5, 12, generator=draws, dtype=torch.float64)
    return Memory(tokens, torch.ones(size, 5, dtype=torch.bool))


ROWS = ([3, 5, 7, 2], [4, 9])


def test_one_pass_gives_what_two_would(decoder):
    both = decoder.both(texts(*ROWS), memory(2))
    torch.testing.assert_close(both.pooled_BD, decoder(texts(*ROWS)).pooled_BD)
    embedded_NLD = decoder.embed(texts(*ROWS).token_ids_NL)
    plain_NLD = decoder.decode(embedded_NLD, memory=memory(2))
    torch.testing.assert_close(both.tokens_BLD[0], plain_NLD[0])
    torch.testing.assert_close(both.tokens_BLD[1, :2], plain_NLD[1, :2])


def test_padding_is_never_seen(decoder):
    wide = texts(*ROWS, width=8)
    wide.token_ids_NL[~wide.mask_NL] = 17  # whatever stands there
    torch.testing.assert_close(decoder(wide).pooled_BD, decoder(texts(*ROWS)).pooled_BD)
    alone = decoder(texts(ROWS[1])).pooled_BD
    torch.testing.assert_close(decoder(texts(*ROWS)).pooled_BD[1:], alone)


def test_the_embedding_is_of_the_text_alone_and_of_all_of_it(decoder):
    whole = decoder.both(texts(ROWS[0]), memory(1))
    other = Memory(memory(1).tokens_NMD * 2, memory(1).mask_NM)
    torch.testing.assert_close(decoder.both(texts(ROWS[0]), other).pooled_BD, whole.pooled_BD)
    assert not torch.allclose(decoder.both(texts(ROWS[0]), other).tokens_BLD, whole.tokens_BLD)
    for place in range(4):
        row = list(ROWS[0])
        row[place] = 11
        assert not torch.allclose(decoder(texts(row)).pooled_BD, whole.pooled_BD)


def test_explicit_attention_is_what_the_fused_kernel_computes(decoder):
    given, seen = texts(ROWS[0]), memory(1)
    fused = decoder.both(given, seen)
    with decoder.explicit_cross_attention() as cross:
        explicit = decoder.both(given, seen)
    torch.testing.assert_close(explicit.tokens_BLD, fused.tokens_BLD)
    assert [w.shape for w in cross] == [(1, 2, 4, 5)]
    torch.testing.assert_close(cross[0].sum(-1), torch.ones(1, 2, 4, dtype=torch.float64))
    with decoder.explicit_attention() as own:
        torch.testing.assert_close(decoder(given).pooled_BD, fused.pooled_BD)
    assert [w.shape for w in own] == [(1, 2, 5, 5)] * 2
    assert not own[0].triu(1).any()  # nothing sees what comes after


def test_the_longest_text_has_room_for_the_class_token(decoder):
    assert decoder(texts(range(1, 10))).pooled_BD.isfinite().all()
    with pytest.raises(UserError, match="10 places, but the decoder takes at most 9"):
        decoder(texts(range(1, 11)))
    with pytest.raises(UserError, match="unimodal_layers"):
        CocaDecoder(**SIZES)
