"""Pictures of coloured squares on grey, with their boxes, and a small detector for them."""

import io
import json
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmlight.batch import Batch, Boxes, Images, View
from mmlight.encoders.timm_image import TimmImage
from mmlight.heads.box_query import BoxQuery
from mmlight.heads.dense_boxes import DenseBoxes
from mmlight.tasks.detection import Detection
from mmlight.tasks.tower import Towers, TowerSettings

NAMES = ["red", "green"]
CNN = dict(channels=(8, 16, 16, 16), stem_width=8)
TOWER = partial(TimmImage, "resnet10t", kwargs=CNN)
DENSE = partial(DenseBoxes, dim=16, strides=(8, 16), num_convs=1)
QUERY = partial(
    BoxQuery, dim=16, strides=(8, 16), num_queries=12, num_layers=1, num_heads=2, ffn_dim=16
)


def squares(number: int, *, width: int = 96, height: int = 64) -> tuple[np.ndarray, list, list]:
    """Pixels (H, W, C), boxes and labels of one picture."""
    draws = np.random.default_rng(number)
    pixels = draws.integers(110, 130, (height, width, 3)).astype(np.uint8)
    boxes, labels = [], []
    for place in range(2):
        side = int(draws.integers(16, 30))
        left = int(draws.integers(0, width // 2 - side)) + place * width // 2
        top = int(draws.integers(0, height - side))
        label = int(draws.integers(0, 2))
        pixels[top : top + side, left : left + side] = 20
        pixels[top : top + side, left : left + side, label] = 230
        boxes.append([left, top, left + side, top + side])
        labels.append(label)
    return pixels, boxes, labels


def write_shard(path: Path, numbers: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number in numbers:
            pixels, boxes, labels = squares(number)
            png = io.BytesIO()
            Image.fromarray(pixels).save(png, "PNG")
            told = json.dumps({"boxes": boxes, "labels": [NAMES[k] for k in labels]}).encode()
            for extension, data in (("png", png.getvalue()), ("json", told)):
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return path


def batch(size: int = 4, *, first: int = 0, epoch: int = 0, step: int = 0) -> Batch:
    """Pictures as they are, so views change nothing but the scale: they are told as halves."""
    made = [squares(first + n) for n in range(size)]
    pixels = torch.from_numpy(np.stack([m[0] for m in made])).permute(0, 3, 1, 2).contiguous()
    area_B2 = torch.tensor([[64, 96]] * size)
    return Batch(
        index_B=torch.arange(size) + first,
        keys=[f"s/{first + n}" for n in range(size)],
        epoch=epoch,
        step=step,
        valid_B=torch.ones(size, dtype=torch.bool),
        image=Images(
            pixels,
            torch.ones(size, dtype=torch.bool),
            View(area_B2, area_B2 * 2, torch.tensor([[2.0, 2.0, 0.0, 0.0]] * size)),
        ),
        boxes=Boxes(
            xyxy_BG4=torch.tensor([m[1] for m in made]).float(),
            label_BG=torch.tensor([m[2] for m in made]),
            mask_BG=torch.ones(size, 2, dtype=torch.bool),
            present_B=torch.ones(size, dtype=torch.bool),
        ),
    )


def detector(head=DENSE, *, preprocessing: dict | None = None, **settings) -> Detection:
    given = dict(towers=Towers(image=TowerSettings(encoder=TOWER)), head=head)
    task = Detection(**(given | settings))
    image = {"channels": 3, "size": 96, "eval_crop": "fit"}
    task.preprocessing = {"class_names": NAMES, "image": image} | (preprocessing or {})
    task.configure_model()
    return task
