"""Experiments whose samples have several images or sounds start, and see all of a sample."""

import json
from pathlib import Path

import cli_data
import numpy as np
import soundfile
import torch

from mmlight.data.members import Members
from mmlight.interop.embedder import Embedder
from mmlight.suites.features import Part
from mmlight.suites.model import open_model
from mmlight.tasks.load import load_task

ROOT = Path(__file__).parents[1]
RUN = ("--run.test", "false", "--pictures", "null")


def make_videos(folder, *, samples, eval_samples=8, frames=4):
    few = ("--samples", samples, "--eval-samples", eval_samples, "--workers", "1")
    given = ("scenes", folder / "data/scene_videos", *few, "--frames", frames)
    assert cli_data.run_in_process(*given) == 0
    train = ("--shards", folder / "data/scene_videos/train", "--text", "json:captions")
    out = folder / "data/scene_videos/tokenizer"
    given = ("--kind", "word", "--vocab-size", "256", "--out", out)
    assert cli_data.run_in_process("tokenizer", "train", *train, *given) == 0


def fit(root, *arguments):
    path = ROOT / "experiments/pretrain/scene_videos.yaml"
    assert cli_data.run_in_process("fit", "-c", path, "--run.root", root, *RUN, *arguments) == 0
    (run,) = (root / "scene_videos").iterdir()
    return run


def test_videos_are_pretrained_evaluated_and_embedded(tmp_path, monkeypatch):
    make_videos(tmp_path, samples=24)
    monkeypatch.chdir(tmp_path)
    few = ("--data.global_batch_size", "8", "--data.num_workers", "0", "--trainer.max_steps", "2")
    run = fit(tmp_path / "runs", *few, "--data.image.frames", "2")
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
    embedder = Embedder.load(run)
    paths = _frames(tmp_path, count=4)
    both, one, other = embedder.images([paths, paths[1], paths[3]])  # the middle of each half
    task = load_task(run)
    tower = task.tower("image")
    with torch.inference_mode():
        pooled = tower.encoder(_images(embedder, [paths[1], paths[3]])).pooled_BD.mean(0)
        wanted = torch.nn.functional.normalize(tower.projection(pooled), dim=-1)
    torch.testing.assert_close(both, wanted, atol=1e-5, rtol=1e-4)
    assert (both @ one) < 0.9999 and (one @ other) < 0.9999
    # A suite of still pictures takes it, too.
    stills = Part("set", "data/scene_videos/test", Members(image="jpg"), ("image",))
    data = stills.data(open_model(str(run), names=set()), device=torch.device("cpu"), workers=0)
    assert data.batch_of("test", [0, 1]).image.pieces is None


def _frames(folder, *, count):
    """The frames of the first test scene, as files."""
    import tarfile

    with tarfile.open(folder / "data/scene_videos/test/00000.tar") as file:
        names = [f"000000.{number:03d}.jpg" for number in range(count)]
        for name in names:
            (folder / name).write_bytes(file.extractfile(name).read())
    return [folder / name for name in names]


def _images(embedder, paths):
    from mmlight.batch import Images
    from mmlight.data.decode.image import load_image

    settings = embedder.settings["image"]
    pixels = [load_image(path.read_bytes(), settings, draws=None) for path in paths]
    return Images(torch.stack(pixels), torch.ones(len(paths), dtype=torch.bool))


def test_a_classifier_hears_all_windows(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    shards = "../shared/data/esc10/fold1"
    code = cli_data.run_in_process(
        *("fit", "-c", ROOT / "experiments/finetune/esc10_windows.yaml", "--run.root", tmp_path),
        *("--trainer.max_steps", "1", "--data.num_workers", "0", "--data.train.shards", shards),
        *("--data.val.shards", shards, "--data.val.limit", "6", *RUN),
    )
    assert code == 0
    (run,) = (tmp_path / "esc10_windows").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"


def test_a_long_sound_has_one_embedding(tmp_path):
    data = cli_data.write_data(tmp_path / "data")
    path = cli_data.write_yaml(
        tmp_path / "tones.yaml", cli_data.experiment(data, tmp_path / "runs")
    )
    windows = ("--data.audio.max_seconds", "0.05", "--data.audio.windows.hop_s", "0.025")
    given = (*windows, "--data.audio.train_crop", "random", "--data.audio.eval_crop", "center")
    assert cli_data.run_in_process("fit", "-c", path, "--trainer.max_steps", "1", *given) == 0
    (run,) = [p.parent for p in (tmp_path / "runs").rglob("summary.json")]
    embedder = Embedder.load(run)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, cli_data.RATE_HZ).astype(np.float32)
    soundfile.write(tmp_path / "long.wav", wave, cli_data.RATE_HZ, subtype="FLOAT")
    first, again = embedder.sounds([tmp_path / "long.wav"] * 2)
    assert torch.equal(first, again)
    changed = wave.copy()
    changed[-100:] = 0.5  # far behind the part that one crop would hear
    both = embedder.sounds([(wave, cli_data.RATE_HZ), (changed, cli_data.RATE_HZ)])
    torch.testing.assert_close(both[0], first)
    assert not torch.equal(both[0], both[1])
