"""Answers token by token: as the model scores them, alone or in a batch, and drawn by seed."""

import pytest
import torch

from mmlight.decoders.decoder import Memory
from mmlight.decoders.generate import Prompt, generate
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.errors import UserError


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    made = TransformerDecoder(vocab_size=19, dim=16, num_layers=2, num_heads=2, max_tokens=40)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made.double().eval()


def prompts(decoder, *texts):
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    mask = torch.tensor([[True] * len(t) + [False] * (width - len(t)) for t in texts])
    return Prompt(decoder.embed(ids), mask)


def slowly(decoder, text, count, end_id):
    """Return the likeliest continuation, all of it computed anew for each token."""
    said = list(text)
    for _ in range(count):
        logits = decoder.logits(decoder.decode(decoder.embed(torch.tensor([said]))))
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == end_id:
            return said[len(text) : -1]
    return said[len(text) :]


TEXTS = ([3, 5, 7], [4], [2, 2, 9, 11, 1], [8, 6])


def test_greedy_is_what_is_likeliest_alone_and_in_a_batch(decoder):
    found = generate(decoder, prompts(decoder, *TEXTS), Sampling(max_new_tokens=12), end_id=13)
    assert [one.tokens for one in found] == [slowly(decoder, t, 12, 13) for t in TEXTS]
    for text, one in zip(TEXTS, found, strict=True):
        (alone,) = generate(decoder, prompts(decoder, text), Sampling(max_new_tokens=12), end_id=13)
        assert alone.tokens == one.tokens
        assert alone.log_probability == pytest.approx(one.log_probability, abs=1e-5)


def test_what_is_drawn_depends_on_seed_and_prompt_and_not_on_the_batch(decoder):
    sampling = Sampling(max_new_tokens=10, temperature=0.8, top_k=7, top_p=0.9, seed=3)
    both = generate(decoder, prompts(decoder, *TEXTS), sampling, end_id=None)
    again = generate(decoder, prompts(decoder, *TEXTS), sampling, end_id=None)
    assert both == again
    (last,) = generate(decoder, prompts(decoder, TEXTS[3]), sampling, end_id=None, rows=[3])
    assert last.tokens == both[3].tokens
    other = Sampling(max_new_tokens=10, temperature=0.8, top_k=7, top_p=0.9, seed=4)
    assert generate(decoder, prompts(decoder, *TEXTS), other, end_id=None) != both


def test_draws_have_the_probabilities_of_softmax():
    logits = torch.tensor([[1.0, 0.0, -1.0, 2.0]]).expand(4000, -1)
    drawn = Sampling(temperature=2.0, seed=1).choose(logits, rows=range(4000), place=0)
    share = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(share, (logits[0] / 2).softmax(0), rtol=0, atol=0.025)
    cut = Sampling(temperature=2.0, top_p=0.5, seed=1).choose(logits, rows=range(4000), place=0)
    assert set(cut.tolist()) == {3, 0}
    few = Sampling(temperature=2.0, top_k=2, seed=1).choose(logits, rows=range(4000), place=0)
    assert set(few.tolist()) == {3, 0}


def test_only_allowed_tokens_are_said_and_a_listener_can_end_an_answer(decoder):
    allowed = torch.zeros(19, dtype=torch.bool)
    allowed[[4, 6]] = True
    heard = []

    def listen(row, token):
        heard.append((row, token))
        return row == 1

    found = generate(
        decoder,
        prompts(decoder, *TEXTS[:2]),
        Sampling(max_new_tokens=5),
        end_id=None,
        allowed_V=allowed,
        on_token=listen,
    )
    assert [len(one.tokens) for one in found] == [5, 1]
    assert {token for _, token in heard} <= {4, 6}
    assert [one.is_ended for one in found] == [False, True]


def test_guidance_moves_scores_away_from_those_without_a_prompt(decoder):
    prompt, nothing = prompts(decoder, [3, 5]), prompts(decoder, [1])
    found = {
        guidance: generate(
            decoder,
            prompt,
            Sampling(max_new_tokens=1, guidance=guidance),
            end_id=None,
            without_prompt=nothing,
        )[0].tokens
        for guidance in (0.0, 3.0)
    }
    last = {
        name: decoder.logits(decoder.decode(p.embedded_NLD))[0, -1]
        for name, p in (("with", prompt), ("without", nothing))
    }
    assert found[0.0] == [int(last["without"].argmax())]
    assert found[3.0] == [int((3 * last["with"] - 2 * last["without"]).argmax())]


def test_a_memory_goes_with_its_prompt():
    torch.manual_seed(0)
    decoder = TransformerDecoder(vocab_size=19, dim=16, num_layers=2, num_heads=2, memory_dim=6)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    decoder = decoder.double().eval()
    memory = Memory(torch.randn(2, 3, 6).double(), torch.ones(2, 3, dtype=torch.bool))
    start = prompts(decoder, [1], [1])
    prompt = Prompt(start.embedded_NLD, start.mask_NL, memory)
    found = generate(decoder, prompt, Sampling(max_new_tokens=8), end_id=5)
    for row in range(2):
        one = Memory(memory.tokens_NMD[row : row + 1], memory.mask_NM[row : row + 1])
        alone = Prompt(start.embedded_NLD[:1], start.mask_NL[:1], one)
        (one_answer,) = generate(decoder, alone, Sampling(max_new_tokens=8), end_id=5)
        assert one_answer.tokens == found[row].tokens


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"top_k": 3}, "only with a temperature"),
        ({"beams": 2, "temperature": 1.0}, "leave the temperature out"),
        ({"max_new_tokens": 0}, "1 or more"),
        ({"temperature": 1.0, "top_p": 0.0}, "above 0"),
        ({"stop": [""]}, "empty text"),
        ({"length_penalty": 2.0}, "only with beams"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Sampling(**settings)
