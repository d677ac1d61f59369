import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from mmlight.metrics.boxes import BoxEvaluation, BoxList, box_scores

pytest.importorskip("faster_coco_eval")
NAMES = ["cat", "dog", "owl"]


def boxes(xyxy, labels, scores=None) -> BoxList:
    return BoxList(
        np.array(xyxy, np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        None if scores is None else np.array(scores, np.float32),
    )


def noisy(seed: int, count: int = 12) -> tuple[BoxList, BoxList]:
    draws = np.random.default_rng(seed)
    low = draws.uniform(0, 200, (count, 2))
    wanted = np.concatenate([low, low + draws.uniform(10, 120, (count, 2))], 1)
    found = wanted + draws.normal(0, 6, wanted.shape)
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    labels = draws.integers(0, 2, count)
    return boxes(found, labels, np.sort(draws.uniform(size=count))[::-1]), boxes(wanted, labels)


def test_scores_equal_those_of_torchmetrics_on_coco_s_own_tools():
    pytest.importorskip("pycocotools")
    pairs = [noisy(seed) for seed in range(4)]
    metric = MeanAveragePrecision(backend="pycocotools", class_metrics=True)
    for found, wanted in pairs:
        metric.update(
            [
                {
                    "boxes": torch.from_numpy(found.xyxy_N4),
                    "labels": torch.from_numpy(found.label_N),
                    "scores": torch.from_numpy(found.score_N.copy()),
                }
            ],
            [
                {
                    "boxes": torch.from_numpy(wanted.xyxy_N4),
                    "labels": torch.from_numpy(wanted.label_N),
                }
            ],
        )
    theirs = metric.compute()
    ours = box_scores([p[0] for p in pairs], [p[1] for p in pairs], class_names=NAMES).values
    same = {"map": "map", "ap50": "map_50", "ap75": "map_75", "recall": "mar_100"}
    for name, peer in (same | {"map_medium": "map_medium"}).items():
        assert ours[name] == pytest.approx(float(theirs[peer]), abs=1e-6), name
    assert ours["class/cat/ap"] == pytest.approx(float(theirs["map_per_class"][0]), abs=1e-6)
    assert ours["class/dog/ap"] == pytest.approx(float(theirs["map_per_class"][1]), abs=1e-6)
    assert "class/owl/ap" not in ours
    mean = (ours["class/cat/ap50"] + ours["class/dog/ap50"]) / 2
    assert ours["ap50"] == pytest.approx(mean, abs=1e-6)


def test_average_precision_of_a_case_by_hand():
    wanted = [boxes([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 0])]
    # best is right, second is nowhere, third is right: precision 1 up to a recall of 0.5, then 2/3
    found = [
        boxes([[0, 0, 10, 10], [60, 60, 70, 70], [20, 20, 40, 40]], [0, 0, 0], [0.9, 0.8, 0.7])
    ]
    scores = box_scores(found, wanted, class_names=NAMES)
    assert scores.values["ap50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101, abs=1e-6)
    assert scores.values["map"] == pytest.approx(scores.values["ap50"])
    assert scores.precision_KR[0, [0, 50, 51, 100]].tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert np.isnan(scores.precision_KR[1:]).all()


def test_nothing_found_scores_zero():
    wanted = [boxes([[0, 0, 10, 10]], [1]), boxes([], [])]
    found = [boxes([], [], []), boxes([], [], [])]
    values = box_scores(found, wanted, class_names=NAMES).values
    assert values["map"] == values["ap50"] == values["class/dog/ap50"] == 0


def test_a_class_that_is_only_found_does_not_count():
    wanted = [boxes([[0, 0, 10, 10]], [1])]
    found = [boxes([[0, 0, 10, 10], [0, 0, 9, 9]], [1, 2], [0.9, 0.8])]
    values = box_scores(found, wanted, class_names=NAMES).values
    assert values["map"] == 1.0 and "class/owl/ap" not in values


def test_boxes_are_counted_by_class():
    evaluation = BoxEvaluation(
        stage="val",
        samples_S=np.arange(2),
        keys=["a", "b"],
        found=[boxes([], [], [])] * 2,
        wanted=[boxes([[0, 0, 1, 1]] * 3, [2, 2, 0]), None],
        sizes=[(4, 4)] * 2,
        class_names=NAMES,
    )
    assert evaluation.num_boxes_K.tolist() == [1, 0, 2]
