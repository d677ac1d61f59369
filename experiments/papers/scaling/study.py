"""A scaling study: fits power laws to a published table and to a sweep, predicts a run, compares.

Purpose
    How far an error falls with compute, how sure the fit is, and whether it tells the error of a
    larger run before that run is made. The same code fits a published table whose law is known.

Command
    python experiments/papers/scaling/study.py published ../shared/papers/scaling_laws_openclip.csv
    python experiments/papers/scaling/study.py predict runs/scaling_sweep \
        --larger experiments/papers/scaling/larger.yaml --samples 9000
    python experiments/papers/scaling/study.py compare runs/scaling_larger

    The sweep comes before `predict`, the larger run after it; see README.md. Files go beside this
    script, or to --out.

Hardware
    One CPU core, seconds; `predict` counts the arithmetic of each width as `mmlight cost` does.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mmlight.runs.plan.scaling import PowerLaw, ScalingFit, fit_scaling
from mmlight.runs.plan.scaling_plot import ScalingPanel, ScalingSeries, plot_scaling
from mmlight.runs.run.folder import Run

HERE = Path(__file__).parent
# Columns of the table, as LAION's figures show them (arXiv 2212.07143).
TARGETS = {
    "imagenet1k_top1": "ImageNet zero-shot",
    "imagenet_robustness_top1": "ImageNet robustness",
    "mscoco_captions_image_r5": "MS-COCO image R@5",
    "mscoco_captions_text_r5": "MS-COCO text R@5",
    "flickr30k_image_r5": "Flickr30k image R@5",
}
Json = dict[str, Any]


def fit_published(table: Path) -> dict[str, dict[str, ScalingSeries]]:
    """Fit the openCLIP and the OpenAI models of the table by the source's own method."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # Of OpenAI's three models the recipe is not in the table.
    groups = {"openCLIP": [r for r in rows if r["lr"]], "OpenAI": [r for r in rows if not r["lr"]]}
    found: dict[str, dict[str, ScalingSeries]] = {}
    for column in TARGETS:
        for name, members in groups.items():
            gmacs = [float(row["gmacs_total"]) for row in members]
            error = [1 - float(row[column]) for row in members]
            many = len(members) > 5
            fit = fit_scaling(gmacs, error, bins=5 if many else None, at_centres=many)
            found.setdefault(column, {})[name] = ScalingSeries(name, gmacs, error, fit)
    return found


def published(table: Path, out: Path) -> None:
    """Fit and draw a published table; only what follows from it is written."""
    found = fit_published(table)
    panels = [
        ScalingPanel(TARGETS[column], "error", list(found[column].values()))
        for column in ("imagenet1k_top1", "mscoco_captions_image_r5")
    ]
    plot_scaling(panels, out / "published.png", x_label="compute in GMAC (forward, all samples)")
    laws = {
        column: {name: _said(one.fit) for name, one in series.items() if one.fit}
        for column, series in found.items()
    }
    _write(out / "published.json", laws)
    for column, series in found.items():
        for name, one in series.items():
            print(f"{TARGETS[column]:22} {name:9} {one.fit and one.fit.law}")


def read_runs(folder: Path) -> list[Json]:
    """Return what each finished run of a folder was and reached, arithmetic counted by width."""
    counted: dict[str, float] = {}
    found = []
    for path in sorted(folder.iterdir()):
        run = Run(path)
        summary = run.summary
        if summary is None or run.status != "finished":
            continue
        config = yaml.safe_load(run.config_yaml.read_text())
        towers = json.dumps(config["model"]["init_args"]["towers"], sort_keys=True)
        if towers not in counted:
            counted[towers] = count_gflop(run.config_yaml)
        final = summary["final"]
        recalls = [
            v for k, v in final.items() if k.startswith("test/") and k.endswith("/recall_at_1")
        ]
        found.append(
            {
                "run": f"{folder.name}/{path.name}",
                "parameters": summary["parameters"]["total"],
                "samples_seen": summary["samples_seen"],
                "batch": config["data"]["init_args"]["global_batch_size"],
                "gflop": counted[towers] * summary["samples_seen"],
                "test_loss": final["test/loss"],
                "test_recall_at_1": sum(recalls) / len(recalls),
            }
        )
    if not found:
        raise SystemExit(f"study: {folder} has no finished run")
    return found


