"""``mmlight robustness``: how a trained model does on spoiled data, by group, and calibrated."""

import argparse
from collections import Counter
from collections.abc import Sequence
from itertools import product
from typing import Any

from mmlight.callbacks.showing.media import send_pictures
from mmlight.data.decode.corruptions import KINDS, Corruption
from mmlight.data.splits.metadata import carry, count_values
from mmlight.errors import UserError, nearest
from mmlight.experiment.build import Experiment, assemble
from mmlight.insight.calibrated_scores import (
    chance_accuracy,
    has_probabilities,
    scaled_scores,
    scores_by_group,
)
from mmlight.metrics.calibration import calibration_error, fit_temperature, reliability_bins
from mmlight.metrics.labelled import LabelledEvaluation
from mmlight.runs.plan.pictures import plot_robustness
from mmlight.runs.plan.robustness_report import (
    CLEAN,
    Measured,
    Robustness,
    format_robustness,
    write_robustness,
)
from mmlight.runs.plots.labelled import ReliabilityPanel, plot_reliability
from mmlight.runs.show.report import write_report
from mmlight.scores import chosen_direction, chosen_metric, format_value
from mmlight.terminal import Terminal, say
from mmlight.trainer.wandb_run import WandbRun

_SEVERITIES = (1, 2, 3, 4, 5)
_CORRUPTIONS = {f"{m}:{kind}": (m, kind) for m, kinds in KINDS.items() for kind in kinds}


def main(argv: Sequence[str]) -> int:
    """Run ``mmlight robustness``.

    Raises:
        UserError: settings out of range, or anything `mmlight test` refuses.
    """
    parser = argparse.ArgumentParser(
        prog="mmlight robustness",
        description="Score a checkpoint on test data that is spoiled in many ways, on groups of "
        "it, and before and after temperature scaling (fitted on clean validation data). Takes "
        "what `mmlight test` takes, and writes robustness.json, robustness.csv, pictures and a "
        "report beside the run's other evaluations.",
        epilog=f"corruptions: {', '.join(_CORRUPTIONS)}",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--corruptions",
        help="such as image:noise,audio:tempo, or none; default: all that suit the model",
    )
    everything = ",".join(map(str, _SEVERITIES))
    parser.add_argument("--severities", default=everything, help="of 1 to 5 (default %(default)s)")
    parser.add_argument(
        "--group", metavar="MEMBER", help="what tells groups of samples apart, such as json:speaker"
    )
    parser.add_argument(
        "--metric", help="what is shown, without its stage; default: accuracy, f1, wer or map"
    )
    options, rest = parser.parse_known_args(list(argv))
    severities = _parsed_severities(options.severities)
    experiment = assemble("test", rest)
    experiment.begin(
        below="robustness",
        # What is logged of one test would be taken for that of another.
        callbacks=[],
        changes={"enable_progress_bar": False, "logger": False},
    )
    with experiment.work():
        _Robustness(experiment, options, severities).run()
    return 0


