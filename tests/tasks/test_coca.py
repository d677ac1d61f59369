"""Contrastive and captioning losses together, on images of four colours."""

from functools import partial

import pytest
import torch
from tasks import test_captioning, tiny

from mmlight.decoders.coca_decoder import CocaDecoder
from mmlight.errors import UserError
from mmlight.objectives.siglip import SigLip
from mmlight.tasks.coca import Coca
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.tower import Towers, TowerSettings

SIZES = dict(vocab_size=260, dim=16, num_layers=2, num_heads=2, max_tokens=48, dropout=0.0)


def task(**settings):
    torch.manual_seed(0)
    reads = TowerSettings(encoder=partial(CocaDecoder, unimodal_layers=1, memory_dim=16, **SIZES))
    towers = Towers(image=tiny.towers().image, text=reads)
    given = {"towers": towers, "embed_dim": 8, "token_dropout": 0.0} | settings
    built = Coca(**given)
    built.preprocessing = test_captioning.prepared()
    built.configure_model()
    built.log_gated = built.__dict__.setdefault("logged", {}).update
    return built


def test_colours_are_retrieved_and_captioned_and_drawn(tmp_path):
    built = task()
    optimizer = torch.optim.AdamW(built.parameters(), lr=1e-2)
    for step in range(60):
        optimizer.zero_grad()
        built.training_step(test_captioning.batch(test_captioning.ALL, seed=step), 0).backward()
        assert all(p.grad is not None for p in built.parameters())
        optimizer.step()
        built.after_step()
    new = test_captioning.batch(test_captioning.ALL, seed=999)
    scores = evaluate(built, [new])
    assert scores["image_to_text/recall_at_1"] == scores["text_to_image/recall_at_1"] == 1
    assert scores["exact_match"] == 1
    assert scores.keys() <= built.score_names()
    shown = test_captioning.ShownSamples(
        {n: {"image": test_captioning.Example(new.image.pixels_BCHW[n].numpy())} for n in range(4)}
    )
    names = {path.name for path in built.draw(built.evaluation, tmp_path, shown)}
    assert {"val_captions.png", "val_caption_words.png", "val_retrieval_image_to_text.png"} <= names


def test_the_loss_is_the_weighted_sum_of_both():
    given = test_captioning.batch(test_captioning.ALL)
    one, other = task(), task(contrastive_weight=0.5, caption_weight=3.0)
    losses = [float(t.training_step(given, 0).detach()) for t in (one, other)]
    logged = one.logged
    contrastive, captions = (logged[f"train/{n}_loss"].item() for n in ("contrastive", "caption"))
    assert losses[0] == pytest.approx(contrastive + 2 * captions, rel=1e-5)
    assert losses[1] == pytest.approx(0.5 * contrastive + 3 * captions, rel=1e-5)


def test_other_objectives_and_what_is_predicted():
    given = test_captioning.batch(test_captioning.ALL)
    with torch.no_grad():
        features = task(objective=SigLip).eval().predict_step(given, 0)
        rows = task(predicts="captions").eval().predict_step(given, 0)
    assert {n: tuple(x.shape) for n, x in features.items()} == {"image": (4, 8), "text": (4, 8)}
    assert [row["key"] for row in rows] == given.keys and "caption" in rows[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"by": "prefix"}, "model.by"),
        ({"caption_weight": 0.0}, "model.caption_weight: 0.0 must be above 0"),
        (
            {"towers": Towers(tiny.towers().image, test_captioning.decoder(memory_dim=16))},
            "TransformerDecoder gives no text embedding",
        ),
    ],
)
def test_mistakes_have_one_line(settings, said):
    with pytest.raises(UserError, match=said):
        task(**settings)
