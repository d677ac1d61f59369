"""Detection with both heads: learning, evaluation, prediction, checkpoints."""

from dataclasses import replace
from functools import partial

import lightning
import numpy as np
import pytest
import torch
from tasks import box_data, tiny
from tasks.box_data import DENSE, NAMES, QUERY, detector
from torch.utils.data import DataLoader
from torchvision.ops import box_iou

from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.encoders.timm_image import TimmImage
from mmlight.errors import UserError
from mmlight.heads.box_head import Candidates
from mmlight.heads.box_query import BoxQuery
from mmlight.heads.dense_boxes import DenseBoxes
from mmlight.objectives.box_match import BoxMatchLoss
from mmlight.optim.adamw import AdamWSettings
from mmlight.optim.schedule import Schedule
from mmlight.tasks.detection import annotated_boxes
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.load import load_task
from mmlight.tasks.tower import Towers, TowerSettings

pytest.importorskip("faster_coco_eval")


def trainer(folder, steps):
    return lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        gradient_clip_val=1.0,
        num_sanity_val_steps=0,
    )


def loader(*batches):
    return DataLoader(list(batches), batch_size=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "steps", "least"), [(DENSE, 150, 0.8), (QUERY, 300, 0.5)], ids=["dense", "query"]
)
def test_it_learns_to_find_squares(tmp_path, head, steps, least):
    lightning.seed_everything(0, verbose=False)
    task = detector(
        head,
        optimizer=AdamWSettings(lr=3e-3, weight_decay=0.01),
        schedule=Schedule(warmup_steps=10, kind="cosine"),
    )
    batches = [box_data.batch(8, first=8 * n, step=n) for n in range(8)]
    fitting = trainer(tmp_path, steps)
    fitting.fit(task, loader(*batches))
    (scores,) = fitting.test(task, loader(box_data.batch(16, first=1000)), verbose=False)
    assert scores["test/ap50"] > least
    assert task.evaluation.stage == "test" and len(task.evaluation.keys) == 16


@pytest.mark.parametrize("head", [DENSE, QUERY], ids=["dense", "query"])
def test_a_step_trains_every_parameter(head):
    task = detector(head)
    task.train()
    batch = box_data.batch(4)
    torch.manual_seed(0)
    # the box heads' last layers are zero at first, and pass nothing on
    with torch.no_grad():
        for parameter in task.head.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    loss = task._loss(batch, task.detect(batch.image, batch.boxes))
    loss.value.backward()
    unused = [n for n, p in task.named_parameters() if p.grad is None]
    # no map of stride 32 is asked for
    assert unused and all(".layer4." in name for name in unused)
    assert all(torch.isfinite(p.grad).all() for p in task.parameters() if p.grad is not None)


@pytest.mark.parametrize("head", [DENSE, QUERY], ids=["dense", "query"])
def test_a_checkpoint_alone_predicts_the_same(tmp_path, head):
    task = detector(head, least_score=0.0, max_boxes=5).eval()
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    again = load_task(tmp_path / "a.ckpt")
    batch = box_data.batch(2)
    with torch.no_grad():
        rows = task.predict_step(batch, 0)
        assert rows == again.predict_step(batch, 0)
    assert [row["key"] for row in rows] == batch.keys
    assert all(len(row["boxes"]) == 5 == len(row["scores"]) for row in rows)
    assert set(rows[0]["labels"]) <= set(NAMES)


def test_classes_of_one_name_are_scored_apart(tmp_path):
    task = detector(preprocessing={"class_names": ["square", "square"]})
    (scores,) = trainer(tmp_path, 1).test(task, loader(box_data.batch(4)), verbose=False)
    assert {"test/class/square (0)/ap", "test/class/square (1)/ap"} <= scores.keys()
    assert task.evaluation.class_names == ["square (0)", "square (1)"]
    with torch.no_grad():
        rows = task.predict_step(box_data.batch(2), 0)
    assert all(len(row["classes"]) == len(row["labels"]) for row in rows)


class _Told(DenseBoxes):
    """Finds what it is told."""

    def candidates(self, outputs, *, limit):
        return self.told


def _told(task, xyxy, scores, labels):
    task.head.told = Candidates(
        torch.tensor([xyxy]).float(), torch.tensor([scores]), torch.tensor([labels])
    )
    batch = box_data.batch(1)
    (found,) = task.found(batch.image, None)
    return found


def test_of_overlapping_boxes_of_a_class_the_best_stays():
    task = detector(partial(_Told, dim=8, strides=(8, 16)), least_score=0.3, nms_iou=0.5)
    first, near, far = [10, 10, 30, 30], [11, 10, 31, 30], [50, 10, 70, 30]
    found = _told(task, [first, near, near, far, far], [0.9, 0.8, 0.7, 0.6, 0.2], [0, 0, 1, 0, 0])
    assert found.score_N.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert found.label_N.tolist() == [0, 1, 0]
    # in pixels of the image as stored, twice as large
    assert found.xyxy_N4[0].tolist() == [20, 20, 60, 60]


