"""``mmlight bench``: what the training steps of an experiment cost on this machine."""

import argparse
import json
from collections.abc import Sequence
from copy import deepcopy
from statistics import median, quantiles
from typing import Any

import torch

from mmlight.callbacks.measuring.short_runs import StepClock
from mmlight.callbacks.showing.progress import Progress
from mmlight.commands.cost import CostOptions, foretell_experiment
from mmlight.costs.foretell import Foretold
from mmlight.costs.meters import peak_bytes, resident_bytes
from mmlight.costs.rates import measure_matmul, measure_rates
from mmlight.costs.step_parts import PARTS, StepParts, gradient_bytes
from mmlight.errors import UserError
from mmlight.experiment.build import Experiment, assemble
from mmlight.files import plain, write_json
from mmlight.runs.show.grid import Column, Grid
from mmlight.terminal import say

_FEWEST = 3
_BY = ("foretold", "measured")


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight bench``.

    Raises:
        UserError: settings out of range, or anything `mmlight fit` refuses.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight bench",
        description="Train some steps of an experiment on its own data, and say what they cost: "
        "speed, share of what the device can multiply, waiting for data, memory, bytes sent, and "
        "the time of each part. Takes what `mmlight fit` takes; leaves bench.json in a folder of "
        "its own, runs/NAME/bench-*; no checkpoint is written.",
        allow_abbrev=False,
    )
    parser.add_argument("--steps", type=int, default=30, help="measured batches (default 30)")
    parser.add_argument("--warmup", type=int, default=3, help="batches before them (default 3)")
    parser.add_argument(
        "--check", action="store_true", help="also what `mmlight cost` foretells for this machine"
    )
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    options, rest = parser.parse_known_args(list(argv))
    if options.steps < _FEWEST or options.warmup < 2:
        raise UserError(
            f"--steps {options.steps} --warmup {options.warmup}: a median needs {_FEWEST} steps or "
            "more, and the first 2 batches are always warm-up"
        )
    if any(argument.partition("=")[0] == "--ckpt_path" for argument in rest):
        raise UserError("bench starts as the experiment does; leave out --ckpt_path")
    experiment = assemble("fit", rest)
    clock = StepClock(StepParts(), num_steps=options.steps, warmup=options.warmup)
    base_bytes, ema = resident_bytes(), experiment.settings["ema"]
    unbuilt = rates = None
    if options.check:
        unbuilt = deepcopy(experiment.task)
        is_bf16 = experiment.settings["trainer"]["precision"] == "bf16-mixed"
        dtype = torch.bfloat16 if is_bf16 else torch.float32
        rates = measure_rates(torch.device("cpu"), dtype=dtype)
    # Nothing is logged, validated or saved.
    experiment.begin(
        kind="bench",
        callbacks=[Progress(), clock, *([] if ema is None else [ema])],
        changes={
            "limit_val_batches": 0,
            "enable_checkpointing": False,
            "logger": False,
            "profiler": clock.parts,
        },
    )
    with experiment.work():
        experiment.call()
        found = _figures(experiment, clock, base_bytes)
        if unbuilt is not None:
            foretold = foretell_experiment(
                experiment,
                unbuilt,
                options=CostOptions(),
                base_bytes=base_bytes,
                rates_before=rates,
            )
            found["check"] = _check(found, foretold)
        if experiment.trainer.is_global_zero:
            path = experiment.folder.path / "bench.json"
            write_json(path, found)
            _show(found)
            say("", f"figures: {path}")
            if options.json:
                say(json.dumps(plain(found)))
    return 0


