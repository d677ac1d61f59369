import pytest
import torch
import torch.nn.functional as F
from encoder_inputs import (
    assert_bf16_is_finite,
    assert_blocks_partition,
    assert_checkpointing_keeps_gradients,
    captions,
)

from mmlight.encoders.text_cnn import TextCnn
from mmlight.errors import UserError

SMALL = dict(vocab_size=50, embed_dim=8, filters=6, widths=[2, 3])


def make(**more):
    torch.manual_seed(0)
    return TextCnn(**(SMALL | more))


def test_shapes_and_blocks():
    encoder = make().eval()
    encoded = encoder(captions((5, 3)), tokens=True)
    assert encoded.tokens_BLD.shape == (2, 5, 12)
    assert encoded.mask_BL.sum(1).tolist() == [5, 3]
    assert encoded.pooled_BD.shape == (2, encoder.out_dim)
    assert_blocks_partition(encoder)
    assert encoder.blocks()[0].name == "embeddings"


def test_features_are_the_maxima_of_ngrams():
    """Against sums written out, in float64: each filter at each place, padding as zeros."""
    encoder = make().double().eval()
    text = captions((4,))
    table = encoder.embeddings.weight
    words = [table[i] for i in text.token_ids_NL[0].tolist()]
    expected = []
    for conv in encoder.convs:
        width = conv.kernel_size[0]
        before = (width - 1) // 2
        for weight, bias in zip(conv.weight, conv.bias, strict=True):
            places = []
            for place in range(4):
                total = bias.clone()
                for offset in range(width):
                    at = place + offset - before
                    if 0 <= at < 4:
                        total = total + (weight[:, offset] * words[at]).sum()
                places.append(F.relu(total))
            expected.append(max(places))
    torch.testing.assert_close(
        encoder(text).pooled_BD[0], torch.stack(expected), atol=1e-12, rtol=1e-12
    )


def test_wide_maxima_are_also_over_the_places_that_overlap_an_end():
    """Against a convolution of the caption between zeros, in float64; its tokens are the same."""
    encoder, narrow = make(wide=True).double().eval(), make().double().eval()
    text = captions((4,))
    embedded = encoder.embeddings(text.token_ids_NL).mT
    expected = []
    for conv in encoder.convs:
        around = conv.kernel_size[0] - 1
        places = F.conv1d(F.pad(embedded, (around, around)), conv.weight, conv.bias)
        assert places.shape[2] == 4 + around
        expected.append(F.relu(places).amax(2))
    torch.testing.assert_close(encoder(text).pooled_BD, torch.cat(expected, 1))
    tokens = encoder(text, tokens=True).tokens_BLD
    torch.testing.assert_close(tokens, narrow(text, tokens=True).tokens_BLD)


@pytest.mark.parametrize("wide", [False, True])
def test_a_caption_gives_the_same_features_in_any_batch(wide):
    encoder = make(wide=wide).eval()
    alone = encoder(captions((3,)), tokens=True)
    together = encoder(captions((3, 9), padded_to=12), tokens=True)
    torch.testing.assert_close(together.pooled_BD[0], alone.pooled_BD[0])
    torch.testing.assert_close(together.tokens_BLD[0, :3], alone.tokens_BLD[0])
    assert not together.tokens_BLD[0, 3:].any()


def test_dropout_works_in_training_only():
    plain = make()
    for setting in ("dropout", "token_dropout"):
        dropping = make(**{setting: 0.6})
        expected = plain(captions()).pooled_BD
        assert not torch.allclose(dropping.train()(captions()).pooled_BD, expected)
        assert torch.equal(dropping.eval()(captions()).pooled_BD, expected)


def test_hidden_tokens_leave_no_trace():
    encoder = make(token_dropout=0.999).train()
    silent = encoder(captions((5,)), tokens=True).tokens_BLD
    biases = F.relu(torch.cat([conv.bias for conv in encoder.convs]))
    torch.testing.assert_close(silent[0], biases.expand(5, -1))


def test_all_parameters_learn_and_checkpointing_changes_no_gradient():
    assert_checkpointing_keeps_gradients(make(dropout=0.2), captions())


def test_rebuild_args_rebuild():
    first = make(dropout=0.1).eval()
    second = TextCnn(**first.rebuild_args()).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(captions()).pooled_BD, second(captions()).pooled_BD)


def test_captions_without_tokens_and_bf16_are_finite():
    assert make()(captions((0, 2))).pooled_BD.isfinite().all()
    assert_bf16_is_finite(make(), captions())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(widths=[]), "widths: 0 must be"),
        (dict(widths=[3, 0]), "widths: 0 must be"),
        (dict(vocab_size=0), "vocab_size: 0 must be"),
        (dict(token_dropout=1.0), "token_dropout: 1.0 must be"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)
