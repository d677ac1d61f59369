import pytest
from lightning.pytorch import Callback, Trainer
from PIL import Image
from tiny_run import TinyData, TinyTask, make_batch

from mmlight.callbacks.recording.record import Record
from mmlight.callbacks.showing.pictures import Pictures
from mmlight.errors import UserError
from mmlight.runs.run.folder import Run
from mmlight.runs.show.report import write_report


def run_pictures(folder, verb, *, every=None, callbacks=(), **data):
    run = Run(folder / "tiny" / "one")
    run.path.mkdir(parents=True)
    record = Record(run, verb=verb, config={})
    pictures = Pictures(
        num_samples=8, num_queries=1, num_found=3, projection="pca", every_n_validations=every
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=30,
        max_epochs=-1,
        log_every_n_steps=2,
        val_check_interval=10,
        check_val_every_n_epoch=None,
        logger=record.loggers(),
        callbacks=[record, pictures, *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.path,
    )
    module = TinyTask()
    getattr(trainer, verb)(module, datamodule=TinyData(num_samples=200, **data))
    return run, pictures, module


def test_fit_draws_the_last_validation_and_the_curves(tmp_path):
    run, pictures, _ = run_pictures(tmp_path, "fit", captions_each=2)
    names = {path.stem for path in run.plots.glob("*.png")}
    pairs = [(a, b) for a in ("image", "text", "audio") for b in ("image", "text", "audio")]
    assert names == {
        "curves",
        "val_spectrograms",
        "val_joint_space",
        *(f"val_retrieval_{a}_to_{b}" for a, b in pairs if a != b),
        "val_similarity_image_text",
        "val_similarity_image_audio",
        "val_similarity_text_audio",
    }
    for path in run.plots.glob("*.png"):
        assert Image.open(path).size[0] > 300
    heard = {path.stem for path in (run.plots / "sounds").glob("*.json")}
    assert heard == {"val_spectrograms", *(n for n in names if "retrieval" in n and "audio" in n)}
    assert write_report(run).read_text().count("<audio") == 6 + 4
    # Spread over the set's 20 samples, in 3 batches.
    assert len(pictures._kept) == 8 and max(pictures._kept) >= 16


class Drawn(Callback):
    """Notes at which steps pictures were drawn."""

    def __init__(self, folder):
        self.path, self.times = folder / "tiny/one/plots/val_joint_space.png", {}

    def on_validation_end(self, trainer, pl_module):
        if self.path.exists():
            self.times[trainer.global_step] = self.path.stat().st_mtime_ns


@pytest.mark.parametrize(("every", "drawn"), [(None, []), (1, [10, 20, 30]), (2, [20, 30])])
def test_pictures_are_drawn_while_it_trains(tmp_path, every, drawn):
    seen = Drawn(tmp_path)
    _, pictures, _ = run_pictures(tmp_path, "fit", every=every, callbacks=[seen])
    assert list(seen.times) == drawn
    # At step 30 of every second validation there is only the picture of step 20.
    assert len(set(seen.times.values())) == {None: 0, 1: 3, 2: 1}[every]
    last = seen.path.stat().st_mtime_ns
    assert (last in seen.times.values()) == (every == 1)
    assert bool(pictures.state_dict()) == (every is not None)


def test_test_draws_what_it_saw(tmp_path):
    run, _, _ = run_pictures(tmp_path, "test")
    names = {path.stem for path in run.plots.glob("*.png")}
    assert "test_joint_space" in names and "test_retrieval_audio_to_image" in names
    assert "curves" not in names


def test_sample_without_audio_is_left_out_of_its_pairs(tmp_path):
    missing = set(range(20)) - {3, 11}
    run, pictures, module = run_pictures(tmp_path, "validate", missing_audio=missing)
    assert len(module.evaluation.items["audio"]) == 2
    with_audio = {s for s, kept in pictures._kept.items() if "audio" in kept}
    assert with_audio <= {3, 11}
    assert (run.plots / "val_similarity_image_text.png").exists()


def test_fill_rows_are_not_kept():
    pictures = Pictures(num_samples=64)
    what = {"is_global_zero": True, "sanity_checking": False, "num_val_batches": [1]}
    trainer = type("T", (), what | {"testing": False, "predicting": False})
    batch = make_batch(2, size=8, num_samples=20)
    pictures.on_validation_batch_end(trainer, None, None, batch, 0)
    assert sorted(pictures._kept) == [16, 17, 18, 19]


def test_setting_out_of_range_is_refused():
    with pytest.raises(UserError, match="num_found 0"):
        Pictures(num_found=0)