def test_boxes_are_clipped_to_the_image_and_those_outside_dropped():
    task = detector(partial(_Told, dim=8, strides=(8, 16)))
    found = _told(task, [[-9, 5, 20, 90], [96, 0, 99, 9]], [0.9, 0.8], [0, 1])
    assert found.xyxy_N4.tolist() == [[0, 10, 40, 128]]


def test_queries_are_not_suppressed():
    task = detector(QUERY, least_score=0.0, max_boxes=24).eval()
    batch = box_data.batch(1)
    with torch.no_grad():
        (found,) = task.found(batch.image, task.detect(batch.image))
    overlaps = box_iou(torch.from_numpy(found.xyxy_N4), torch.from_numpy(found.xyxy_N4))
    assert len(found.label_N) == 24 and (overlaps.fill_diagonal_(0) > 0.6).any()


def test_fillers_and_what_nobody_annotated_are_left_out():
    task = detector().eval()
    batch = box_data.batch(3)
    batch = replace(
        batch,
        valid_B=torch.tensor([True, True, False]),
        boxes=replace(batch.boxes, present_B=torch.tensor([True, False, True])),
    )
    evaluate(task, [batch])
    gathered = task.evaluation
    assert gathered.keys == ["s/0", "s/1"] and gathered.sizes == [(128, 192)] * 2
    assert gathered.wanted[1] is None
    assert np.allclose(gathered.wanted[0].xyxy_N4, batch.boxes.xyxy_BG4[0].numpy() * 2)


def test_objects_are_scored_as_they_were_annotated(tmp_path):
    # through the pixels of training (a third of the size) and back, they are off by rounding
    members = Members(image="png", boxes="json:boxes", box_labels="json:labels")
    settings = ImageSettings(size=32, train_crop="fit", eval_crop="fit")
    box_data.write_shard(tmp_path / "s.tar", range(3))
    data = ShardDataModule(
        members=members,
        val=Split(str(tmp_path / "s.tar")),
        image=settings,
        class_names=NAMES,
        num_workers=0,
    )
    data.setup("validate")
    wanted = [boxes for batch in data.val_dataloader() for boxes in annotated_boxes(batch)]
    for number in range(3):
        assert wanted[number].xyxy_N4.tolist() == box_data.squares(number)[1]


def test_an_image_more_in_a_last_batch_counts_as_one(tmp_path):
    task = detector()
    full, one = box_data.batch(4), box_data.batch(4, first=4)
    one = replace(one, valid_B=torch.tensor([True, False, False, False]))
    apart = {}
    for name, batches in {"full": [full], "one": [one], "both": [full, one]}.items():
        validating = trainer(tmp_path, 1)
        (values,) = validating.validate(task, loader(*batches), verbose=False)
        apart[name] = values["val/loss"]
    assert apart["both"] == pytest.approx((4 * apart["full"] + apart["one"]) / 5, rel=1e-6)


def test_a_plain_vit_is_a_tower_too():
    vit = dict(patch_size=16, embed_dim=16, depth=1, num_heads=2, dynamic_img_size=True)
    encoder = partial(TimmImage, "vit_tiny_patch16_224", kwargs=vit)
    for head in (DENSE, QUERY):
        task = detector(head, towers=Towers(image=TowerSettings(encoder=encoder)))
        batch = box_data.batch(2)
        loss = task._loss(batch, task.detect(batch.image, batch.boxes))
        assert torch.isfinite(loss.value)


def test_the_tower_of_a_contrastive_run_goes_on_here(tmp_path):
    contrastive = tiny.task(towers=tiny.towers(encoder=box_data.TOWER))
    contrastive.preprocessing = {"image": {"channels": 3, "size": 32}}
    checkpoint = {"state_dict": contrastive.state_dict()}
    contrastive.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    settings = TowerSettings(from_run=str(tmp_path / "a.ckpt"))
    task = detector(towers=Towers(image=settings))
    wanted = contrastive.towers["image"].encoder.state_dict()
    found = task.towers["image"].encoder.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert any("parameters) of" in note for note in task.trained.notes)


def test_pixels_without_a_view_are_images_of_their_own():
    images = replace(box_data.batch(2).image, view=None)
    view = images.viewed()
    assert view.area_B2.tolist() == view.original_B2.tolist() == [[64, 96]] * 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"towers": Towers()}, "detection takes exactly one, image"),
        ({"least_score": 1.0}, "least_score"),
        ({"nms_iou": 0.0}, "nms_iou"),
        ({"max_boxes": 0}, "max_boxes"),
        ({"head": QUERY, "nms_iou": 0.5}, "nms_iou has no effect with BoxQuery"),
        ({"objective": BoxMatchLoss}, "for heads of kind query"),
        ({"preprocessing": {"class_names": []}}, "class_names"),
        ({"preprocessing": {"image": {"channels": 3, "eval_crop": "center"}}}, "eval_crop"),
        ({"head": partial(BoxQuery, strides=(2, 4))}, "none of 2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        detector(**settings)


def test_data_without_boxes_is_refused_in_training():
    task = detector()
    with pytest.raises(UserError, match=r"data\.members\.boxes"):
        task.training_step(replace(box_data.batch(1), boxes=None), 0)
