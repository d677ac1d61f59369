import numpy as np
import pytest
from PIL import Image

from mmlight.runs.plots.detections import BoxPicture, plot_detections, plot_precision_recall

pytestmark = pytest.mark.usefixtures("readable_text")


def picture(*, annotated: bool = True) -> BoxPicture:
    return BoxPicture(
        pixels_CHW=np.random.default_rng(0).integers(0, 256, (3, 30, 40), dtype=np.uint8),
        height=300,
        width=400,
        key="s/1",
        found_N4=np.array([[10.0, 20, 100, 200], [200, 20, 390, 290]]),
        found_label_N=np.array([0, 1]),
        found_score_N=np.array([0.9, 0.4]),
        wanted_M4=np.array([[12.0, 20, 100, 210]]) if annotated else None,
        wanted_label_M=np.array([0]) if annotated else None,
    )


def test_found_and_annotated_boxes_stand_side_by_side(tmp_path):
    path = plot_detections(
        [picture(), picture(annotated=False)], tmp_path / "d.png", class_names=["cat", "dog"]
    )
    with Image.open(path) as drawn:
        assert drawn.width > 800 and drawn.height > 600
        first = np.asarray(drawn.convert("RGB")).astype(int)
    blue = (np.abs(first - np.array([0, 0x72, 0xB2])).sum(-1) < 40).sum()
    orange = (np.abs(first - np.array([0xD5, 0x5E, 0])).sum(-1) < 40).sum()
    assert blue > 200 and orange < blue / 10  # the second box's score is too low


def test_precision_against_recall_leaves_out_what_does_not_occur(tmp_path):
    precision_KR = np.vstack([np.linspace(1, 0, 101), np.full(101, np.nan)])
    path = plot_precision_recall(
        precision_KR, tmp_path / "p.png", class_names=["cat", "dog"], num_boxes_K=np.array([3, 0])
    )
    assert path.stat().st_size > 2000
