"""Captions of plain colours and of tones, by cross-attention and by prefix."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from interop import every_task
from tasks import tiny

from mmlight.batch import Batch, Images, Text
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.errors import UserError
from mmlight.runs.plots.examples import Example
from mmlight.tasks.captioning import Captioning
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.load import load_task
from mmlight.tasks.pictures import ShownSamples
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer

TOKENIZER = ByteTokenizer()
COLOURS = {"red": (220, 20, 20), "lime": (20, 220, 20), "navy": (20, 20, 140), "grey": (128,) * 3}
VIT = tiny.towers().image


def decoder(**settings):
    sizes = dict(vocab_size=260, dim=16, num_layers=2, num_heads=2, max_tokens=48, dropout=0.0)
    return TowerSettings(encoder=partial(TransformerDecoder, **sizes | settings))


def prepared(tokenizer=TOKENIZER, **text):
    settings = {"tokenizer": tokenizer.state(), "vocab_size": tokenizer.vocab_size}
    return {"image": {"channels": 3}, "text": settings | {"max_tokens": 20} | text, "audio": None}


def task(by="cross_attention", *, given=None, **settings):
    torch.manual_seed(0)
    memory = {"memory_dim": 24} if by == "cross_attention" else {}
    towers = Towers(image=VIT, text=decoder(**memory))
    built = Captioning(**{"towers": towers, "by": by, "token_dropout": 0.0} | settings)
    built.preprocessing = given or prepared()
    built.configure_model()
    built.log_gated = lambda values: None
    return built


def batch(captions, *, each=1, seed=0):
    """Images of the colour that their captions name, `each` of one image."""
    names = [caption.split()[-1] for caption in captions[::each]]
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.stack(
        [
            torch.tensor(COLOURS[name])[:, None, None]
            + torch.randint(-15, 16, (3, 16, 16), generator=draws)
            for name in names
        ]
    )
    size = len(names)
    encoding = TOKENIZER.encode_batch(captions, max_tokens=20)
    here = torch.ones(size, dtype=torch.bool)
    return Batch(
        index_B=torch.arange(size),
        keys=[f"0/{n}" for n in range(size)],
        epoch=0,
        step=0,
        valid_B=here.clone(),
        image=Images(pixels.clamp(0, 255).byte(), here.clone()),
        text=Text(
            token_ids_NL=torch.from_numpy(encoding.ids_NL),
            mask_NL=torch.from_numpy(encoding.mask_NL),
            present_N=torch.ones(len(captions), dtype=torch.bool),
            item_N=torch.arange(size).repeat_interleave(each),
            caption_id_N=torch.arange(len(captions)),
        ),
        captions=list(captions),
    )


ALL = [f"it is {name}" if n % 2 else name for n, name in enumerate(COLOURS)]


@pytest.mark.parametrize("by", ["cross_attention", "prefix"])
def test_captions_of_colours_are_learned_scored_drawn_and_saved(by, tmp_path):
    built = task(by)
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-2)
    for step in range(60):
        optimizer.zero_grad()
        built.training_step(batch(ALL, seed=step), 0).backward()
        assert all(p.grad is not None for p in built.parameters())
        optimizer.step()
    new = batch(ALL, seed=999)
    scores = evaluate(built, [new])
    assert scores["exact_match"] == scores["bleu_1"] == scores["chrf"] == 1
    assert set(scores) == built.score_names()
    assert scores["loss"] < 0.1
    with torch.no_grad():
        rows = built.eval().predict_step(new, 0)
    assert [row["caption"] for row in rows] == ALL

    looks = built.evaluation.looks
    assert [" ".join(look.words) for look in looks] == ALL
    assert looks[1].maps_WRC.shape == (3, 2, 2)
    np.testing.assert_allclose(looks[1].maps_WRC.sum((1, 2)), 1, atol=1e-5)
    shown = {n: {"image": Example(new.image.pixels_BCHW[n].numpy())} for n in range(4)}
    drawn = built.draw(built.evaluation, tmp_path, ShownSamples(shown))
    assert [path.name for path in drawn] == ["val_captions.png", "val_caption_words.png"]

    again = load_task(every_task.save(built, tmp_path / "it.ckpt"))
    assert again.predict_step(new, 0) == rows


@pytest.mark.parametrize("by", ["cross_attention", "prefix"])
def test_the_loss_is_of_each_token_that_comes_next_whatever_the_padding(by):
    built = task(by).double().eval()
    given = batch(ALL)
    text, memory = given.text, built.see(given)
    said = built.say(text, memory)
    wanted, count = 0.0, 0
    for row in range(4):
        length = int(text.mask_NL[row].sum())
        alone = text.map(lambda t, row=row, length=length: t[row : row + 1, :length]
                         if t.ndim > 1 else t[row : row + 1])  # fmt: skip
        own = type(memory)(memory.tokens_NMD[row : row + 1], memory.mask_NM[row : row + 1])
        logp = built.say(alone, own).logits_NLV.log_softmax(-1)[0]
        ids = text.token_ids_NL[row]
        for place in range(length - 1):
            wanted, count = wanted - float(logp.detach()[place, ids[place + 1]]), count + 1
    loss = built.token_loss(said.logits_NLV, said.next.token_NL, counted_NL=said.next.counted_NL)
    assert loss.value.item() == pytest.approx(wanted / count, rel=1e-10)
    # The decoder's logits depend on the picture.
    dark = replace(given, image=replace(given.image, pixels_BCHW=given.image.pixels_BCHW // 4))
    assert not torch.allclose(built.say(text, built.see(dark)).logits_NLV, said.logits_NLV)


def test_every_caption_of_a_sample_is_a_reference_and_counts_in_the_loss():
    built = task()
    two = ["red", "it is red", "lime", "it is lime"]
    both = evaluate(built, [batch(two, each=2)])
    assert built.evaluation.references == [["red", "it is red"], ["lime", "it is lime"]]
    single = [evaluate(built, [batch([two[n], two[n + 2]])])["loss"] for n in range(2)]
    tokens = [len("red") + len("lime") + 2, len("it is red") + len("it is lime") + 2]
    wanted = sum(loss * n for loss, n in zip(single, tokens, strict=True)) / sum(tokens)
    assert both["loss"] == pytest.approx(wanted, rel=1e-6)


def test_what_is_missing_counts_in_no_loss_and_no_score():
    built = task()
    given = batch(ALL)
    present = torch.tensor([True, True, False, True])
    halved = replace(given, image=replace(given.image, present_B=present))
    here = torch.tensor([0, 1, 3])
    rest = given.map(lambda t: t[here])
    rest = replace(rest, text=replace(rest.text, item_N=torch.arange(3)), keys=["0", "1", "3"],
                   captions=[ALL[n] for n in here])  # fmt: skip
    built.eval()
    assert float(built.training_step(halved, 0)) == pytest.approx(
        float(built.training_step(rest, 0)), rel=1e-5
    )
    assert evaluate(built, [halved]) == pytest.approx(evaluate(built, [rest]), rel=1e-5)


def test_sampled_captions_depend_on_the_sample_and_not_on_its_batch():
    built = task(sampling=Sampling(max_new_tokens=6, temperature=1.5, seed=5)).eval()
    given = batch(ALL)
    rows = built.predict_step(given, 0)
    last = replace(given.map(lambda t: t[3:]), keys=["0/3"])
    assert built.predict_step(last, 0)[0]["caption"] == rows[3]["caption"]
    assert len({row["caption"] for row in rows}) > 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"towers": Towers(text=decoder())}, "captions need two: image or audio, and text"),
        ({"towers": tiny.towers()}, "captions need two"),
        (
            {"towers": Towers(image=VIT, text=every_task.text_tower())},
            "HfText sees what comes after a word",
        ),
        ({"by": "prefix", "towers": Towers(image=VIT, text=decoder(memory_dim=8))}, "has a memory"),
        ({"towers": Towers(image=VIT, text=decoder())}, "set model.towers.text.encoder.memory_dim"),
        ({"sampling": Sampling(guidance=2.0)}, "model.sampling.guidance"),
        ({"given": prepared(CharTokenizer())}, "no token that ends a text"),
    ],
)
def test_mistakes_have_one_line(settings, said):
    with pytest.raises(UserError, match=said):
        task(**settings)
