"""Our one loop says what transformers' own `generate` says, on the same weights."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from mmlight.decoders.answer import token_prompt
from mmlight.decoders.generate import generate
from mmlight.decoders.hf_decoder import HfDecoder
from mmlight.decoders.sampling import Sampling

VOCAB = 29
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
WIDTHS = {"intermediate_size": 48, "num_key_value_heads": 2}
ROWS = [[3, 5, 8], [4], [2, 2, 9, 11, 1], [8, 6], [10, 12, 14, 3, 3, 3, 1], [20, 21]]


@pytest.fixture(params=["gpt2", "llama", "qwen3"])
def both(request, tmp_path):
    torch.manual_seed(3)
    more = {} if request.param == "gpt2" else WIDTHS
    ids = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    if request.param == "qwen3":
        more = {**more, "head_dim": 8}
    config = AutoConfig.for_model(request.param, **SIZES, **more, **ids)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    for parameter in theirs.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    theirs.save_pretrained(tmp_path)
    end = said(theirs, ROWS[0], end=None)[4]  # so that some answers end by themselves
    return theirs, HfDecoder(pretrained=str(tmp_path)).eval(), end


def said(theirs, row, *, end, **settings):
    config = GenerationConfig(
        max_new_tokens=12, do_sample=False, eos_token_id=end, pad_token_id=0, **settings
    )
    found = theirs.generate(
        torch.tensor([row]), attention_mask=torch.ones(1, len(row)), generation_config=config
    )
    tokens = found[0, len(row) :].tolist()
    return tokens[: tokens.index(end)] if end in tokens else tokens


def ours(decoder, rows, *, end, **settings):
    prompt = token_prompt(decoder, rows, device=torch.device("cpu"))
    return generate(decoder, prompt, Sampling(max_new_tokens=12, **settings), end_id=end)


def test_greedy_tokens_are_theirs_alone_and_together(both):
    theirs, decoder, end = both
    wanted = [said(theirs, row, end=end) for row in ROWS]
    assert len(wanted[0]) < 5
    assert [one.tokens for one in ours(decoder, ROWS, end=end)] == wanted
    assert [ours(decoder, [row], end=end)[0].tokens for row in ROWS] == wanted


@pytest.mark.parametrize(("beams", "penalty"), [(4, 1.0), (3, 0.0), (2, 2.0)])
def test_the_beams_tokens_are_theirs(both, beams, penalty):
    theirs, decoder, end = both
    more = {"num_beams": beams, "length_penalty": penalty}
    wanted = [said(theirs, row, end=end, **more) for row in ROWS]
    found = ours(decoder, ROWS, end=end, beams=beams, length_penalty=penalty)
    assert [one.tokens for one in found] == wanted
    for row, one in zip(ROWS, found, strict=True):
        whole = torch.tensor([[*row, *one.tokens, *[end] * one.is_ended]])
        scores = theirs(input_ids=whole[:, :-1]).logits.log_softmax(-1)
        terms = scores.gather(2, whole[:, 1:, None])[0, len(row) - 1 :]
        assert one.log_probability == pytest.approx(float(terms.sum().detach()), abs=1e-3)


def test_sixteen_prompts_get_what_each_gets_alone(both):
    _, decoder, end = both
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(8, VOCAB, (1 + number % 7,), generator=generator).tolist()
        for number in range(16)
    ]
    for beams in (1, 3):
        together = ours(decoder, rows, end=end, beams=beams)
        alone = [ours(decoder, [row], end=end, beams=beams)[0] for row in rows]
        assert [one.tokens for one in together] == [one.tokens for one in alone]
