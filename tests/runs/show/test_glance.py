"""The first screen of a report, and the sounds in it."""

import json

import numpy as np
import pytest
from PIL import Image
from test_report import EVIL, parse, summary

from mmlight.files import write_json
from mmlight.runs.run.folder import Run
from mmlight.runs.show import sounds
from mmlight.runs.show.report import write_report
from mmlight.runs.show.sounds import keep_sounds


@pytest.fixture
def run(tmp_path):
    folder = Run(tmp_path / "scenes" / "one")
    told = summary(parameters={"total": 1_234_567, "trained": 1_000})
    told["data"]["samples"] = {"train": {"samples": 49, "images": 41, "unreadable": 3}}
    told["final"] = {"val/accuracy": 0.5}
    write_json(folder.summary_json, told)
    return folder


def test_sizes_counts_and_bad_samples_come_before_the_scores(run):
    (run.checkpoints).mkdir()
    (run.checkpoints / "last.ckpt").write_bytes(bytes(2_500_000))
    bad = {"shard": "/far/a-0.tar", "key": "k7", "member": "jpg", "reason": EVIL, "missing": False}
    lines = [json.dumps({**bad, "key": f"k{n}"}) for n in range(5)]
    run.bad_samples.write_text("\n".join([*lines, '{"shard": "torn']))
    page = parse(write_report(run))
    first = " ".join(page.text).partition("Other scores")[0]
    for part in (
        *("1,234,567, of which 1,000 are trained (0.1%)", "49: 41 images, 3 unreadable"),
        *("5, all in bad_samples.jsonl", "a-0.tar/k2 (jpg): <script>"),
        *("checkpoints/last.ckpt, 2.5 MB", "3.1 minutes", "512 samples/s"),
    ):
        assert part in first, part
    assert "k3" not in first and "script" not in page.tags


def test_nothing_left_out_is_said(run):
    text = " ".join(parse(write_report(run)).text)
    assert "bad samples none" in " ".join(text.split())
    assert "checkpoints/last.ckpt, no longer there" in text


def test_a_checkpoint_of_several_devices_is_as_large_as_its_files(run):
    (run.checkpoints / "last.ckpt").mkdir(parents=True)
    for name in "ab":
        (run.checkpoints / "last.ckpt" / name).write_bytes(bytes(1_000_000))
    assert "last.ckpt, 2.0 MB" in " ".join(parse(write_report(run)).text)


def test_sounds_of_a_picture_are_played_below_it(run, monkeypatch):
    picture = run.plots / "val_spectrograms.png"
    run.plots.mkdir()
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(picture)
    hiss = np.random.default_rng(0).uniform(-1, 1, 25 * 8000)
    keep_sounds(picture, [(EVIL, hiss), ("none", hiss[:0])], sample_rate_hz=8000)
    files = sorted((run.plots / "sounds").glob("*.flac"))
    import soundfile

    assert [soundfile.info(file).duration for file in files] == [20]
    page = parse(write_report(run))
    assert page.tags.count("audio") == 1 and "script" not in page.tags
    assert sum(link.startswith("data:audio/flac;base64,") for link in page.links) == 1
    monkeypatch.setattr(sounds, "_MOST_BYTES", 1000)  # then they are played from beside the page
    links = parse(write_report(run)).links
    assert "plots/sounds/val_spectrograms_00.flac" in links


def test_letters_of_wide_pictures_are_not_shrunk_below_9_px(run):
    run.plots.mkdir()
    Image.fromarray(np.zeros((20, 1320, 3), np.uint8)).save(run.plots / "val_retrieval_a_to_b.png")
    Image.fromarray(np.zeros((20, 600, 3), np.uint8)).save(run.plots / "val_reliability.png")
    page = write_report(run).read_text()
    # 8 points at 110 dpi are 12.2 px, three quarters of which are 9.2.
    assert 'class="wide"><div class="scroll"><img alt="val retrieval a to b"' in page
    assert "min-width: 990px; max-width: 1320px" in page
    assert '<figure><div class="scroll"><img alt="val reliability"' in page
