import math

import pytest
import torch
from box_cases import CANVAS, dense_outputs, some_boxes
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.ops import box_iou, generalized_box_iou

from mmlight.errors import UserError
from mmlight.objectives.dense_boxes import DenseBoxLoss, assign, paired_iou


def by_hand(outputs, boxes, *, radius, quality, box_weight=1.0, quality_weight=1.0):
    """The loss position by position."""
    parts = [0.0, 0.0, 0.0]
    positives = 0
    top = int(outputs.stride_A.max())
    for row in range(len(outputs.logit_BAK)):
        objects = [
            (box, int(label))
            for box, label, real in zip(
                boxes.xyxy_BG4[row], boxes.label_BG[row], boxes.mask_BG[row], strict=True
            )
            if real
        ]
        for place, (x, y) in enumerate(outputs.point_A2.tolist()):
            stride = int(outputs.stride_A[place])
            chosen, least = None, math.inf
            for box, label in objects:
                left, up, right, down = box.tolist()
                sides = (x - left, y - up, right - x, down - y)
                away = max(abs(x - (left + right) / 2), abs(y - (up + down) / 2))
                low = 0 if stride == 8 else 4 * stride
                high = math.inf if stride == top else 8 * stride
                area = (right - left) * (down - up)
                if min(sides) > 0 and away < radius * stride and low < max(sides) < high:
                    if area < least:
                        chosen, least = (box, label, sides), area
            for k in range(3):
                p = outputs.logit_BAK[row, place, k].sigmoid()
                if chosen is not None and chosen[1] == k:
                    parts[0] = parts[0] - 0.25 * (1 - p) ** 2 * p.log()
                else:
                    parts[0] = parts[0] - 0.75 * p**2 * (1 - p).log()
            if chosen is None:
                continue
            positives += 1
            box, _, (left, up, right, down) = chosen
            found = outputs.xyxy_BA4[row, place]
            parts[1] = parts[1] + 1 - generalized_box_iou(found[None], box[None])[0, 0]
            if quality == "iou":
                fit = box_iou(found.detach()[None], box[None])[0, 0]
            else:
                fit = torch.tensor(
                    math.sqrt(min(left, right) / max(left, right) * min(up, down) / max(up, down))
                ).double()
            q = outputs.quality_BA[row, place].sigmoid()
            parts[2] = parts[2] - fit * q.log() - (1 - fit) * (1 - q).log()
    return (parts[0] + box_weight * parts[1] + quality_weight * parts[2]) / max(positives, 1)


@pytest.mark.parametrize("quality", ["iou", "centerness"])
def test_value_and_gradients_equal_a_loop_over_positions(quality):
    boxes = some_boxes(5, 2)
    loss = DenseBoxLoss(quality=quality, radius=1.2, box_weight=2.0, quality_weight=0.5)
    outputs, again = dense_outputs(2), dense_outputs(2)
    ours = loss(outputs, boxes, counted_B=boxes.present_B, canvas=CANVAS).value
    theirs = by_hand(again, boxes, radius=1.2, quality=quality, box_weight=2.0, quality_weight=0.5)
    assert torch.allclose(ours, theirs.to(ours.dtype), rtol=1e-6)
    ours.backward()
    theirs.backward()
    for name in ("logit_BAK", "xyxy_BA4", "quality_BA"):
        one, other = getattr(outputs, name).grad, getattr(again, name).grad
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-9), name


class _Catch(FCOSHead):
    """Keeps what torchvision matched to each position."""

    def compute_loss(self, targets, head_outputs, anchors, matched_idxs):
        self.matched = torch.stack(matched_idxs)
        return super().compute_loss(targets, head_outputs, anchors, matched_idxs)


def test_matching_and_loss_equal_torchvision_s_fcos():
    boxes = some_boxes(5, 3)
    outputs = dense_outputs(2)
    head = _Catch(32, 1, 3)
    fcos = FCOS(
        backbone=_Backbone(),
        num_classes=3,
        anchor_generator=AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3),
        head=head,
    )
    anchors_A4 = torch.cat(
        [
            outputs.point_A2 - outputs.stride_A[:, None] / 2,
            outputs.point_A2 + outputs.stride_A[:, None] / 2,
        ],
        -1,
    )
    targets = [
        {"boxes": box[mask], "labels": label[mask]}
        for box, label, mask in zip(boxes.xyxy_BG4, boxes.label_BG, boxes.mask_BG, strict=True)
    ]
    stride_A1 = outputs.stride_A[:, None]
    regression = torch.cat(
        [
            (outputs.point_A2 - outputs.xyxy_BA4[..., :2]) / stride_A1,
            (outputs.xyxy_BA4[..., 2:] - outputs.point_A2) / stride_A1,
        ],
        -1,
    )
    predictions = {
        "cls_logits": outputs.logit_BAK,
        "bbox_regression": regression,
        "bbox_ctrness": outputs.quality_BA[..., None],
    }
    counts = [int((outputs.stride_A == s).sum()) for s in (8, 16, 32)]
    wanted = fcos.compute_loss(targets, predictions, [anchors_A4] * 2, counts)
    object_BA = assign(outputs.point_A2, outputs.stride_A, boxes, radius=1.5)
    assert torch.equal(object_BA, head.matched) and (object_BA >= 0).sum() > 10
    found = DenseBoxLoss(quality="centerness")(
        outputs, boxes, counted_B=boxes.present_B, canvas=CANVAS
    )
    assert torch.allclose(found.logs["class_loss"], wanted["classification"].double())
    assert torch.allclose(found.logs["box_loss"], wanted["bbox_regression"].double())
    assert torch.allclose(found.logs["quality_loss"], wanted["bbox_ctrness"].double())


class _Backbone(torch.nn.Module):
    out_channels = 32


def test_padding_and_samples_without_annotation_do_not_count():
    boxes = some_boxes(4, 4)
    outputs = dense_outputs(2)
    outputs.real_BA[0, :30] = False
    counted_B = torch.tensor([True, False])
    before = DenseBoxLoss()(outputs, boxes, counted_B=counted_B, canvas=CANVAS)
    before.value.backward()
    assert not outputs.logit_BAK.grad[1].any() and not outputs.logit_BAK.grad[0, :30].any()
    assert not outputs.xyxy_BA4.grad[1].any() and not outputs.quality_BA.grad[0, :30].any()
    assert outputs.logit_BAK.grad[0, 30:].any()


@pytest.mark.parametrize("counts", [(0, 0), (0, 3)])
def test_images_without_objects_are_all_background(counts):
    boxes = some_boxes(*counts)
    outputs = dense_outputs(2)
    loss = DenseBoxLoss()(outputs, boxes, counted_B=boxes.present_B, canvas=CANVAS)
    loss.value.backward()
    assert torch.isfinite(loss.value) and float(loss.logs["class_loss"]) > 0
    assert outputs.logit_BAK.grad[0].gt(0).all()  # all pushed down


def test_paired_overlaps_are_the_diagonal():
    first, second = some_boxes(6, seed=1).xyxy_BG4[0], some_boxes(6, seed=2).xyxy_BG4[0]
    assert torch.allclose(paired_iou(first, second), box_iou(first, second).diagonal())


@pytest.mark.parametrize("name", ["radius", "box_weight", "quality_weight"])
def test_weights_must_be_above_zero(name):
    with pytest.raises(UserError, match=name):
        DenseBoxLoss(**{name: 0.0})
