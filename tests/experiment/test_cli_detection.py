"""Detection by the command line: training, scores, pictures, predictions for shards and files."""

import json

import cli_data
import numpy as np
import pytest
from PIL import Image
from tasks import box_data

pytest.importorskip("faster_coco_eval")


def experiment(data, runs):
    return {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "devices": 1, "max_steps": 4, "log_every_n_steps": 1},
        "run": {"root": str(runs), "test": True},
        "pictures": {"num_samples": 3, "num_queries": 2},
        "model": {
            "class_path": "mmlight.tasks.detection.Detection",
            "init_args": {
                "head": {
                    "class_path": "mmlight.heads.dense_boxes.DenseBoxes",
                    "init_args": {"dim": 8, "strides": [8, 16], "num_convs": 1},
                },
                "least_score": 0.0,
                "max_boxes": 3,
                "towers": {
                    "image": {
                        "encoder": {
                            "class_path": "mmlight.encoders.timm_image.TimmImage",
                            "init_args": {
                                "name": "resnet10t",
                                "kwargs": {"channels": [8, 8, 8, 8], "stem_width": 8},
                            },
                        }
                    }
                },
            },
        },
        "data": {
            "class_path": "mmlight.data.module.ShardDataModule",
            "init_args": {
                "members": {"image": "png", "boxes": "json:boxes", "box_labels": "json:labels"},
                **{
                    split: {"shards": str(data / f"{split}.tar")}
                    for split in ("train", "val", "test", "predict")
                },
                "class_names": str(data / "names.txt"),
                "image": {
                    "size": 64,
                    "train_crop": "random_fit",
                    "eval_crop": "fit",
                    "pad_to": "batch",
                    "zoom": [0.7, 1.4],
                    "flip_probability": 0.5,
                },
                "global_batch_size": 4,
                "eval_batch_size": 2,
                "num_workers": 0,
            },
        },
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    for split, numbers in {
        "train": range(8),
        "val": range(8, 11),
        "test": range(11, 14),
        "predict": range(14, 17),
    }.items():
        box_data.write_shard(folder / "data" / f"{split}.tar", numbers)
    (folder / "data/names.txt").write_text("\n".join(box_data.NAMES))
    path = cli_data.write_yaml(folder / "boxes.yaml", experiment(folder / "data", folder / "runs"))
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return path, cli_data.only_run(folder / "runs", "boxes")


def test_training_leaves_scores_pictures_and_a_report(trained):
    _, run = trained
    final = json.loads((run / "summary.json").read_text())["final"]
    assert {"val/map", "test/ap50", "test/ap75", "test/class/red/ap50", "val/loss"} <= set(final)
    for stage in ("val", "test"):
        for name in ("detections", "precision_recall"):
            assert (run / f"plots/{stage}_{name}.png").is_file()
    assert "test detections" in (run / "report.html").read_text()


def _rows(run):
    return [
        json.loads(line) for line in (run / "predict/predictions.jsonl").read_text().splitlines()
    ]


def test_predictions_are_boxes_in_the_image_s_own_pixels(trained):
    path, run = trained
    assert cli_data.run_in_process("predict", "-c", path, "--ckpt_path", "last") == 0
    rows = _rows(run)
    assert [row["key"] for row in rows] == [f"predict/{n:04d}" for n in range(14, 17)]
    for row in rows:
        boxes = np.array(row["boxes"])
        assert len(row["labels"]) == len(row["scores"]) == len(boxes) == 3
        assert boxes.min() >= 0 and boxes[:, [0, 2]].max() <= 96 and boxes[:, [1, 3]].max() <= 64
        assert boxes.max() > 64  # images are trained at a longer side of 64 pixels, stored at 96
        assert set(row["labels"]) <= set(box_data.NAMES)


def test_plain_pictures_need_no_boxes(trained, tmp_path):
    path, run = trained
    pixels, _, _ = box_data.squares(14)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    before = _rows(run)[0] if (run / "predict/predictions.jsonl").is_file() else None
    files = ("--data.predict.files", tmp_path / "one.png")
    assert cli_data.run_in_process("predict", "-c", path, "--ckpt_path", "last", *files) == 0
    (row,) = _rows(run)
    assert row["key"].endswith("one.png") and len(row["boxes"]) == 3
    if before is not None:  # the same picture out of a shard
        assert np.allclose(row["boxes"], before["boxes"], atol=1e-3)


@pytest.mark.slow
def test_two_processes_equal_one(trained, tmp_path):
    path, _ = trained
    vit = {"patch_size": 16, "embed_dim": 16, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
    model = "model.init_args."
    values = cli_data.changed(
        experiment(path.parent / "data", tmp_path / "runs"),
        {
            # batch norms would see the half batch of each process
            f"{model}towers.image.encoder.init_args": {
                "name": "vit_tiny_patch16_224",
                "kwargs": vit,
            },
            f"{model}optimizer": {"lr": 1.0e-3, "eps": 1.0e-3},
            f"{model}schedule": {"warmup_steps": 0, "kind": "constant"},
            "data.init_args.image.pad_to": "square",
        },
    )
    values = cli_data.write_yaml(tmp_path / "boxes.yaml", values)
    strategy = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    found = {}
    for name, arguments in {"one": (), "two": strategy}.items():
        runs = tmp_path / name
        process = cli_data.start(
            *("fit", "-c", values, "--run.root", runs, *arguments), cwd=tmp_path
        )
        _, error = process.communicate(timeout=250)
        assert process.returncode == 0, error
        run = cli_data.only_run(runs, "boxes")
        scores = json.loads((run / "summary.json").read_text())["final"]
        found[name] = (
            cli_data.losses(run),
            # an evaluation's loss is the mean over batches, whose sizes differ
            {
                k: v
                for k, v in scores.items()
                if k.startswith(("val/", "test/")) and "loss" not in k
            },
        )
    for one, two in zip(found["one"], found["two"], strict=True):
        assert len(one) > 3 and two == {k: pytest.approx(v, abs=1e-5) for k, v in one.items()}


def test_ddp_that_would_wait_is_refused(trained, tmp_path, capsys):
    path, _ = trained
    plain = '{"class_path": "lightning.pytorch.strategies.DDPStrategy"}'
    arguments = ("--trainer.strategy", plain, "--trainer.devices", "1")
    runs = ("--run.root", tmp_path)
    assert cli_data.run_in_process("fit", "-c", path, *arguments, *runs) == 2
    assert "use trainer.strategy: ddp" in capsys.readouterr().err
