"""When training stops early, and what is said about it."""

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_run import TinyData, TinyTask

from mmlight.callbacks.recording.record import Record
from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.trainer.early_stopping import EarlyStopping

VALUES = (0.2, 0.5, 0.51, 0.4, 0.505, 0.3, 0.6)


class Scripted(TinyTask):
    """Reports given values, one per validation; each is at every second step."""

    def __init__(self, values=VALUES):
        super().__init__()
        self.values = values

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log("val/accuracy", self.values[self.global_step // 2 - 1])


def fit(stop, folder, *, values=VALUES, ckpt_path=None, max_steps=14, run=None, **settings):
    record = [Record(run, verb="fit", config={})] if run else []
    trainer = Trainer(
        accelerator="cpu",
        logger=record[0].loggers() if record else False,
        callbacks=[*record, stop, ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=max_steps,
        max_epochs=-1,
        num_sanity_val_steps=0,
        **{"val_check_interval": 2, "check_val_every_n_epoch": None} | settings,
    )
    trainer.fit(Scripted(values), datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)
    return trainer.global_step


def test_stops_after_patience_and_says_why_in_a_line(tmp_path, capsys):
    assert fit(EarlyStopping("val/accuracy", patience=2), tmp_path) == 10
    assert capsys.readouterr().out.splitlines() == [
        "stopped early at step 10: val/accuracy has not risen above 51.0 % (step 6) in "
        "2 validations (early_stopping.patience)"
    ]


def test_small_gains_do_not_count(tmp_path, capsys):
    assert fit(EarlyStopping("val/accuracy", patience=2, min_delta=0.02), tmp_path) == 8
    assert "above 50.0 % (step 4) by 0.02 in 2" in capsys.readouterr().out


def test_direction_comes_from_the_name(tmp_path):
    assert EarlyStopping("val/loss").mode == "min"
    assert EarlyStopping("val/calibration_error").mode == "min"
    assert EarlyStopping("val/macro_f1").mode == "max"
    assert fit(EarlyStopping("val/accuracy", patience=2, mode="min"), tmp_path) == 6


def test_direction_comes_from_the_class_of_a_metric_else_it_must_be_given(tmp_path):
    stop = EarlyStopping("val/gap", min_delta=0.1)
    stop.find_mode({"gap": "min"})
    assert stop.mode == "min" and stop.min_delta == -0.1 and stop.best_score == float("inf")
    stop = EarlyStopping("val/gap", mode="max")
    stop.find_mode({"gap": "min"})
    assert stop.mode == "max" and stop.best_score == -float("inf")
    with pytest.raises(UserError, match=r"'val/gap' is better.*set early_stopping\.mode"):
        fit(EarlyStopping("val/gap"), tmp_path)


def test_nan_stops_at_once(tmp_path, capsys):
    assert fit(EarlyStopping("val/accuracy"), tmp_path, values=(0.5, float("nan"))) == 4
    assert "step 4: val/accuracy is nan" in capsys.readouterr().out


def test_resumed_run_stops_at_the_same_step(tmp_path, capsys):
    fit(EarlyStopping("val/accuracy", patience=2), tmp_path / "a", max_steps=9)
    assert capsys.readouterr().out == ""
    checkpoint = next((tmp_path / "a").glob("*step=9*"))
    resumed = EarlyStopping("val/accuracy", patience=2)
    assert fit(resumed, tmp_path / "b", ckpt_path=checkpoint) == 10
    assert "above 51.0 % (step 6) in 2" in capsys.readouterr().out


@pytest.mark.parametrize("step", [7, 8])  # 8: the validation of that step is in the log alone
def test_validation_after_the_checkpoint_of_its_step_is_counted(tmp_path, step):
    runs = [Run(tmp_path / "runs/tiny/a"), Run(tmp_path / "runs/tiny/a")]
    fit(EarlyStopping("val/accuracy", patience=2), tmp_path / "a", max_steps=9, run=runs[0])
    checkpoint = next((tmp_path / "a").glob(f"*step={step}.*"))
    resumed = EarlyStopping("val/accuracy", patience=2)
    assert fit(resumed, tmp_path / "b", ckpt_path=checkpoint, run=runs[1]) == 10


def test_resumed_run_has_the_patience_that_is_asked_for(tmp_path):
    fit(EarlyStopping("val/accuracy", patience=2), tmp_path / "a", max_steps=9)
    checkpoint = next((tmp_path / "a").glob("*step=9*"))
    assert (
        fit(EarlyStopping("val/accuracy", patience=3), tmp_path / "b", ckpt_path=checkpoint) == 12
    )


def test_unknown_metric_is_named_with_what_there_is(tmp_path):
    with pytest.raises(UserError, match=r"no metric 'val/acuracy' \(did you mean 'val/accuracy'"):
        fit(EarlyStopping("val/acuracy", mode="max"), tmp_path)


def test_run_without_validation_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no effect without validation.*data\.val"):
        fit(EarlyStopping("val/accuracy"), tmp_path, limit_val_batches=0)


@pytest.mark.parametrize(("key", "value"), [("patience", 0), ("min_delta", -0.1)])
def test_settings_out_of_range_are_refused(key, value):
    with pytest.raises(UserError, match=f"early_stopping.{key} is {value}"):
        EarlyStopping("val/accuracy", **{key: value})


def test_state_holds_plain_values_and_tensors(tmp_path):
    fit(EarlyStopping("val/accuracy", patience=2), tmp_path, max_steps=4)
    saved = torch.load(next(tmp_path.glob("*step=3*")), weights_only=True)
    (state,) = [v for k, v in saved["callbacks"].items() if k.startswith("EarlyStopping")]
    assert (state["wait_count"], state["best_step"], state["seen_step"]) == (0, 2, 2)
