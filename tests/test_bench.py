"""Every script of experiments/bench: one of its calls here, the whole with --quick if slow."""

import importlib
import json
import math
import os
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml

from mmlight.commands.train import main

ROOT = Path(__file__).parents[1]
BENCH = ROOT / "experiments" / "bench"


def check_shards(bench: ModuleType, folder: Path) -> float:
    bench.make_shards(folder / "few", bench.Images(2 * bench.SHARDS, 32, 32))
    bench.hold(str(folder / "few"))
    return bench.decode(2)


def clip_step(bench: ModuleType, folder: Path) -> float:
    task = bench.make_ours(Namespace(width=64, dim=64, layers=1), None)
    return bench.our_step(task)(bench.make_batch(2, 0))


def clip_training(bench: ModuleType, folder: Path) -> float:
    path = bench.write_experiment(folder, bench.make_shards(folder / "shards", 8))
    with pytest.raises(SystemExit) as done:
        main(["fit", "-c", str(path), "--print_config"])
    assert done.value.code == 0
    return 1.0


def contrastive_loss(bench: ModuleType, folder: Path) -> float:
    return bench.measure_alone("tiled", 64, 1, None)["seconds"][0]


def evaluation(bench: ModuleType, folder: Path) -> float:
    samples = [{"jpg": b"x", "cls": str(n).encode()} for n in range(3)]
    with patch.object(bench, "samples_of", lambda shards: iter(samples)):
        bench.write_split(folder / "test", [], dict, 10)
    read = list(bench.samples_of([folder / "test" / f"{n}.tar" for n in range(2)]))
    assert read == samples and bench.Cpu("cpu") == "cuda"
    return len(read)


def finetune_sst2(bench: ModuleType, folder: Path) -> float:
    os.chdir(ROOT)
    assert bench.read_recipe()["model"]["init_args"]["schedule"]["kind"] == "linear"
    return len(list(bench.SameOrder(100, batch=32, seed=0)))


def generate(bench: ModuleType, folder: Path) -> float:
    decoder = bench.make("own", layers=1, dim=64, tokens=5)
    assert bench.cached(decoder, 5) == bench.anew(decoder, 5)
    return bench.timed(lambda: bench.cached(decoder, 5))[0]


def gpu_step(bench: ModuleType, folder: Path) -> float:
    model = replace(bench.QUICK["tiny"], text_layers=1)
    model.kwargs["depth"] = 1
    cpu = torch.device("cpu")
    assert bench.flops_per_sample(model) > 0
    return bench.measure(model, "packed", device=cpu, size=2, steps=1, warm_up=0)[0]


def grad_cache(bench: ModuleType, folder: Path) -> float:
    return bench.one_step(bench.make_task(), bench.make_batch(4), chunks=2)


def loader(bench: ModuleType, folder: Path) -> float:
    plan = replace(bench.QUICK, num_images=2 * bench.BATCH_SIZE, num_shards=1)
    shards, _ = bench.make_shards(folder, plan)
    return len(next(bench.mmlight_batches(shards, 0)).keys)


def many_runs(bench: ModuleType, folder: Path) -> float:
    for number in range(4):
        bench.write_run(folder / "runs" / "a" / str(number), number)
    return bench.measure(["runs", "--where", "optimizer.lr=0.1"], folder)[1]


def many_shards(bench: ModuleType, folder: Path) -> float:
    bench.make_shards(folder, 2)
    return bench.start(folder) + 1e-9  # so little that the clock may not see it


