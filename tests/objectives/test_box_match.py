from itertools import permutations

import pytest
import torch
from box_cases import CANVAS, query_outputs, some_boxes
from torchvision.ops import box_convert
from transformers import RTDetrConfig
from transformers.loss.loss_rt_detr import RTDetrForObjectDetectionLoss, RTDetrHungarianMatcher

from mmlight.errors import UserError
from mmlight.objectives.box_match import BoxMatchLoss

SCALE = torch.tensor([CANVAS[1], CANVAS[0], CANVAS[1], CANVAS[0]])


def targets(boxes):
    return [
        {"class_labels": label[mask], "boxes": box_convert(box[mask] / SCALE, "xyxy", "cxcywh")}
        for box, label, mask in zip(boxes.xyxy_BG4, boxes.label_BG, boxes.mask_BG, strict=True)
    ]


def parts_of(outputs):
    tensors = [t for layer in outputs.layers for t in layer]
    if outputs.noised is not None:
        tensors += [t for layer in outputs.noised.layers for t in layer]
    return tensors


def theirs(outputs, boxes, config):
    copies = outputs.noised
    decoder = outputs.layers[1:]
    meta = None
    if copies is not None:
        count = copies.layers[0][0].shape[1]
        decoder = [
            tuple(torch.cat([one, other], 1) for one, other in zip(noised, plain, strict=True))
            for noised, plain in zip(copies.layers, decoder, strict=True)
        ]
        meta = {
            "dn_positive_idx": [pair[0] for pair in copies.pairs],
            "dn_num_group": copies.num_groups,
            "dn_num_split": [count, outputs.layers[0][0].shape[1]],
        }
    logits, coords = (torch.stack([layer[i] for layer in decoder], 1) for i in (0, 1))
    loss, _, _ = RTDetrForObjectDetectionLoss(
        logits[:, -1],
        targets(boxes),
        "cpu",
        coords[:, -1],
        config,
        logits,
        coords,
        enc_topk_logits=outputs.layers[0][0],
        enc_topk_bboxes=outputs.layers[0][1],
        denoising_meta_values=meta,
    )
    return loss


@pytest.mark.parametrize("groups", [0, 2])
@pytest.mark.parametrize("counts", [(4, 2), (3, 0)])
def test_value_and_gradients_equal_transformers_loss(counts, groups):
    boxes = some_boxes(*counts)
    outputs, again = (query_outputs(boxes, groups=groups) for _ in range(2))
    ours = BoxMatchLoss()(outputs, boxes, counted_B=boxes.present_B, canvas=CANVAS).value
    wanted = theirs(again, boxes, RTDetrConfig(num_labels=3))
    assert torch.allclose(ours.double(), wanted, rtol=1e-5)
    ours.backward()
    wanted.backward()
    for one, other in zip(parts_of(outputs), parts_of(again), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_weights_and_costs_are_those_of_transformers_config():
    boxes = some_boxes(4, 3)
    outputs = query_outputs(boxes, groups=1)
    settings = dict(class_weight=2.0, l1_weight=3.0, giou_weight=0.5, focal_alpha=0.6)
    costs = dict(class_cost=1.0, l1_cost=9.0, giou_cost=0.1)
    config = RTDetrConfig(
        num_labels=3,
        weight_loss_vfl=2.0,
        weight_loss_bbox=3.0,
        weight_loss_giou=0.5,
        focal_loss_alpha=0.6,
        matcher_class_cost=1.0,
        matcher_bbox_cost=9.0,
        matcher_giou_cost=0.1,
    )
    ours = BoxMatchLoss(**settings, **costs)(
        outputs, boxes, counted_B=boxes.present_B, canvas=CANVAS
    )
    assert torch.allclose(ours.value.double(), theirs(outputs, boxes, config), rtol=1e-5)


def test_matching_is_the_cheapest_of_all_assignments():
    boxes = some_boxes(3, 2)
    outputs = query_outputs(boxes, queries=4)
    loss = BoxMatchLoss()
    logit_BQK, box_BQ4 = (part.detach() for part in outputs.layers[0])
    wanted_BG4 = box_convert(boxes.xyxy_BG4 / SCALE, "xyxy", "cxcywh").float()
    matches = loss.match(logit_BQK, box_BQ4, wanted_BG4, boxes.label_BG, boxes.mask_BG)
    peers = RTDetrHungarianMatcher(RTDetrConfig(num_labels=3))(
        {"logits": logit_BQK.float(), "pred_boxes": box_BQ4.float()},
        [{k: v.float() if k == "boxes" else v for k, v in t.items()} for t in targets(boxes)],
    )
    for row, ((query_M, place_M), peer) in enumerate(zip(matches, peers, strict=True)):
        count = int(boxes.mask_BG[row].sum())
        cost_QM = loss._cost(
            logit_BQK[row].float(),
            box_BQ4[row].float(),
            wanted_BG4[row, :count],
            boxes.label_BG[row, :count],
        )
        best = min(
            sum(float(cost_QM[q, m]) for m, q in enumerate(order))
            for order in permutations(range(4), count)
        )
        assert float(cost_QM[query_M, place_M].sum()) == pytest.approx(best)
        assert (query_M.tolist(), place_M.tolist()) == (peer[0].tolist(), peer[1].tolist())


def test_samples_without_annotation_do_not_count():
    boxes = some_boxes(3, 3)
    outputs = query_outputs(boxes, groups=1)
    alone = some_boxes(3, 0)
    counted_B = torch.tensor([True, False])
    value = BoxMatchLoss()(outputs, boxes, counted_B=counted_B, canvas=CANVAS).value
    value.backward()
    assert all(not tensor.grad[1].any() for tensor in parts_of(outputs))
    assert int(alone.mask_BG.sum()) == 3 and outputs.layers[0][0].grad[0].any()


def test_a_query_that_is_not_finite_does_not_stop_the_run():
    boxes = some_boxes(2, 2)
    outputs = query_outputs(boxes)
    with torch.no_grad():
        outputs.layers[-1][0][0, 0] = torch.nan
    matches = BoxMatchLoss().match(
        *outputs.layers[-1],
        box_convert(boxes.xyxy_BG4 / SCALE, "xyxy", "cxcywh"),
        boxes.label_BG,
        boxes.mask_BG,
    )
    assert 0 not in matches[0][0].tolist()


def test_weights_must_be_above_zero():
    with pytest.raises(UserError, match="giou_weight"):
        BoxMatchLoss(giou_weight=0.0)
