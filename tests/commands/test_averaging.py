"""Averages of weights, without any data."""

import pytest
import torch
from interop import every_task
from torch import nn

from mmlight.commands.soup import Average, check_ingredients
from mmlight.commands.weights import read_plain, recompute_batch_norm
from mmlight.commands.wise_ft import interpolate, shared_tensors
from mmlight.errors import UserError
from mmlight.saved.checkpoint import Saved
from mmlight.tasks.load import build_task


def tensors(seed, **more):
    draws = torch.Generator().manual_seed(seed)
    return {
        "towers.image.encoder.w": torch.randn(4, 3, generator=draws),
        "towers.image.encoder.half": torch.randn(5, generator=draws).bfloat16(),
        "towers.image.encoder.count": torch.tensor(seed),
        **more,
    }


def test_mean_is_that_of_float64_and_counters_are_the_first_models():
    models = [tensors(seed) for seed in range(3)]
    average = Average()
    for model in models:
        average.add(model)
    mean = average.tensors()
    for name in ("towers.image.encoder.w", "towers.image.encoder.half"):
        wanted = torch.stack([m[name].double() for m in models]).mean(0).to(mean[name].dtype)
        assert torch.equal(mean[name], wanted)
    assert int(mean["towers.image.encoder.count"]) == 0
    average.remove(models[2])
    two = Average()
    two.add(models[0])
    two.add(models[1])
    for name, tensor in average.tensors().items():
        torch.testing.assert_close(tensor, two.tensors()[name])


def test_interpolation_is_exact_at_its_ends_and_keeps_the_head():
    pretrained = tensors(0, **{"objective.scale": torch.ones(())})
    finetuned = tensors(1, **{"head.weight": torch.randn(2, 3)})
    shared = shared_tensors(pretrained, finetuned)
    assert shared == ["towers.image.encoder.w", "towers.image.encoder.half"]
    for alpha, end in ((0.0, pretrained), (1.0, finetuned)):
        mixed = interpolate(pretrained, finetuned, names=shared, alpha=alpha)
        assert all(torch.equal(mixed[name], end[name]) for name in shared)
        assert torch.equal(mixed["head.weight"], finetuned["head.weight"])
    mixed = interpolate(pretrained, finetuned, names=shared, alpha=0.25)
    name = "towers.image.encoder.w"
    torch.testing.assert_close(mixed[name], 0.75 * pretrained[name] + 0.25 * finetuned[name])


def test_models_without_a_common_shape_are_refused():
    with pytest.raises(UserError, match=r"encoder\.w is \(2,\) fine-tuned, \(4, 3\) pretrained"):
        shared_tensors(tensors(0), {"towers.image.encoder.w": torch.zeros(2)})
    with pytest.raises(UserError, match="no tensor in common"):
        shared_tensors(tensors(0), {"head.weight": torch.zeros(2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"description": {"class_path": "other"}}, r"b is a other, a a task"),
        ({"tensors": tensors(1) | {"x": torch.zeros(1)}}, r"b is another model than a: .*x"),
        ({"preprocessing": {"class_names": ["y", "x"]}}, r"other data\.class_names than a"),
    ],
)
def test_ingredients_must_be_runs_of_one_model(change, message):
    given = {"description": {"class_path": "task"}, "preprocessing": {"class_names": ["x", "y"]}}
    first = Saved(**given, tensors=tensors(0))
    check_ingredients([first, Saved(**given, tensors=tensors(1))], ["a", "b"])
    with pytest.raises(UserError, match=message):
        check_ingredients([first, Saved(**{**given, "tensors": tensors(1), **change})], ["a", "b"])


def test_statistics_of_batch_norms_are_the_mean_over_batches():
    class Tiny(nn.Module):
        device = torch.device("cpu")

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)
            self.drop = nn.Dropout(0.5)

        def predict_step(self, batch, number):
            assert not self.drop.training
            return self.norm(batch)

    torch.manual_seed(0)
    batches = [torch.randn(8, 3) * 2 + 1 for _ in range(4)]
    task = Tiny()
    task.norm.running_mean.fill_(9)
    recompute_batch_norm(task, batches)
    mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variance = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(task.norm.running_mean, mean)
    torch.testing.assert_close(task.norm.running_var, variance)
    assert not task.norm.training and task.norm.momentum == 0.1


def test_adapters_are_merged_before_anything_is_averaged(tmp_path):
    pytest.importorskip("peft")
    task = every_task.make("adapted")
    path = every_task.save(task, tmp_path / "a.ckpt")
    _, plain = read_plain(path, key="test")
    assert not any("lora" in name for name in plain.tensors)
    again = build_task(plain)
    text = every_task.text_batch(task)
    with torch.no_grad():
        ours, merged = task.logits(text), again.logits(text)
    torch.testing.assert_close(merged, ours, rtol=1e-4, atol=1e-5)