def open_clip_parity(bench: ModuleType, folder: Path) -> float:
    weight, vector = torch.zeros(3, 4), torch.zeros(4)
    for rule, positions_stay in (("3.3.0", False), ("main", True)):
        leaves = bench.excluded(rule)
        assert leaves("ln_final.weight", vector) and not leaves("token_embedding.weight", weight)
        assert leaves("positional_embedding", weight) is positions_stay
    # What the bench sets again is what the experiment says.
    model = yaml.safe_load(bench.YAML.read_text())["model"]["init_args"]
    optimizer, schedule = model["optimizer"], model["schedule"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (bench.LR, bench.WEIGHT_DECAY)
    assert (tuple(optimizer["betas"]), optimizer["eps"]) == (bench.BETAS, bench.EPS)
    assert schedule == {"warmup_steps": bench.WARMUP, "kind": "cosine"}
    return optimizer["lr"]


def padding(bench: ModuleType, folder: Path) -> float:
    bench.make_shards(folder, 4 * bench.SHARDS)
    found = bench.padding(folder, bucket_batches=2, batch=8)
    assert found < bench.padding(folder, bucket_batches=None, batch=8)
    return found


def packed_text(bench: ModuleType, folder: Path) -> float:
    encoder, target_ND = bench.tower("causal", 1), torch.ones(2, bench.WIDTH)
    return bench.step(encoder, bench.captions(2, seed=0), target_ND)[1]


def remote(bench: ModuleType, folder: Path) -> float:
    bench.make_shards(folder / "there", shards=2, images=32)
    with patch.dict(os.environ, NO_PROXY="127.0.0.1"), bench.serving(folder / "there") as url:
        cache = bench.ShardCache(str(folder / "cache"))
        rates = bench.images_per_s(f"{url}/{{000..001}}.tar", cache, workers=0)
        assert bench.server_mb_per_s(f"{url}/000.tar", cache) > 0
    assert len(list((folder / "cache").glob("*.tar"))) == 2
    found = bench.starts(10, 10**5) | bench.tiny_index(folder, 40)
    assert found["index_40_peak_mib"] >= found["index_10_peak_mib"] >= found["peak_mib"]
    return min(rates)


def same_numbers(bench: ModuleType, folder: Path) -> float:
    row = {"step": 1, "train/loss": 2.0, "train/loss_ms": 3.0, "val/accuracy": 0.5, "epoch": 0}
    (folder / "metrics.jsonl").write_text(json.dumps(row))
    logged = bench.read_logged(folder)
    assert logged == {"1": {"train/loss": 2.0, "val/accuracy": 0.5}}
    other = {"a": {"logged": {"1": {"train/loss": 2.0}}, "rows": "0"}}
    lines = bench.find_differences({"a": {"logged": logged, "rows": "0"}}, other)
    assert lines == ["a, step 1, val/accuracy: 0.5 before, None"]
    return len(lines)


def start(bench: ModuleType, folder: Path) -> float:
    assert bench.cpu_s([sys.executable, "-c", "raise SystemExit(2)"], status=2) < 5
    return bench.cpu_s([sys.executable, "-m", "mmlight", "--version"])


def trainer_overhead(bench: ModuleType, folder: Path) -> float:
    return bench.bare(20) + bench.trained(20, folder)


CALLS: dict[str, Callable[[ModuleType, Path], float]] = {
    call.__name__: call
    for call in (
        check_shards,
        clip_step,
        clip_training,
        contrastive_loss,
        evaluation,
        finetune_sst2,
        generate,
        gpu_step,
        grad_cache,
        loader,
        many_runs,
        many_shards,
        padding,
        open_clip_parity,
        packed_text,
        remote,
        same_numbers,
        start,
        trainer_overhead,
    )
}
SCRIPTS = sorted(path.stem for path in BENCH.glob("*.py"))


def test_every_benchmark_is_called_here():
    assert sorted(CALLS) == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_call_of_the_benchmark_works(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(BENCH)
    assert 0 < CALLS[name](importlib.import_module(name), tmp_path) < math.inf


def figures_of(script: str, *arguments: str) -> dict[str, Any]:
    """Run a benchmark with --quick; return what its last line says."""
    done = subprocess.run(
        [sys.executable, str(BENCH / f"{script}.py"), "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found
    return found


@pytest.fixture
def open_clip() -> str:
    folder = os.environ.get("OPEN_CLIP", "")
    if not (Path(folder) / "open_clip").is_dir():
        pytest.skip("OPEN_CLIP names no folder with open_clip (make slow does)")
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quick_evaluation_has_the_figures_of_clip_benchmark(shared_data):
    folder = os.environ.get("CLIP_BENCHMARK", "")
    if not (Path(folder) / "clip_benchmark").is_dir():
        pytest.skip("CLIP_BENCHMARK names no folder with clip_benchmark (make slow does)")
    if not (ROOT / "data" / "scenes" / "tokenizer").is_dir():
        pytest.skip("no scenes in data/scenes (make quickstart makes them)")
    found = figures_of("evaluation", "--clip-benchmark", folder)
    assert found["largest_difference_points"] <= 0.1


@pytest.mark.slow
def test_the_quick_step_of_clip_learns_what_open_clip_learns(open_clip):
    found = figures_of("clip_step", "--open-clip", open_clip)
    assert found["ratio"] > 0 and found["largest_loss_difference"] < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_steps_have_the_losses_of_open_clip(open_clip):
    if not (ROOT / "data" / "scenes" / "train").is_dir():
        pytest.skip("no data/scenes (experiments/data/scenes.yaml)")
    found = figures_of(
        "open_clip_parity", "--open-clip", open_clip, "--data", str(ROOT / "data/scenes/train")
    )
    assert found["steps"] == 50
    for rule in ("3.3.0", "main"):
        assert found[f"last_loss_{rule}"] < found[f"first_loss_{rule}"]
        assert found[f"largest_loss_difference_{rule}"] < 1e-4
        assert found[f"captions_cut_otherwise_{rule}"] == 0
        # The rule of the other one would have shown.
        apart = found["positions_difference_across_rules"]
        assert found[f"positions_difference_{rule}"] < 0.1 * apart


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_quick_training_of_clip_compares_both_sides(open_clip):
    found = figures_of("clip_training", "--open-clip", open_clip)
    (theirs,), (ours,) = found["open_clip"], found["mmlight"]
    assert found["ratio"] == pytest.approx(ours / theirs, rel=0.02)


@pytest.mark.slow
def test_the_quick_losses_are_compared_with_naive_ones():
    found = figures_of("contrastive_loss", "--only", "clip")
    name = "CLIP_B1024_naive_peak_MB"
    (theirs,), (ours,) = found[f"{name}_other"], found[f"{name}_mmlight"]
    assert 0 < ours < theirs
    assert found[f"{name}_ratio"] == pytest.approx(ours / theirs, rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_losses_are_compared_with_those_of_open_clip(open_clip):
    found = figures_of("contrastive_loss", "--open-clip", open_clip)
    assert any(key.startswith("SigLIP") for key in found)
    assert any(key.startswith("CLIP_W2") for key in found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_finetuning_compares_with_the_trainer(shared_data):
    pytest.importorskip("accelerate")
    if not (ROOT / "data" / "minilm").is_dir():
        pytest.skip("no weights in data/minilm (experiments/towers/text_minilm.yaml)")
    found = figures_of("finetune_sst2")
    assert found["trainer_cpu_ratio"] == 1
    for side in ("trainer", "mmlight", "mmlight_buckets"):
        ours, theirs = found[f"{side}_cpu_s_per_epoch"], found["trainer_cpu_s_per_epoch"]
        assert found[f"{side}_cpu_ratio"] == pytest.approx(ours / theirs, rel=0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_run_of_gpu_sh_ends_with_figures_and_the_gpu_tests():
    bin_first = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(BENCH / "gpu.sh"), "--quick"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PATH": bin_first},
    )
    (found,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all(found[f"tiny {means}"]["samples_per_s"] > 0 for means in ("padded", "fsdp"))
    assert "skipped" in done.stdout or "passed" in done.stdout


@pytest.mark.slow
def test_a_cache_saves_what_it_keeps():
    for found in (figures_of("generate")[name] for name in ("own", "gpt2", "llama")):
        assert found["same_tokens"] and found["ratio"] > 1.5


@pytest.mark.slow
def test_the_quick_chunks_of_grad_cache_take_less_memory():
    assert 0 < figures_of("grad_cache")["memory_ratio"] < 1


@pytest.mark.slow
def test_the_quick_loader_decodes_the_same_pixels():
    found = figures_of("loader", "--repeats", "1")
    for workers in (0, 1):
        ours = found[f"mmlight_images_per_cpu_s_{workers}_workers"]
        usual = found[f"usual_images_per_cpu_s_{workers}_workers"]
        assert ours > 0 and usual > 0
        assert found[f"ratio_{workers}_workers"] == pytest.approx(ours / usual, rel=0.02)
        assert found[f"ratio_to_unverified_{workers}_workers"] > 0.8
    # not faster by being wrong
    assert found["max_pixel_difference"] <= 2
    assert found["psnr_min_db"] > 50


@pytest.mark.slow
def test_the_quick_lists_of_many_runs_are_quick():
    found = figures_of("many_runs")
    # 2 s for 10,000 runs, and one that passes whatever their number
    for command in ("ps --all", "runs --where setting", "runs --where score"):
        assert 0 < found[f"{command} cpu_s"] < 1 + 2 * found["runs"] / 10_000


@pytest.mark.slow
def test_the_quick_padding_is_small_in_buckets():
    found = figures_of("padding")
    assert found["padding_random"] > 0.6 and found["padding_buckets_32"] < 0.06


@pytest.mark.slow
def test_the_quick_check_of_shards_decodes_photos():
    found = figures_of("check_shards", "--repeats", "1")  # of tiny images, which come last
    assert found["check_per_s"] > 0 and found["decode_per_s"] > 0


@pytest.mark.slow
def test_the_quick_start_on_many_shards_is_cheap():
    found = figures_of("many_shards")
    # 6 CPU-seconds for 20,000 shards, and one that passes whatever their number
    assert found["start_cpu_s"] < 1 + 6 * found["num_shards"] / 20_000


@pytest.mark.slow
def test_the_quick_packed_text_has_the_padded_gradients():
    found = figures_of("packed_text")
    assert found["causal_32_packed_gradient_relative_difference"] < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_shards_of_a_server_are_read_and_placed():
    found = figures_of("remote")
    # a second for 1e9 samples in 1e5 shards; here are a tenth
    assert found["first_batch_cpu_s"] < 0.5 and found["resume_cpu_s"] < 0.5
    assert found["peak_mib"] < 1024
    assert found["cold_ratio_per_cpu_s"] > 0 and found["warm_ratio_per_cpu_s"] > 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_quick_records_of_the_same_numbers_are_equal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").symlink_to(BENCH.parent)
    for command in (
        "scenes data/scenes --samples 300 --eval-samples 16 --workers 1",
        "tokenizer train --shards data/scenes/train --text json:captions --kind word "
        "--vocab-size 256 --out data/scenes/tokenizer",
    ):
        subprocess.run([sys.executable, "-m", "mmlight", *command.split()], check=True)
    for file in ("one.json", "two.json"):
        command = [sys.executable, str(BENCH / "same_numbers.py"), "record", file, "--quick"]
        subprocess.run(command, check=True)
    script = str(BENCH / "same_numbers.py")
    done = subprocess.run(
        [sys.executable, script, "compare", "one.json", "two.json"], capture_output=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {"experiments": 1, "differences": 0}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_start_takes_little_beside_its_imports():
    found = figures_of("start")
    assert found["help_ratio"] < 1.3 and found["first_step_after_import_cpu_s"] < 3
    assert found["mistake_cpu_s"] < 0.5 * found["bare_cpu_s"]


@pytest.mark.slow
def test_the_quick_overhead_is_told_for_lightning_and_mmlight():
    found = figures_of("trainer_overhead")
    assert found["mmlight_ms"] > 0 and found["lightning_ms"] > 0


def test_what_readme_and_results_name_exists():
    readme = re.findall(r"experiments/bench/(\w+)\.py", (ROOT / "README.md").read_text())
    results = re.findall(r"`(\w+)\.py\b", (BENCH / "results.md").read_text())
    assert results and {*readme, *results} <= {*SCRIPTS}
