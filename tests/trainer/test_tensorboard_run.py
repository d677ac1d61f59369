import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_run import TinyData, TinyTask

from mmlight.callbacks.recording.record import Record
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows

pytest.importorskip("tensorboard")


def train(run, *, steps, ckpt_path=None):
    record = Record(run, verb="fit", config={}, tensorboard=True)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        logger=record.loggers(),
        callbacks=[record, ModelCheckpoint(run.checkpoints, every_n_train_steps=5, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.path,
    )
    trainer.fit(TinyTask(), datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)


def test_tensorboard_shows_each_step_once_over_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(tmp_path / "tiny" / "one")
    run.path.mkdir(parents=True)
    train(run, steps=8)
    (checkpoint,) = run.checkpoints.glob("*step=5*")
    train(run, steps=10, ckpt_path=checkpoint)
    shown = EventAccumulator(str(run.path / "tensorboard"))
    shown.Reload()
    events = shown.Scalars("train/loss")
    assert [event.step for event in events] == list(range(1, 11))
    rows = read_rows(run.metrics_jsonl)
    assert [e.value for e in events] == pytest.approx([row["train/loss"] for row in rows])
    assert not (run.path / "tensorboard" / "hparams.yaml").exists()