class _Robustness:
    """Tests again and again, on clean and on spoiled data."""

    def __init__(
        self, experiment: Experiment, options: argparse.Namespace, severities: list[int]
    ) -> None:
        self._experiment, self._options, self._severities = experiment, options, severities
        self.trainer, self._folder = experiment.trainer, experiment.folder
        self.model: Any = experiment.task

    def run(self) -> None:
        """Evaluate, and write the report."""
        model, settings = self.model, self._experiment.settings
        datamodule, field = self._experiment.data, self._options.group
        group = carry(datamodule.all_members(), field) if field else None
        data = datamodule.with_corruptions([])
        temperature, note = None, None
        kwargs = {
            "verbose": False,
            "ckpt_path": settings["ckpt_path"],
            "weights_only": settings["weights_only"],
        }
        if "val" in data.split_names():
            self.trainer.validate(model, datamodule=data, **kwargs)
            kwargs["ckpt_path"] = None  # its weights are in the model now
            if has_probabilities(model.evaluation):
                temperature = fit_temperature(model.evaluation.logits_SK, model.evaluation.labels_S)
        self.trainer.test(model, datamodule=data, **kwargs)
        kwargs["ckpt_path"] = None
        clean = model.evaluation
        if temperature is None and has_probabilities(clean):
            note = "data.val is not set: there is nothing to fit a temperature on"
        measured = [Measured(CLEAN, 0, None, self._scores(temperature))]
        metric = chosen_metric(measured[0].scores, asked=self._options.metric)
        way = chosen_direction(f"test/{metric}", remedy="choose another with --metric")
        kept: dict[str, LabelledEvaluation] = {CLEAN: clean}

        def tell(said: str, row: Measured) -> None:
            if self.trainer.is_global_zero:
                say(f"{said}: {metric} {format_value(metric, row.scores[metric])}")

        tell(CLEAN, measured[0])
        for modality, kind in self._kinds(data):
            for severity in self._severities:
                spoiled = Corruption(modality, kind, severity=severity)
                self.trainer.test(model, datamodule=data.with_corruptions([spoiled]), **kwargs)
                scores = self._scores(temperature)
                measured.append(Measured(spoiled.name, severity, spoiled.strength, scores))
                name = f"{spoiled.name} {severity}"
                tell(name, measured[-1])
                kept[name] = model.evaluation
        if not self.trainer.is_global_zero:
            return
        labelled = has_probabilities(clean)
        groups = []
        if group is not None:
            trained = _trained(data, group)
            groups = scores_by_group(clean, group, temperature=temperature, trained=trained)
        report = Robustness(
            stage="test",
            metric=metric,
            direction=way,
            measured=measured,
            chance=chance_accuracy(clean) if labelled and metric == "accuracy" else None,
            temperature=temperature,
            note=note,
            group_field=group,
            groups=groups,
        )
        self._write(report, kept, data)
        Terminal(soft_wrap=True).print(format_robustness(report))
        say(f"run: {self._folder.path}", f"report: {self._folder.report}")

    def _scores(self, temperature: float | None) -> dict[str, float]:
        """Return the scores of the last test, on rank 0 with those after scaling."""
        scores = {
            name.removeprefix("test/"): float(value)
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("test/")
        }
        if temperature is not None and self.model.evaluation is not None:
            scores |= scaled_scores(self.model.evaluation, temperature)
        return scores

    def _kinds(self, data: Any) -> list[tuple[Any, Any]]:
        """Return the modalities and kinds to spoil."""
        towers = [
            name for name in self.model.tower_settings.given() if data.preprocessing().get(name)
        ]
        asked = self._options.corruptions
        if asked is None:
            return [pair for pair in _CORRUPTIONS.values() if pair[0] in towers]
        names = [] if asked == "none" else [name.strip() for name in asked.split(",")]
        for name in names:
            if name not in _CORRUPTIONS:
                raise UserError(
                    f"--corruptions: '{name}' is none of {', '.join(_CORRUPTIONS)}"
                    f"{nearest(name, _CORRUPTIONS)}"
                )
            if _CORRUPTIONS[name][0] not in towers:
                raise UserError(
                    f"--corruptions: '{name}' has no effect on a model of {', '.join(towers)}"
                )
        return [_CORRUPTIONS[name] for name in names]

    def _write(self, report: Robustness, kept: dict[str, LabelledEvaluation], data: Any) -> None:
        """Write the files of the run folder, and send W&B its part."""
        write_robustness(report, self._folder)
        curves = plot_robustness(report, self._folder.plots / "robustness.png")
        pictures = [curves] if curves else []
        if has_probabilities(kept[CLEAN]):
            path = self._folder.plots / "robustness_reliability.png"
            pictures.append(plot_reliability(_panels(report, kept), path))
        loggers = self._experiment.record.loggers()
        self.trainer.loggers = loggers
        self.trainer.datamodule = data  # type: ignore[attr-defined]
        self._experiment.record.setup(self.trainer, self.model, "test")
        for logger in loggers:
            logger.log_metrics(report.summary(), 0)
        send_pictures(self.trainer, pictures)
        self._experiment.record.teardown(self.trainer, self.model, "test")
        for logger in loggers:
            logger.finalize("success")
            if isinstance(logger, WandbRun):
                logger.finish()
        write_report(self._folder)


def _parsed_severities(text: str) -> list[int]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or not set(found) <= set(_SEVERITIES):
        raise UserError(f"--severities {text}: name some of 1,2,3,4,5")
    return found


def _trained(data: Any, field: str) -> Counter[str] | None:
    """Return the training samples by group, None without a training split."""
    if "train" not in data.split_names():
        return None
    return count_values(data.samples("train"), field, seed=data.seed)


def _panels(report: Robustness, kept: dict[str, LabelledEvaluation]) -> list[ReliabilityPanel]:
    """Return the diagrams of clean data and of the least calibrated corruption."""
    names = [CLEAN]
    spoiled = [m for m in report.measured if m.severity]
    if spoiled:
        worst = max(spoiled, key=lambda m: m.scores["calibration_error"])
        names.append(f"{worst.corruption} {worst.severity}")
    temperatures = [1.0] if report.temperature is None else [1.0, report.temperature]
    panels = []
    for name, temperature in product(names, temperatures):
        evaluation = kept[name]
        assert evaluation.labels_S is not None
        bins = reliability_bins(evaluation.logits_SK, evaluation.labels_S, temperature=temperature)
        title = name if temperature == 1.0 else f"{name}, scaled"
        curve = (bins.count_M, bins.confidence_M, bins.accuracy_M)
        panels.append(ReliabilityPanel(*curve, calibration_error(bins), title=title))
    return panels
