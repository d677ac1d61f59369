"""Each task's checkpoint is all it takes to predict."""

import json
import os
import subprocess
import sys

import every_task
import numpy as np
import pytest

from mmlight.data.splits.plain_files import PredictSplit
from mmlight.errors import UserError
from mmlight.interop.export_command import export
from mmlight.interop.predictor import Predictor

ALONE = """
import json, sys
from mmlight.interop.embedder import Embedder
from mmlight.interop.predictor import Predictor
found = {}
for name, path, files in json.loads(sys.argv[1]):
    if name == "contrastive":
        embedder = Embedder.load(path)
        found[name] = embedder.images([f for f in files if f.endswith("png")]).tolist()
    else:
        found[name] = Predictor.load(path).files(files)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Every task with its checkpoint, and the files it reads."""
    folder = tmp_path_factory.mktemp("every")
    files = every_task.write_files(folder / "files")
    endings = {"image": "png", "text": "txt", "audio": "wav"}
    found = {}
    for name in every_task.EVERY:
        task = every_task.make(name)
        reads = [endings[modality] for modality in task.tower_settings.given()]
        paths = [str(p) for p in sorted(files.iterdir()) if p.suffix[1:] in reads]
        found[name] = task, every_task.save(task, folder / f"{name}.ckpt"), paths
    return found


def test_in_a_new_process_every_checkpoint_alone_predicts_the_same(saved, tmp_path):
    told = [(name, str(path), files) for name, (_, path, files) in saved.items()]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE, json.dumps(told)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    alone = json.loads(done.stdout.splitlines()[-1])
    for name, (task, path, files) in saved.items():
        if name == "contrastive":
            images = [f for f in files if f.endswith("png")]
            (batch,) = Predictor(task, source=path).batches(
                PredictSplit(files=files), batch_size=64
            )
            ours = task.encode("image", batch.image).detach().numpy()
            assert len(alone[name]) == len(images)
            np.testing.assert_array_equal(np.float32(alone[name]), ours)
            continue
        rows = Predictor(task, source=path).files(files)
        assert rows and alone[name] == json.loads(json.dumps(rows)), name
        assert not any("error" in row for row in rows)


def test_rows_say_what_the_task_found(saved):
    def rows(name):
        task, path, files = saved[name]
        return Predictor(task, source=path).files(files)

    images = rows("image_classes")
    assert list(images[0]) == ["key", "index", "label", "class", "probability", "probabilities"]
    assert [row["key"].rpartition("/")[2] for row in images] == [f"{n}.png" for n in range(4)]
    assert [row["key"].rpartition("/")[2] for row in rows("fusion")] == list("0123")
    assert {"boxes", "labels", "classes", "scores"} <= rows("detection")[0].keys()
    assert "transcript" in rows("transcription")[0]
    tagged = rows("tagging")[0]
    assert tagged["key"].endswith("0.txt:1")
    for entity in tagged["entities"]:
        assert tagged["text"][entity["start"] : entity["end"]] == entity["text"]


def test_exported_folder_predicts_what_the_checkpoint_does(saved, tmp_path):
    for name in ("late_fusion", "adapted", *every_task.OF_TOKENS):
        _, path, files = saved[name]
        (tmp_path / name).mkdir()
        assert export(path, tmp_path / name, formats=()) == []
        ours, theirs = (
            Predictor.load(path).files(files),
            Predictor.load(tmp_path / name).files(files),
        )
        if name in every_task.OF_TOKENS:
            assert ours and ours == theirs, name
            continue
        for a, b in zip(ours, theirs, strict=True):
            assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-6)


def test_list_of_paths_is_a_list_to_a_model_that_reads_no_text(saved, tmp_path):
    # Its data maps a text, the transcript, which the model does not read.
    task, path, files = saved["transcription"]
    (tmp_path / "list.txt").write_text("\n".join([*files[:2], "gone.wav"]))
    rows = Predictor(task, source=path).files(str(tmp_path / "list.txt"))
    assert [row["key"] for row in rows] == [*files[:2], str(tmp_path / "gone.wav")]
    assert "FileNotFoundError" in rows[2]["error"] and "transcript" in rows[1]


def test_embeddings_are_refused_and_texts_are_taken(saved):
    task, path, files = saved["contrastive"]
    with pytest.raises(UserError, match="gives embeddings, not rows; use Embedder"):
        Predictor(task, source=path).files(files)
    task, path, _ = saved["adapted"]
    assert [r["key"] for r in Predictor(task, source=path).texts(["a", "b"])] == [
        "text:1",
        "text:2",
    ]
