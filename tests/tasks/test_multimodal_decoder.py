"""A decoder that is shown images and sounds: prefix and memory, several questions, LoRA."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tasks import question_data, tiny

from mmlight.batch import Images, Pieces
from mmlight.decoders.generate import generate
from mmlight.decoders.sampling import Sampling
from mmlight.encoders.lora import LoraSettings
from mmlight.errors import UserError
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.multimodal_decoder import MultimodalDecoder
from mmlight.tasks.tower import Towers
from mmlight.tasks.tuning import Tuning

MEMORY = {"memory_dim": 12}


@pytest.mark.parametrize("memory", [{}, MEMORY], ids=["prefix", "memory"])
def test_what_is_shown_and_asked_decides_the_answer(memory):
    torch.manual_seed(0)
    task = question_data.multimodal("image", text=question_data.decoder(**memory))
    batch = question_data.batch(3, per_sample=2)
    optimizer = torch.optim.Adam(task.parameters(), lr=0.01)
    for _ in range(80):
        loss = task.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1
    task.eval()
    scores = evaluate(task, [batch])
    assert scores["accuracy"] == 1 and scores["loss"] < 0.1
    rows = task.predict_step(batch, 0)
    assert [row["answer"] for row in rows] == [batch.answers[n] for n in (0, 2, 4)]
    # Another image: the questions are the same, the answers need not be.
    other = replace(batch, image=batch.image.map(lambda t: t.flip(0)))
    assert [row["answer"] for row in task.predict_step(other, 0)] != [r["answer"] for r in rows]


@pytest.mark.parametrize("memory", [{}, MEMORY], ids=["prefix", "memory"])
def test_several_images_are_shown_one_behind_the_other(memory):
    task = question_data.multimodal("image", text=question_data.decoder(**memory)).double().eval()
    batch = question_data.batch(3)
    pixels = batch.image.pixels_BCHW
    here = torch.ones(2, dtype=torch.bool)
    two = replace(batch.rows(0, 2), image=Images(pixels, here, pieces=Pieces.of([2, 1])))
    tokens, mask = task.shown(two)["image"]
    each = [task.shown(batch.rows(n, n + 1))["image"][0][0] for n in range(3)]
    length = len(each[0])
    assert mask.tolist() == [[True] * 2 * length, [True] * length + [False] * length]
    torch.testing.assert_close(tokens[0], torch.cat(each[:2]), rtol=0, atol=1e-12)
    torch.testing.assert_close(tokens[1][mask[1]], each[2], rtol=0, atol=1e-12)
    # What has one image is not changed by the other's two.
    one = replace(two, image=Images(pixels[[0, 2]], here))
    (losses, counted), (plain, _) = (task.answer_loss(b, task.shown(b)) for b in (two, one))
    torch.testing.assert_close(losses[1][counted[1]], plain[1][counted[1]], rtol=0, atol=1e-10)
    assert (losses[0] - plain[0])[counted[0]].abs().max() > 1e-6


def test_pooling_over_images_is_refused_where_none_is_pooled():
    towers = tiny.towers()
    image = replace(towers.image, pieces="mean")
    task = MultimodalDecoder(towers=Towers(image=image, text=question_data.decoder()))
    data = SimpleNamespace(image=SimpleNamespace(frames=4))
    with pytest.raises(UserError, match=r"towers.image.pieces: has no effect: the decoder"):
        task.check_pools(data)
    question_data.multimodal("image").check_pieces(data)


@pytest.mark.parametrize("memory", [{}, MEMORY], ids=["prefix", "memory"])
def test_the_loss_is_that_of_the_answers_generated_one_by_one(memory):
    """Teacher forcing and the loop with its cache see the same scores."""
    task = question_data.multimodal("image", "audio", text=question_data.decoder(**memory)).eval()
    batch = question_data.batch(3)
    audio = replace(batch.audio, present_B=torch.tensor([True, False, True]))
    batch = replace(batch, audio=audio)
    prompt = task._prompt(task._opened(batch.text), task.shown(batch))
    found = generate(task.decoder, prompt, Sampling(max_new_tokens=5), end_id=None)
    said = [list(one.tokens) for one in found]
    width = max(map(len, said)) + 2
    ids = torch.zeros(3, width, dtype=torch.long)
    mask = torch.zeros(3, width, dtype=torch.bool)
    for row, tokens in enumerate(said):
        ids[row, 0] = task.tokenizer.start_id
        ids[row, 1 : len(tokens) + 1] = torch.tensor(tokens)
        mask[row, : len(tokens) + 1] = True
    written = replace(batch.answer, token_ids_NL=ids, mask_NL=mask)
    forced = replace(batch, answer=written)
    terms_NL, counted_NL = task.answer_loss(forced, task.shown(batch))
    total_N = torch.where(counted_NL, terms_NL, 0.0).sum(1)
    wanted = torch.tensor([-one.log_probability for one in found])
    torch.testing.assert_close(total_N, wanted, rtol=1e-4, atol=1e-4)


def test_missing_modalities_change_nothing():
    task = question_data.multimodal("image", "audio").eval()
    batch = question_data.batch(2)
    hidden = task.hidden(batch.text, task.shown(replace(batch, audio=None)))
    absent = replace(batch.audio, present_B=torch.zeros(2, dtype=torch.bool))
    other = task.hidden(batch.text, task.shown(replace(batch, audio=absent)))
    real_NL = batch.text.mask_NL
    torch.testing.assert_close(other[real_NL], hidden[real_NL], rtol=1e-4, atol=1e-5)


def test_a_memory_may_have_positions():
    task = question_data.multimodal(
        "image", "audio", text=question_data.decoder(**MEMORY), num_positions=3
    )
    batch = question_data.batch(2)
    before = task.shown(batch)
    with torch.no_grad():
        task.bridges.positions["image"].zero_()
    after = task.shown(batch)
    moved_BM = (after["image"][0] - before["image"][0]).abs().sum(2)
    assert (moved_BM[:, :3] > 0).all() and (moved_BM[:, 3:] == 0).all()
    torch.testing.assert_close(after["audio"], before["audio"])


def test_a_bridge_of_two_matrices():
    task = question_data.multimodal("image", bridge_hidden=5)
    weights = {n: tuple(p.shape) for n, p in task.bridges.named_parameters() if "projection" in n}
    first, second = (weights[f"by_modality.image.projection.{n}.weight"] for n in (0, 2))
    assert first[0] == second[1] == 5
    task.training_step(question_data.batch(2), 0).backward()
    assert all(p.grad is not None for p in task.bridges.parameters())
    with pytest.raises(UserError, match="bridge_hidden: 0 must be 1 or more"):
        question_data.multimodal("image", bridge_hidden=0)


def test_two_modalities_are_also_scored_alone():
    task = question_data.multimodal("image", "audio", modality_dropout=0.5)
    scores = evaluate(task, [question_data.batch(2, types=["colour", "count"])])
    assert {"accuracy", "image/accuracy", "audio/accuracy", "audio/count/accuracy"} <= set(scores)


def test_projector_first_then_adapters():
    pytest.importorskip("peft")
    tuning = Tuning(method="lora", lora=LoraSettings(rank=2), unfreeze={0: "bridges.*", 3: "all"})
    towers = tiny.towers(locked=True)
    task = question_data.built(
        MultimodalDecoder(
            towers=Towers(image=towers.image, text=question_data.decoder()), tuning=tuning
        )
    )
    names = {n for n, p in task.named_parameters() if p.requires_grad}
    assert any(".lora_" in n for n in names) and any(n.startswith("bridges.") for n in names)
    assert not any("towers.image" in n for n in names)
    task.trained.begin(0)
    assert all(n.startswith("bridges.") for n, p in task.named_parameters() if p.requires_grad)
    assert task.trained.begin(3)
    now = {n for n, p in task.named_parameters() if p.requires_grad}
    assert now == names and all("bridges." in n or ".lora_" in n for n in now)
    task.training_step(question_data.batch(2), 0).backward()


def test_mistakes_are_one_line():
    image = tiny.towers().image
    with pytest.raises(UserError, match=r"takes text, a decoder, and image"):
        MultimodalDecoder(towers=Towers(image=image))
    with pytest.raises(UserError, match=r"modality_dropout has no effect with image alone"):
        question_data.multimodal("image", modality_dropout=0.5)
    with pytest.raises(UserError, match=r"sees what comes after a word"):
        question_data.multimodal("image", text=question_data.text_tower())
    with pytest.raises(UserError, match=r"answer is missing"):
        task = question_data.multimodal("image")
        task.training_step(replace(question_data.batch(2), answer=None), 0)
    with pytest.raises(UserError, match=r"the data has none of image"):
        task.shown(replace(question_data.batch(2), image=None))