def count_gflop(config: Path) -> float:
    """Return GFLOP of one sample's step, forward and backward, of an experiment or a run."""
    from mmlight.commands.cost import CostOptions, foretell_experiment
    from mmlight.experiment.build import assemble

    experiment = assemble("fit", ["-c", str(config)])
    # Which device is asked about changes the times alone.
    found = foretell_experiment(experiment, experiment.task, options=CostOptions(device="h200"))
    return found.flops_per_sample / 1e9


def fit_runs(runs: list[Json]) -> ScalingFit:
    """Fit the best run of each part of the range of compute: plain, as the published law."""
    return fit_scaling([r["gflop"] for r in runs], [r["test_loss"] for r in runs])


def predict(folder: Path, larger: Path, samples: int, out: Path) -> None:
    """Write what the larger run will reach, before it is made."""
    runs = read_runs(folder)
    gflop = count_gflop(larger) * samples
    fit = fit_runs(runs)
    x, y = [r["gflop"] for r in runs], [r["test_loss"] for r in runs]
    others = {"all_runs": fit_scaling(x, y, bins=None)}
    if len(set(x)) > 10:  # else too few for a third parameter
        others["with_floor"] = fit_scaling(x, y, with_floor=True, draws=200)
    _write(out / "runs.json", runs)
    said = {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "metric": "test/loss",
        "gflop": gflop,
        "times_the_largest": gflop / max(x),
        **_said(fit),
        "predicted": asdict(fit.predict(gflop)),
        "not_asked": {
            name: {**_said(one), "predicted": asdict(one.predict(gflop))}
            for name, one in others.items()
        },
    }
    _write(out / "prediction.json", said)
    print(json.dumps(said, indent=2))


def compare(folder: Path, out: Path) -> None:
    """Set the larger run beside its prediction, and draw both."""
    prediction = json.loads((out / "prediction.json").read_text())
    runs = json.loads((out / "runs.json").read_text())
    (reached,) = read_runs(folder)
    loss, predicted = reached["test_loss"], prediction["predicted"]
    inside = predicted["low"] <= loss <= predicted["high"]
    # A last batch that is not full is left out, so a run sees a little less than was planned.
    law_there = float(PowerLaw(**prediction["law"]).at(reached["gflop"]))
    result = {**reached, "predicted": predicted, "inside": inside, "law_there": law_there}
    _write(out / "larger.json", result)
    draw(runs, (reached["gflop"], loss), out)
    print(json.dumps(result, indent=2))


def draw(runs: list[Json], tried: tuple[float, float] | None, out: Path) -> Path:
    """Draw the sweep, its law and, if made, the larger run."""
    x, y = [r["gflop"] for r in runs], [r["test_loss"] for r in runs]
    series = ScalingSeries(f"{len(runs)} runs", x, y, fit_runs(runs), tried)
    panel = ScalingPanel("image and text of the scenes", "test loss (256 pairs)", [series])
    return plot_scaling([panel], out / "scaling.png", x_label="compute in GFLOP (training)")


def _said(fit: ScalingFit) -> Json:
    exponents = np.quantile([law.exponent for law in fit.draws], [0.025, 0.975])
    return {"law": asdict(fit.law), "exponent_95": exponents.tolist()}


def _write(path: Path, what: object) -> None:
    path.write_text(json.dumps(what, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the verb."""
    parser = argparse.ArgumentParser(description="A scaling study; see the head of this file.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of what is written")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("published", help="fit a published table")
    verb.add_argument("table", type=Path)
    verb = verbs.add_parser("predict", help="fit a sweep's runs and predict a larger run")
    verb.add_argument("runs", type=Path, help="folder of the sweep's runs")
    verb.add_argument("--larger", type=Path, required=True, help="experiment of the larger run")
    verb.add_argument("--samples", type=int, required=True, help="samples that it will see")
    verb = verbs.add_parser("compare", help="set the larger run beside its prediction")
    verb.add_argument("runs", type=Path, help="folder of the larger run")
    args = parser.parse_args(argv)
    if args.verb == "published":
        published(args.table, args.out)
    elif args.verb == "predict":
        predict(args.runs, args.larger, args.samples, args.out)
    else:
        compare(args.runs, args.out)


if __name__ == "__main__":
    main()
