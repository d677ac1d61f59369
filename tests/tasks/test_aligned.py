"""A contrastive task begins with another model: all of it, and exactly."""

from functools import partial

import pytest
import tiny
import torch

from mmlight.errors import UserError
from mmlight.objectives.clip import Clip
from mmlight.objectives.siglip import SigLip
from mmlight.optim.adamw import AdamWSettings
from mmlight.saved.checkpoint import Saved, write_export
from mmlight.saved.rebuild import rebuild
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.load import load_task
from mmlight.tasks.projection import ProjectionSettings
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.tasks.tuning import Tuning


def image_text(**settings):
    towers = tiny.towers()
    towers.audio = None
    towers.text.projection = ProjectionSettings(kind="mlp", bias=True, hidden=12, activation="relu")
    task = tiny.task(towers=towers, **settings)
    with torch.no_grad():
        for parameter in task.objective.parameters():
            parameter += 0.25
    return task


def exported(task, folder):
    write_export(folder, Saved(task.rebuild_description(), task.preprocessing, task.state_dict()))
    return str(folder)


@pytest.fixture
def model(tmp_path):
    task = image_text()
    return task, exported(task, tmp_path / "model")


def begun(path, **settings):
    task = Contrastive(from_pretrained=path, **settings)
    task.configure_model()
    return task


@pytest.mark.parametrize("objective", [Clip, SigLip])
def test_the_first_step_has_the_models_scores_exactly(tmp_path, objective):
    source = image_text(objective=objective)
    task = begun(exported(source, tmp_path / "model"))
    ours, theirs = task.state_dict(), source.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    batch = tiny.batch()
    scores = []
    for one in (source.eval(), task.eval()):
        kept = one.keep(batch)
        assert kept.loss is not None
        scores.append((kept.loss[0], one.predict_step(batch, 0)))
    assert torch.equal(scores[0][0], scores[1][0])
    assert all(torch.equal(scores[0][1][name], scores[1][1][name]) for name in ("image", "text"))


def test_a_checkpoint_of_it_names_no_other_file(model, tmp_path):
    _, path = model
    task = begun(path)
    described = task.rebuild_description()
    assert path not in str(described)
    again = load_task(exported(task, tmp_path / "again"))
    batch = tiny.batch()
    ours, theirs = again.predict_step(batch, 0), task.eval().predict_step(batch, 0)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    described["init_args"]["from_pretrained"] = path
    with pytest.raises(UserError, match="names something outside of the checkpoint"):
        rebuild(described, base=Task)


def test_all_that_came_loaded_learns_at_a_tenth(model, tmp_path):
    source, _ = model
    source.preprocessing = {"published": {"format": "open_clip"}}
    path = exported(source, tmp_path / "published")
    task = begun(path, optimizer=AdamWSettings(lr=1e-4))
    scales = task.trained.lr_scales
    assert task.tower("image").encoder.is_pretrained
    for name, _ in task.named_parameters():
        expected = 1.0 if name.startswith("objective.") else 0.1
        assert scales.get(name, 1.0) == pytest.approx(expected), name
    notes = "\n".join(task.trained.notes)
    assert "a tenth of optimizer.lr" in notes
    assert "objective: log_scale of" in notes
    assert "new: nothing" in notes
    own = begun(path, tuning=Tuning(backbone_lr=2e-5), optimizer=AdamWSettings(lr=1e-4))
    assert own.trained.lr_scales["towers.text.projection.0.weight"] == pytest.approx(0.2)


def test_a_further_tower_is_new_and_the_models_pair_keeps_its_temperature(model):
    source, path = model
    task = begun(path, towers=Towers(audio=tiny.towers().audio))
    pairs = [(pair.first, pair.second) for pair in task.objective.pairs]
    assert len(pairs) == 3
    values = dict(zip(pairs, task.objective.log_scale.tolist(), strict=True))
    start = Clip()
    start.build(("image", "text"))
    assert values.pop(("image", "text")) == source.objective.log_scale.item()
    assert set(values.values()) == {start.log_scale.item()}


def test_settings_of_a_tower_win_over_the_models(model):
    _, path = model
    settings = TowerSettings(locked=True, changes={"drop_path_rate": 0.2})
    task = begun(path, towers=Towers(image=settings), objective=partial(Clip, ranks="ring"))
    assert task.tower("image").locked
    assert task.tower("image").encoder.rebuild_args()["drop_path_rate"] == 0.2
    assert task.objective._ranks == "ring"
    described = task.rebuild_description()["init_args"]
    assert described["objective"]["init_args"]["ranks"] == "ring"
    assert described["towers"]["image"]["locked"] is True


def test_another_projection_or_width_is_new(model):
    _, path = model
    task = begun(path, embed_dim=16)
    assert not task.tower("image").loaded_projection
    task = begun(path, towers=Towers(text=TowerSettings(projection="linear")))
    assert task.tower("image").loaded_projection
    assert not task.tower("text").loaded_projection


def test_a_model_of_one_tower_is_no_aligned_one(tmp_path):
    task = image_text()
    description = task.rebuild_description()
    description["init_args"]["towers"]["text"] = None
    path = tmp_path / "one"
    write_export(path, Saved(description, None, task.state_dict()))
    with pytest.raises(UserError, match=r"model.from_pretrained: .* has image tower alone"):
        Contrastive(from_pretrained=str(path))
