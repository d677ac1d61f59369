import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_run import TinyData, TinyTask

from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import read_rows
from mmlight.trainer.axes import TokenCount
from mmlight.trainer.run_logger import RunLogger

# A batch of `tiny_run` has eight captions of one token.
TOKENS = 8


def train(folder, *, steps, ckpt_path=None):
    run = Run(folder / "tiny" / "one")
    logger, count = RunLogger(run), TokenCount()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        log_every_n_steps=4,
        val_check_interval=6,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=logger,
        callbacks=[count, ModelCheckpoint(run.checkpoints, every_n_train_steps=5, save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.path,
    )
    logger.trainer = trainer
    trainer.fit(TinyTask(), datamodule=TinyData(), ckpt_path=ckpt_path, weights_only=True)
    return run, count


def test_rows_tell_the_tokens_before_them_over_a_resume(tmp_path):
    run, count = train(tmp_path, steps=7)
    (checkpoint,) = run.checkpoints.glob("*step=5*")
    _, resumed = train(tmp_path, steps=12, ckpt_path=checkpoint)
    found = {row["step"]: row.get("tokens") for row in read_rows(run.metrics_jsonl)}
    assert found[4] == 4 * TOKENS and found[6] == 6 * TOKENS  # a log step, a validation
    assert found[12] == 12 * TOKENS == resumed.tokens
    assert count.tokens == 7 * TOKENS  # training's end


@pytest.mark.parametrize("step", [4, 8])
def test_a_table_without_text_has_no_such_column(tmp_path, step):
    from mmlight.runs.run.metrics_log import MetricsLog

    log = MetricsLog(tmp_path / "m.jsonl", csv_path=tmp_path / "m.csv")
    log.append({"train/loss": 1.0}, {"step": step, "epoch": 0, "samples": 8})
    log.close()
    assert (tmp_path / "m.csv").read_text().startswith("step,epoch,samples,wall_s,train/loss\n")
    log.append({"train/loss": 1.0}, {"step": step + 1, "epoch": 0, "samples": 16, "tokens": 9})
    log.close()
    assert (tmp_path / "m.csv").read_text().startswith("step,epoch,samples,tokens,wall_s")
