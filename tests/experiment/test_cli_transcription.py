"""Transcription by the command line: training, a language model, predictions, one more experiment.

Each letter is a tone and a space is silence.
"""

import io
import json
import tarfile
from pathlib import Path

import cli_data
import numpy as np
import pytest
import soundfile

from mmlight.__main__ import main
from mmlight.runs.run.metrics_log import read_rows

ROOT = Path(__file__).parents[2]
RATE_HZ = 4000
TONES_HZ = {"a": 300, "b": 800, "c": 1500, " ": 0}
WORDS = ["a", "ab", "cab", "bc"]


def flac(text):
    time = np.arange(RATE_HZ // 8) / RATE_HZ
    wave = np.concatenate([0.4 * np.sin(2 * np.pi * TONES_HZ[letter] * time) for letter in text])
    file = io.BytesIO()
    soundfile.write(file, wave, RATE_HZ, format="FLAC")
    return file.getvalue()


def write_shard(path, numbers, *, without=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number in numbers:
            draws = np.random.default_rng(number)
            text = " ".join(draws.choice(WORDS, draws.integers(1, 4)))
            speaker = json.dumps({"speaker": f"s{number % 2}"}).encode()
            for name, data in {
                "flac": flac(text),
                "txt": text.upper().encode(),
                "json": speaker,
            }.items():
                if name in without:
                    continue
                info = tarfile.TarInfo(f"{number:03d}.{name}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))


def experiment(data, runs):
    return {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "log_every_n_steps": 1},
        "run": {"root": str(runs), "test": True},
        "checkpoint": {"monitor": "val/wer"},
        "pictures": {},
        "model": {
            "class_path": "mmlight.tasks.transcription.Transcription",
            "init_args": {
                "decoder": {
                    "class_path": "mmlight.metrics.ctc_decode.BeamDecoder",
                    "init_args": {"beam_width": 4},
                },
                "towers": {
                    "audio": {
                        "encoder": {
                            "class_path": "mmlight.encoders.mel_gru.MelGru",
                            "init_args": {
                                "mel": {"sample_rate_hz": RATE_HZ, "n_mels": 16},
                                "channels": 4,
                                "dim": 16,
                                "layers": 1,
                                "spec_augment": {"freq_masks": 1, "time_masks": 1},
                            },
                        }
                    }
                },
            },
        },
        "data": {
            "class_path": "mmlight.data.module.ShardDataModule",
            "init_args": {
                "members": {"audio": "flac", "text": "txt", "fields": {"speaker": "json:speaker"}},
                **{
                    split: {"shards": str(data / f"{split}.tar")}
                    for split in ("train", "val", "test", "predict")
                },
                "audio": {"sample_rate_hz": RATE_HZ, "max_speed_change": 0.1},
                "text": {
                    "tokenizer": {
                        "class_path": "mmlight.text.tokenizer.CharTokenizer",
                        "init_args": {"characters": " abc"},
                    }
                },
                "global_batch_size": 4,
                "eval_batch_size": 3,
                "num_workers": 0,
                "bucket_batches": 2,
            },
        },
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    for split, numbers in {
        "train": range(16),
        "val": range(16, 21),
        "test": range(21, 26),
        "predict": range(26, 30),
    }.items():
        without = ("txt",) if split == "predict" else ()  # nobody has its transcripts yet
        write_shard(folder / "data" / f"{split}.tar", numbers, without=without)
    path = cli_data.write_yaml(folder / "speech.yaml", experiment(folder / "data", folder / "runs"))
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return path, cli_data.only_run(folder / "runs", "speech")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_training_leaves_error_rates_and_the_best_is_the_smallest(trained):
    _, run = trained
    summary = json.loads((run / "summary.json").read_text())
    assert {"val/wer", "val/cer", "val/loss", "test/wer", "test/cer"} <= set(summary["final"])
    wers = [float(row["val/wer"]) for row in read_rows(run / "metrics.jsonl") if "val/wer" in row]
    assert len(wers) == 2 and summary["best"]["val/wer"]["value"] == min(wers)
    assert summary["final"]["train/impossible"] == 0


def test_shards_and_lone_files_are_transcribed(trained, tmp_path):
    path, run = trained
    last = ("--ckpt_path", "last")
    assert cli_data.run_in_process("predict", "-c", path, *last) == 0
    found = rows(next(run.rglob("predictions.jsonl")))
    assert [row["key"] for row in found] == [f"predict/{n:03d}" for n in range(26, 30)]
    assert all(set(row["transcript"]) <= set("abc ") and row["score"] <= 0 for row in found)
    (tmp_path / "one.flac").write_bytes(flac("cab a"))
    code = cli_data.run_in_process(
        *("predict", "-c", path, *last, "--data.predict.files", tmp_path / "one.flac"),
        *("--data.predict.shards", "null"),
    )
    assert code == 0
    assert len(rows(next(run.rglob("predictions.jsonl")))) == 1


def test_a_language_model_made_from_the_transcripts_decides(trained, tmp_path):
    pytest.importorskip("flashlight.lib.text")
    path, run = trained
    lm = tmp_path / "lm.arpa"
    shards = path.parent / "data/train.tar"
    command = ["ngram", "--shards", shards, "--order", "2", "--lowercase", "--out", lm]
    assert main([str(part) for part in command]) == 0
    decoder = {
        "class_path": "mmlight.metrics.ctc_lexicon.LexiconDecoder",
        "init_args": {"lm": str(lm), "lm_weight": 0.5},
    }
    overlay = cli_data.write_yaml(
        tmp_path / "lm.yaml", {"model": {"init_args": {"decoder": decoder}}}
    )
    last = ("--ckpt_path", "last", "--run.name", "speech")
    assert cli_data.run_in_process("predict", "-c", path, "-c", overlay, *last) == 0
    for row in rows(next(run.rglob("predictions.jsonl"))):
        assert set(row["transcript"].split()) <= set(WORDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["an4_ctc", "an4_ctc_gpu"])
def test_experiments_take_two_steps(name, shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = cli_data.run_in_process(
        *("fit", "-c", ROOT / f"experiments/finetune/{name}.yaml", "--run.root", tmp_path),
        *("--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--run.test", "false"),
        *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true"),
        *("--data.num_workers", "0", "--data.global_batch_size", "4"),
    )
    assert code == 0
    (run,) = (tmp_path / name).iterdir()
    assert json.loads((run / "summary.json").read_text())["steps"] == 2
