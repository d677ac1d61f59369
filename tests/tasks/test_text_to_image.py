"""Images from captions, and captions from images, by one transformer over both."""

import json
from dataclasses import replace

import cli_data
import pytest
import torch
from tasks import code_tasks

from mmlight.commands import draw, generate
from mmlight.decoders.sampling import Sampling
from mmlight.encoders.vq_image import VqImage
from mmlight.errors import UserError
from mmlight.interop.judged import several_times
from mmlight.objectives.reconstruction import Reconstruction
from mmlight.tasks.code_words import CodeWords
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.text_to_image import TextToImage
from mmlight.tasks.tower import Towers, TowerSettings

WORDS = CodeWords(text_size=10, num_codes=4, width=5, length=3, pad_id=0, end_id=2)


def test_tokens_have_places_of_their_own():
    ids = torch.tensor([[1, 7, 2], [1, 2, 9]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    field = WORDS.fields(ids, mask)
    assert field.tolist() == [[1, 7, 2, 0, 0], [1, 2, 0, 0, 0]]
    assert WORDS.text_part(field)[0].tolist() == [10, 1, 7, 2, 0, 0]
    assert WORDS.image_part(torch.tensor([[0, 3, 1]])).tolist() == [[11, 12, 15, 13]]
    assert WORDS.said_BW(field).tolist() == [[True] * 3 + [False] * 2, [True] * 2 + [False] * 3]
    without_end = replace(WORDS, end_id=None)
    assert without_end.said_BW(field).tolist()[1] == [True] * 3 + [False] * 2
    assert (WORDS.vocab_size, WORDS.num_places) == (16, 10)


def nll(task, ids, place):
    """-log p of the token at a place of one sequence, seen from those before it alone."""
    hidden = task.decoder.decode(task.decoder.embed(ids[None, :place]))
    return -task.decoder.logits(hidden)[0, -1].double().log_softmax(0)[ids[place]]


@torch.no_grad()
def expected_losses(task, batch):
    """The three losses, token by token."""
    draws = task._draws(batch)
    codes = task.codes.codes(batch.image)
    found = {"image": [], "text": [], "caption": []}
    for row, caption in enumerate(batch.captions):
        text = task.tokenizer.encode([caption], max_tokens=16)[0]
        first = bool(draws[row, 0] < task.image_first)
        dropped = not first and bool(draws[row, 1] < task.drop_caption)
        field = [] if dropped else text
        text_part = [260, *field, *[task.tokenizer.pad_id] * (16 - len(field))]
        image_part = [261, *(codes[row] + 262).tolist()]
        ids = torch.tensor(image_part + text_part if first else text_part + image_part)
        if first:
            found["caption"] += [nll(task, ids, 18 + n) for n in range(len(text))]
            continue
        found["text"] += [nll(task, ids, 1 + n) for n in range(len(field))]
        found["image"] += [nll(task, ids, 18 + n) for n in range(16)]
    return {name: torch.stack(terms).mean() if terms else 0 for name, terms in found.items()}


def test_losses_are_those_of_single_tokens():
    task = code_tasks.drawing_task(drop_caption=0.4, image_first=0.4, text_weight=0.5)
    batch = code_tasks.batch(["red", "a blue one", "grey", "no", "x", "yes"])
    draws = task._draws(batch)
    assert 0 < (draws[:, 0] < 0.4).sum() < 6
    expected = expected_losses(task, batch)
    found = float(task.training_step(batch, 0).detach())
    total = expected["image"] + 0.5 * expected["text"] + expected["caption"]
    assert found == pytest.approx(float(total), rel=1e-5)


def test_codes_weigh_as_much_as_is_going_on_in_their_part():
    task = code_tasks.drawing_task(drop_caption=0.0, contrast=True)
    batch = code_tasks.batch()
    batch.image.pixels_BCHW[:] = 100
    batch.image.pixels_BCHW[:, :, :4, 4:8] = torch.arange(4, dtype=torch.uint8)[:, None] * 60
    weight_BHW = Reconstruction().weights(batch.image.pixels_BCHW / 255)
    weight_BL = weight_BHW.unflatten(1, (4, 4)).unflatten(3, (4, 4)).mean((2, 4)).flatten(1)
    assert weight_BL.max() > 3 * weight_BL.min()
    codes = task.codes.codes(batch.image)
    total = 0.0
    for row, caption in enumerate(batch.captions):
        text = task.tokenizer.encode([caption], max_tokens=16)[0]
        field = [260, *text, *[task.tokenizer.pad_id] * (16 - len(text))]
        ids = torch.tensor([*field, 261, *(codes[row] + 262).tolist()])
        total += sum(float(nll(task, ids, 18 + n) * weight_BL[row, n]) for n in range(16))
    found = float(task.training_step(batch, 0).detach())
    assert found == pytest.approx(total / float(weight_BL.sum()), rel=1e-5)


def test_a_decoder_of_another_grid_is_one_line(monkeypatch):
    monkeypatch.setitem(code_tasks.DECODER, "grid", (4, 4))
    monkeypatch.setitem(code_tasks.DECODER, "grid_first", 16)
    with pytest.raises(UserError, match=r"\[4, 4\] from place 16.*\[4, 4\], grid_first: 17"):
        code_tasks.drawing_task()
    monkeypatch.setitem(code_tasks.DECODER, "grid_first", 17)
    task = code_tasks.drawing_task()
    assert task.draw_images(["red"]).codes_BL.shape == (1, 16)
    with pytest.raises(UserError, match="image_first 0"):
        code_tasks.drawing_task(image_first=0.5)


def test_what_is_dropped_depends_on_seed_epoch_and_sample_alone():
    task = code_tasks.drawing_task()
    batch = code_tasks.batch()
    whole = task._draws(batch)
    assert torch.equal(task._draws(replace(batch, index_B=batch.index_B[2:], step=9)), whole[2:])
    assert not torch.equal(task._draws(replace(batch, epoch=1)), whole)
    task._seed = 1
    assert not torch.equal(task._draws(batch), whole)


def test_scores_are_the_likelihoods_of_codes_and_captions():
    task = code_tasks.drawing_task(image_first=1.0, num_drawn=3)
    batch = code_tasks.batch()
    batch = replace(batch, valid_B=torch.tensor([True, True, True, False]))
    scores = evaluate(task, [batch])
    assert set(scores) == task.score_names()
    known = replace(batch, captions=batch.captions[:3])
    expected = expected_losses(task, known)
    assert scores["caption_nll"] == pytest.approx(float(expected["caption"]), rel=1e-5)
    task.image_first, task.drop_caption = 0.0, 0.0
    expected = expected_losses(task, known)
    assert scores["image_nll"] == pytest.approx(float(expected["image"]), rel=1e-5)
    assert task.evaluation.prompts == batch.captions[:3]
    assert len(task.evaluation.pixels) == 3


def test_images_do_not_depend_on_what_else_is_drawn(tmp_path):
    task = code_tasks.drawing_task()
    sampling = Sampling(temperature=1.0, guidance=2.0, seed=3)
    every = task.draw_images(code_tasks.CAPTIONS, sampling=sampling)
    assert tuple(every.pixels_BCHW.shape) == (4, 3, 16, 16)
    assert bool((every.codes_BL >= 0).all()) and int(every.codes_BL.max()) < 8
    one = task.draw_images(code_tasks.CAPTIONS[2:3], sampling=sampling, rows=[2])
    assert torch.equal(one.codes_BL, every.codes_BL[2:3])
    other = task.draw_images(code_tasks.CAPTIONS, sampling=replace(sampling, seed=4))
    assert not torch.equal(other.codes_BL, every.codes_BL)
    decoded = task.codes.decode(every.codes_BL).clamp(0, 1) * 255
    assert torch.equal(every.pixels_BCHW, decoded.round().to(torch.uint8))


def test_guidance_is_between_with_and_without_the_caption():
    task = code_tasks.drawing_task()
    without = task.draw_images(["red"], sampling=Sampling(guidance=0.0)).codes_BL
    assert torch.equal(without, task.draw_images([""], sampling=Sampling()).codes_BL) or (
        task.tokenizer.encode([""], max_tokens=4)[0] != []
    )
    same = task.draw_images(["red", "no"], sampling=Sampling(guidance=0.0)).codes_BL
    assert torch.equal(same[0], same[1])


def test_a_completion_keeps_the_upper_half():
    task = code_tasks.drawing_task()
    image = code_tasks.batch().image
    done = task.complete(image, code_tasks.CAPTIONS)
    assert torch.equal(done.codes_BL[:, :8], task.codes.codes(image)[:, :8])
    assert tuple(done.codes_BL.shape) == (4, 16)


def test_captions_are_text():
    task = code_tasks.drawing_task(image_first=0.5)
    said = task.describe(code_tasks.batch().image)
    assert len(said) == 4 and all(isinstance(one, str) for one in said)
    with pytest.raises(UserError, match="image_first 0"):
        code_tasks.drawing_task().describe(code_tasks.batch().image)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drop_caption": 1.5}, "model.drop_caption: 1.5"),
        ({"text_weight": -1.0}, "model.text_weight"),
        ({"drop_caption": 0.0, "sampling": Sampling(guidance=2.0)}, "drop_caption above 0"),
        ({"sampling": Sampling(beams=2)}, "beams and stop"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        code_tasks.drawing_task(**settings)


def test_a_tokenizer_must_be_locked():
    image = TowerSettings(encoder=VqImage)
    with pytest.raises(UserError, match=r"image\.locked: must be true"):
        TextToImage(towers=Towers(image=image, text=TowerSettings()))


def test_a_vocabulary_that_is_too_small_says_what_is_needed():
    few = code_tasks.DECODER | {"vocab_size": 265}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="at least 270"):
        patch.setattr(code_tasks, "DECODER", few)
        code_tasks.drawing_task()


def test_samples_are_repeated_under_numbers_of_their_own():
    batches = [code_tasks.batch(), code_tasks.batch()]
    found = list(several_times(batches, count=11))
    assert [int(one.valid_B.sum()) for one in found] == [4, 4, 3]
    assert len({n for one in found[1:] for n in one.index_B.tolist()}) == 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer, and a model that draws by it: the folder, settings and runs."""
    folder = tmp_path_factory.mktemp("drawing")
    data = cli_data.write_data(folder / "data")
    values = code_tasks.codes_experiment(data, folder / "runs")
    path = cli_data.write_yaml(folder / "tokens.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    tokens = cli_data.only_run(folder / "runs", "tokens")
    values = code_tasks.drawing_experiment(data, folder / "runs", tokens=tokens)
    values = cli_data.changed(values, {"run.test": True, "pictures": {}})
    path = cli_data.write_yaml(folder / "drawing.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return folder, path, cli_data.only_run(folder / "runs", "drawing"), tokens


def test_a_run_draws_its_prompts(trained):
    _, _, run, _ = trained
    final = json.loads((run / "summary.json").read_text())["final"]
    assert 0 < final["test/image_nll"] < 8 and "val/caption_nll" in final
    assert {"val_samples.png", "test_samples.png"} <= {p.name for p in (run / "plots").iterdir()}
    assert "test samples" in (run / "report.html").read_text()


def test_predict_returns_codes(trained):
    folder, path, run, _ = trained
    assert cli_data.run_in_process("predict", "-c", path, "--ckpt_path", run) == 0
    (predicted,) = folder.rglob("predictions.jsonl")
    rows = [json.loads(line) for line in predicted.read_text().splitlines()]
    assert len(rows) == 8 and all(len(row["codes"]) == 16 for row in rows)
    assert rows[0]["prompt"]


@pytest.mark.slow
def test_a_classifier_judges_what_was_drawn(trained, capsys, tmp_path):
    folder, path, run, tokens = trained
    values = cli_data.experiment(folder / "data", folder / "runs")
    towers = {"image": values["model"]["init_args"]["towers"]["image"]}
    values["model"] = {
        "class_path": "mmlight.tasks.classification.Classification",
        "init_args": {"towers": towers, "optimizer": {"lr": 3e-3}},
    }
    values["data"]["init_args"] |= {
        "members": {"image": "png", "label": "cls"},
        "image": {"size": 16, "soften": 2.0, "noise": 0.1},
        "audio": None,
        "text": None,
    }
    values["trainer"]["max_steps"] = 40
    judge = cli_data.write_yaml(folder / "judge.yaml", values)
    assert cli_data.run_in_process("fit", "-c", judge) == 0
    judges = cli_data.only_run(folder / "runs", "judge")
    for model in (run, tokens):
        given = ("--model", model, "--judge", judges, "--count", "13", "--out", tmp_path / "out")
        assert cli_data.run_in_process("judge", "-c", path, *given) == 0
        told = json.loads((tmp_path / "out/scores.json").read_text())
        assert told["num_samples"] == 13 and told["real"]["accuracy"] > 0.9
        assert 0 <= told["drawn"]["accuracy"] <= 1 and told["frechet_distance"] >= 0
        assert (tmp_path / "out/samples.png").is_file()
    assert "frechet_distance" in capsys.readouterr().out
    for arguments, said in (
        (("--model", judges, "--judge", judges), "draws no images"),
        (("--model", tokens, "--judge", judges, "--guidance", "2"), "no effect on a tokenizer"),
        (("--model", run, "--judge", judges, "--split", "vall"), "the data has"),
    ):
        assert cli_data.run_in_process("judge", "-c", path, *arguments) == 2
        assert said in capsys.readouterr().err


def test_a_picture_of_prompts_and_completions_is_drawn(trained, tmp_path, capsys):
    _, _, run, _ = trained
    given = ("--model", run, "--prompt", "red 1", "--prompt", "blue 2", "--count", "2")
    first = ("--image", *given, "--out", tmp_path / "a.png", "--seed", "1")
    assert generate.main([str(a) for a in first]) == 0
    image = tmp_path / "one.png"
    image.write_bytes(cli_data.make_sample(3)["png"])
    begun = ("--begin", image, "--out", tmp_path / "b.png", "--guidance", "1")
    assert draw.main([str(a) for a in (*given, *begun)]) == 0
    assert (tmp_path / "a.png").stat().st_size > 1000 and (tmp_path / "b.png").is_file()
    assert draw.main(["--model", str(run), "--describe", str(image)]) == 0
    assert "one.png: " in capsys.readouterr().out
    for wrong, said in (
        ([], "give prompts"),
        (["--prompt", "red"], "--out is missing"),
        (["--prompt", "red", "--out", "."], "--out .: is a folder"),
        (["--prompt", "red", "--out", "x.jpg"], "x.jpg: pictures are written as PNG"),
        (["--prompt", "red", "--out", "x.png", "--keep", "2"], "only with --rank_by"),
    ):
        with pytest.raises(UserError, match=said):
            draw.main(["--model", str(run), *wrong])


@pytest.mark.slow
def test_samples_are_ranked_by_a_contrastive_model(trained, tmp_path, capsys):
    folder, _, run, _ = trained
    values = cli_data.experiment(folder / "data", folder / "runs")
    values["trainer"]["max_steps"] = 1
    path = cli_data.write_yaml(folder / "fits.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    ranker = cli_data.only_run(folder / "runs", "fits")
    given = ("--model", run, "--prompt", "red 1", "--count", "4", "--out", tmp_path / "a.png")
    ranked = ("--rank_by", ranker, "--keep", "2")
    assert draw.main([str(a) for a in (*given, *ranked)]) == 0
    assert "2 images" in capsys.readouterr().out


def test_the_best_of_each_prompt_comes_first():
    fits = torch.tensor([0.1, 0.9, 0.5, 0.3, 0.2, 0.8])
    assert draw._best_first(fits, count=3, keep=2) == [1, 2, 5, 3]
