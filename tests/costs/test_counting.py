"""A step counted on shapes, against the same step computed."""

from dataclasses import replace

import pytest
import torch
from interop import every_task
from tasks import tiny

from mmlight.batch import Audio, Batch, Boxes, Images, Text
from mmlight.costs.counting import ShapeCounter, first_samples, mean_count
from mmlight.costs.tally import Tally
from mmlight.data.module import ShardDataModule
from mmlight.optim.adamw import AdamWSettings
from mmlight.tasks.contrastive import Contrastive

SIZE = 4


def batch_for(given):
    here = torch.ones(SIZE, dtype=torch.bool)
    rows = torch.arange(SIZE)
    side = given["image"].size if "image" in given else 16
    ids = torch.ones(SIZE, 20, dtype=torch.long)
    corners = torch.tensor([[[5.0, 5, 30, 30], [10, 10, 40, 50]]]).repeat(SIZE, 1, 1)
    two = torch.ones(SIZE, 2, dtype=torch.bool)
    return Batch(
        index_B=rows,
        keys=["k"] * SIZE,
        epoch=0,
        step=0,
        valid_B=here,
        image=Images(torch.zeros(SIZE, 3, side, side, dtype=torch.uint8), here),
        text=Text(ids, ids.bool(), here, rows, rows),
        audio=Audio(torch.zeros(SIZE, 7000), torch.full((SIZE,), 7000), here),
        label_B=torch.zeros(SIZE, dtype=torch.long),
        boxes=Boxes(corners, two.long(), two, here),
        captions=["ab c a"] * SIZE,
        fields={"labels": [[0]] * SIZE},
    )


def unbuilt(name):
    torch.manual_seed(0)
    task, given = every_task.EVERY[name]()
    task.preprocessing = ShardDataModule(**given).preprocessing()
    return task, batch_for(given)


def computed(name):
    task, batch = unbuilt(name)
    task.log_gated = lambda values: None
    task.configure_model()
    task.train()
    tally = Tally()
    with tally:
        task.training_step(batch, 0).backward()
    return task, tally.counted


@pytest.mark.parametrize(
    "name", ["contrastive", "image_classes", "several_labels", "fusion", "late_fusion", "adapted"]
)
def test_shapes_alone_give_the_flops_of_a_real_step(name):
    task, batch = unbuilt(name)
    counter = ShapeCounter(task, precision="32-true")
    found = counter.count(batch)
    built, wanted = computed(name)
    assert found.note == ""
    assert found.counted.flops == wanted.flops
    assert counter.size.num_parameters == sum(p.numel() for p in built.parameters())
    assert found.num_samples == SIZE


def captions_of(lengths):
    batch = tiny.batch(len(lengths))
    mask_NL = torch.arange(12) < torch.tensor(lengths)[:, None]
    text = replace(batch.text, token_ids_NL=mask_NL.long(), mask_NL=mask_NL)
    return replace(batch, text=text)


def test_packed_captions_are_counted_by_their_lengths_and_memory_by_what_is_held_at_once():
    found = []
    for lengths in ([4] * 48, [12] * 48):
        task = tiny.Contrastive(towers=tiny.towers(), embed_dim=8)
        counted = ShapeCounter(task, precision="32-true").count(captions_of(lengths))
        assert counted.note == ""
        # Gradients of the step before lie beside the activations, however many there are.
        assert counted.counted.peak_bytes >= counted.activation_bytes
        found.append(counted)
    assert found[0].counted.flops < found[1].counted.flops
    assert found[0].activation_bytes < found[1].activation_bytes


def test_transcripts_are_counted_on_shapes_but_for_the_sums_over_alignments():
    task, batch = unbuilt("transcription")
    found = ShapeCounter(task, precision="32-true").count(batch)
    assert found.note == ""
    assert found.counted.flops == computed("transcription")[1].flops


def test_queries_without_noised_copies_are_counted_on_shapes():
    def queries():
        task, batch = unbuilt("queries")
        task._make_head = every_task.partial(task._make_head, num_denoising=0)
        return task, batch

    task, batch = queries()
    found = ShapeCounter(task, precision="32-true").count(batch)
    assert found.note == ""
    again, _ = queries()
    again.log_gated = lambda values: None
    again.configure_model()
    tally = Tally()
    with tally:
        again.train().training_step(batch, 0).backward()
    assert found.counted.flops == tally.counted.flops


@pytest.mark.parametrize("name", ["detection", "queries"])
def test_a_loss_that_needs_values_is_counted_on_few_samples(name):
    task, batch = unbuilt(name)
    found = ShapeCounter(task, precision="32-true").count(batch)
    assert "2 samples" in found.note
    assert found.counted.flops == pytest.approx(computed(name)[1].flops, rel=0.05)
    assert found.num_samples == SIZE
    # Caches of the model hold no tensor without numbers afterwards: a real step runs.
    assert computed(name)[1].flops > 0


def test_checkpointing_keeps_less_and_computes_more():
    found = []
    for checkpointing in (False, True):
        vit = {"kwargs": tiny.VIT | {"depth": 6}}
        encoder = every_task.partial(tiny.TimmImage, "vit_tiny_patch16_224", img_size=16, **vit)
        task = tiny.Contrastive(
            towers=tiny.towers(encoder=encoder, checkpointing=checkpointing), embed_dim=8
        )
        found.append(ShapeCounter(task, precision="32-true").count(tiny.batch()))
    assert found[1].activation_bytes < found[0].activation_bytes
    assert found[1].counted.flops > found[0].counted.flops


def test_bfloat16_keeps_less():
    found = [
        ShapeCounter(unbuilt("fusion")[0], precision=p).count(unbuilt("fusion")[1])
        for p in ("32-true", "bf16-mixed")
    ]
    assert found[1].activation_bytes < found[0].activation_bytes
    assert found[1].counted.flops == found[0].counted.flops


def test_first_samples_and_mean():
    batch = tiny.batch(6)
    few = first_samples(batch, 2)
    assert few.size == 2 and len(few.captions) == 2 and len(few.image.pixels_BCHW) == 2
    task = tiny.Contrastive(towers=tiny.towers(), embed_dim=8)
    counter = ShapeCounter(task, precision="32-true")
    one, two = counter.count(batch), counter.count(batch)
    assert mean_count([one, two]).counted.flops == pytest.approx(one.counted.flops)


@pytest.mark.parametrize(
    ("settings", "bytes_each"),
    [
        ({}, 8),
        ({"class_path": "torch.optim.SGD"}, 0),
        ({"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}, 4),
        ({"class_path": "torch.optim.NAdam"}, 8),
    ],
)
def test_the_state_of_the_optimiser_that_is_configured_counts(settings, bytes_each):
    task = Contrastive(towers=tiny.towers(), optimizer=AdamWSettings(**settings))
    size = ShapeCounter(task, precision="32-true").size
    assert size.optimiser_bytes == pytest.approx(bytes_each * size.num_trained, rel=0.01)