def _figures(experiment: Experiment, clock: StepClock, base_bytes: float) -> dict[str, Any]:
    trainer, parts = experiment.trainer, clock.parts
    steps = parts.steps()[: clock.num_done]
    if len(steps) < _FEWEST:
        raise UserError(
            f"bench measured {len(steps)} batches before training ended; raise "
            "trainer.max_steps or trainer.max_epochs, or give --steps and --warmup less"
        )
    device, precision = trainer.strategy.root_device, str(trainer.precision)
    peak = peak_bytes(device)
    times = [sum(step.values()) for step in steps]
    step_s = median(times)
    mean_s = {part: sum(step[part] for step in steps) / len(steps) for part in PARTS}
    low, *_, high = quantiles(times, n=10)
    dtype = torch.float32
    if precision.endswith("-mixed"):
        dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float16
    matmul = measure_matmul(device, dtype=dtype)
    sent = {kind: count / len(steps) for kind, count in sorted(parts.sent_bytes.items())}
    if gradients := gradient_bytes(experiment.task, trainer.strategy):
        sent["gradients (counted from the parameters)"] = gradients
    samples = clock.num_samples / clock.num_done
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "num_devices": trainer.world_size,
        "precision": precision,
        "num_threads": torch.get_num_threads(),
        "steps": len(steps),
        "samples_per_s": samples * trainer.world_size / step_s,
        "step_ms": 1e3 * step_s,
        "step_ms_p10": 1e3 * low,
        "step_ms_p90": 1e3 * high,
        "cpu_ms": 1e3 * clock.cpu_s / clock.num_done,
        "gflop_per_sample": clock.flops / samples / 1e9,
        "matmul_tflops": matmul / 1e12,
        "roofline_share": clock.flops / (step_s * matmul),
        "data_wait_share": mean_s["data"] / sum(mean_s.values()),
        "peak_memory_mb": peak / 2**20,
        "base_memory_mb": base_bytes / 2**20,
        "joules_per_sample": None if clock.joules is None else clock.joules / clock.num_samples,
        "sent_bytes_per_step": sent,
        "part_ms": {part: 1e3 * seconds for part, seconds in mean_s.items()},
    }


def _check(found: dict[str, Any], foretold: Foretold) -> dict[str, Any]:
    # On one thread, the time that the process computed: others on the machine do not count.
    one_thread = found["num_threads"] == 1
    measured_ms = found["cpu_ms"] if one_thread else found["step_ms"]
    foretold_mb = sum(foretold.memory_ddp.values()) / 2**20
    return {
        "clock": "cpu" if one_thread else "wall",
        "measured_ms": measured_ms,
        "foretold_ms": 1e3 * foretold.step_s,
        "time_ratio": 1e3 * foretold.step_s / measured_ms,
        "measured_mb": found["peak_memory_mb"],
        "foretold_mb": foretold_mb,
        "memory_ratio": foretold_mb / found["peak_memory_mb"],
        "foretold_part_ms": {name: 1e3 * s for name, s in foretold.part_s.items()},
        "foretold_memory_mb": {n: b / 2**20 for n, b in foretold.memory_ddp.items()},
        "notes": foretold.notes,
    }


def _show(found: dict[str, Any]) -> None:
    spread = f"[{found['step_ms_p10']:,.1f}, {found['step_ms_p90']:,.1f}]"
    rows = [
        ("samples/s", f"{found['samples_per_s']:,.1f}"),
        ("step, ms (median, tenth and ninetieth percentile)", f"{found['step_ms']:,.1f} {spread}"),
        ("GFLOP a sample, forward and backward", f"{found['gflop_per_sample']:,.3f}"),
        (f"matrix products here, TFLOP/s ({found['precision']})", f"{found['matmul_tflops']:,.3f}"),
        ("share of the roofline", f"{found['roofline_share']:.1%}"),
        ("share of waiting for data", f"{found['data_wait_share']:.1%}"),
        ("peak memory, MiB", f"{found['peak_memory_mb']:,.0f}"),
    ]
    if found["joules_per_sample"] is not None:
        rows.append(("joules a sample", f"{found['joules_per_sample']:,.3f}"))
    sent = found["sent_bytes_per_step"] or {"collectives": 0}
    rows += [(f"MB a step: {kind}", f"{count / 1e6:,.2f}") for kind, count in sent.items()]
    rows += [(f"ms a step: {part}", f"{ms:,.2f}") for part, ms in found["part_ms"].items()]
    title = f"{found['steps']} steps on {found['num_devices']} x {found['device']}"
    say(title)
    Grid((Column("figure"), Column("value", align="right")), tuple(rows)).print()
    if check := found.get("check"):
        compared = [
            (
                said,
                *(f"{check[f'{by}_{unit}']:,.1f}" for by in _BY),
                f"{check[f'{what}_ratio']:.2f}",
            )
            for said, what, unit in (
                (f"step, ms ({check['clock']} time)", "time", "ms"),
                ("peak memory, MiB", "memory", "mb"),
            )
        ]
        numbers = (Column(name, align="right") for name in (*_BY, "ratio"))
        say("", "foretold and measured")
        Grid((Column(""), *numbers), tuple(compared)).print()
