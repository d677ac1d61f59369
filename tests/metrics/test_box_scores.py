import json

import numpy as np
import pytest

from mmlight.metrics.boxes import SCORES, BoxEvaluation, BoxList, box_scores

pytest.importorskip("faster_coco_eval")
pycoco = pytest.importorskip("pycocotools.coco")
pycocoeval = pytest.importorskip("pycocotools.cocoeval")
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


def coco_says(found: list[BoxList], wanted: list[BoxList]) -> dict[str, float]:
    """What COCO's own package says of a written file of results."""

    def rows(lists: list[BoxList]) -> list[dict]:
        return [
            {
                "id": 100 * image + place + 1,
                "image_id": image,
                "category_id": int(label),
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                "area": (box[2] - box[0]) * (box[3] - box[1]),
                "iscrowd": 0,
            }
            | ({} if one.score_N is None else {"score": float(one.score_N[place])})
            for image, one in enumerate(lists)
            for place, (box, label) in enumerate(
                zip(one.xyxy_N4.tolist(), one.label_N, strict=True)
            )
        ]

    coco = pycoco.COCO()
    coco.dataset = json.loads(
        json.dumps(
            {
                "images": [{"id": image} for image in range(len(wanted))],
                "categories": [{"id": number} for number in range(len(NAMES))],
                "annotations": rows(wanted),
            }
        )
    )
    coco.createIndex()
    peer = pycocoeval.COCOeval(coco, coco.loadRes(json.loads(json.dumps(rows(found)))), "bbox")
    peer.evaluate()
    peer.accumulate()
    peer.summarize()
    names = ("map", "ap50", "ap75", "map_small", "map_medium", "map_large")
    return dict(zip(names, peer.stats[:6].tolist(), strict=True)) | {"recall": peer.stats[8]}


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_those_of_pycocotools_on_written_results(seed):
    # 100 objects of a class: recalls of 0.07, 0.14, 0.28, ... are reached exactly.
    pairs = [noisy(10 * seed + number, 20) for number in range(10)]
    found, wanted = [p[0] for p in pairs], [p[1] for p in pairs]
    ours = box_scores(found, wanted, class_names=NAMES)[0]
    for name, theirs in coco_says(found, wanted).items():
        assert ours.get(name, -1) == pytest.approx(theirs, abs=1e-9), name
    mean = (ours["class/cat/ap50"] + ours["class/dog/ap50"]) / 2
    assert ours["ap50"] == pytest.approx(mean, abs=1e-9)
    assert "class/owl/ap" not in ours


def test_equal_scores_and_more_than_100_boxes_count_as_in_pycocotools():
    draws = np.random.default_rng(3)
    low = draws.integers(0, 60, (4, 150, 2))
    found = [
        boxes(np.concatenate([part, part + 32], 1), draws.integers(0, 2, 150), [0.5] * 150)
        for part in low
    ]
    wanted = [
        BoxList(one.xyxy_N4[100:140:2].astype(float), one.label_N[100:140:2]) for one in found
    ]
    ours = box_scores(found, wanted, class_names=NAMES)[0]
    for name, theirs in coco_says(found, wanted).items():
        # objects of exactly 32 x 32 are both small and medium
        assert ours.get(name, -1) == pytest.approx(theirs, abs=1e-9), name


def test_without_an_object_there_is_no_score():
    nothing = [boxes([], [])] * 2
    found = [boxes([[0, 0, 9, 9]], [1], [0.9]), boxes([], [], [])]
    for values, precision_KR in (
        box_scores(found, nothing, class_names=NAMES),
        box_scores([], [], class_names=NAMES),
    ):
        assert values == {} and np.isnan(precision_KR).all()


def test_average_precision_of_a_case_by_hand():
    wanted = [boxes([[0, 0, 10, 10], [20, 20, 40, 40]], [0, 0])]
    # best is right, second is nowhere, third is right: precision 1 up to a recall of 0.5, then 2/3
    found = [
        boxes([[0, 0, 10, 10], [60, 60, 70, 70], [20, 20, 40, 40]], [0, 0, 0], [0.9, 0.8, 0.7])
    ]
    values, precision_KR = box_scores(found, wanted, class_names=NAMES)
    assert values["ap50"] == pytest.approx((51 * 1 + 50 * 2 / 3) / 101, abs=1e-6)
    assert values["map"] == pytest.approx(values["ap50"])
    assert precision_KR[0, [0, 50, 51, 100]].tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3])
    assert np.isnan(precision_KR[1:]).all()


def test_nothing_found_scores_zero():
    wanted = [boxes([[0, 0, 10, 10]], [1]), boxes([], [])]
    found = [boxes([], [], []), boxes([], [], [])]
    values = box_scores(found, wanted, class_names=NAMES)[0]
    assert values["map"] == values["ap50"] == values["class/dog/ap50"] == 0


def test_a_class_that_is_only_found_does_not_count():
    wanted = [boxes([[0, 0, 10, 10]], [1])]
    found = [boxes([[0, 0, 10, 10], [0, 0, 9, 9]], [1, 2], [0.9, 0.8])]
    values = box_scores(found, wanted, class_names=NAMES)[0]
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


def test_all_names_of_scores_are_told():
    sides = np.array([20.0, 60.0, 200.0])
    wanted = [boxes(np.stack([0 * sides, 0 * sides, sides, sides], 1), [0, 0, 0])]
    values = box_scores([boxes([], [], [])], wanted, class_names=NAMES)[0]
    assert set(values) == {*SCORES, "class/cat/ap", "class/cat/ap50"}
