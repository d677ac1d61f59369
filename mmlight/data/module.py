"""The LightningDataModule over sharded tar files."""

import math
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal
from weakref import WeakSet

import numpy as np
import torch

from mmlight.batch import Batch
from mmlight.data.bad_samples import BadSamples
from mmlight.data.checks import what_is_there
from mmlight.data.dataset import EvalBatches, Rank, TrainBatches
from mmlight.data.decode.corruptions import Corruption
from mmlight.data.loader import EvalLoader, PositionedLoader, TrainLoader
from mmlight.data.mixing import WeightsBy, train_order
from mmlight.data.module_checks import check_corruptions, check_mapping, check_mixture
from mmlight.data.order.changes import STATE_VERSION, check_version, differences, refusal
from mmlight.data.order.cursor import TrainOrder
from mmlight.data.order.evaluation import EvalOrder, ListedOrder
from mmlight.data.order.mixture import Batches
from mmlight.data.order.position import Position
from mmlight.data.split_module import SplitDataModule
from mmlight.data.stream.opened import OpenStream, check_mode, check_settings, open_stream
from mmlight.errors import UserError
from mmlight.terminal import note

_STAGES = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class ShardDataModule(SplitDataModule):
    """Batches from webdataset tar files, resumable at any step.

    The order of training is a pure function of (seed, epoch, step): it does not depend on the
    number of workers, nor on the number of ranks at one `global_batch_size`.

    Args:
        global_batch_size: samples per step over all ranks together.
        eval_batch_size: samples per batch and rank in evaluation.
        num_workers: processes that decode, per rank; 0 decodes in the main process.
        num_lanes: lanes of the order, a divisor of the batch and a multiple of the number of
            ranks; None takes the largest common divisor of the batch and 32.
        window: samples of a lane that are shuffled together.
        bucket_batches: sort so many batches of training by length together (seconds of sound, else
            bytes of text), so that less of each is padding; None leaves batches mixed.
        samples_per_epoch: length of an epoch of a mixture, where None takes the samples of all
            sources, or of a stream, where None takes `trainer.max_steps`.
        mode: ``index`` reads samples at any place, in an order that resumes exactly; ``stream``
            reads training shards that can't be indexed (pipes, compressed ones, servers that
            don't tell the length) from their beginning to their end, seeded but not exactly
            resumable. Other splits are indexed in any case.
        weights_by: what weights of a mixture are shares of: samples, or tokens (the number of
            tokens per sample is taken as `Split.tokens_per_sample` says).
        batches: whether each batch of a mixture has samples of all sources (``mixed``) or of one
            (``one_source``), so that a source's share is of the batches.
        allow_changed: go on from a checkpoint of other data, another seed or order, too, from the
            same epoch and step of the new order; what differs is said and noted in the run. Without
            it, that is refused.
        settings: those of `SplitDataModule`: what the samples are.

    Attributes:
        changed: in what data or order differ from those of the checkpoint that training goes on
            from, a phrase each.
    """

    def __init__(
        self,
        *,
        global_batch_size: int = 256,
        eval_batch_size: int = 256,
        num_workers: int = 2,
        num_lanes: int | None = None,
        window: int = 4096,
        bucket_batches: int | None = None,
        samples_per_epoch: int | None = None,
        mode: Literal["index", "stream"] = "index",
        weights_by: WeightsBy = "samples",
        batches: Batches = "mixed",
        allow_changed: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.global_batch_size = global_batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.num_lanes = num_lanes
        self.window = window
        self.bucket_batches = bucket_batches
        self.samples_per_epoch = samples_per_epoch
        self.mode = mode
        self.weights_by = weights_by
        self.batches = batches
        self.allow_changed = allow_changed
        self.changed: list[str] = []
        check_mixture(
            self._splits,
            samples_per_epoch=samples_per_epoch if mode == "index" else None,
            num_lanes=num_lanes,
            weights_by=weights_by,
            batches=batches,
            bucket_batches=bucket_batches,
        )
        if mode == "stream":
            train = self._splits.get("train", [])
            check_settings(train, bucket_batches=bucket_batches, num_lanes=num_lanes)
            self._streamed["train"] = train[0].members or self.members
        for key, least in (("global_batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)):
            if getattr(self, key) < least:
                raise UserError(f"data.{key} is {getattr(self, key)}; it must be {least} or more")
        self._order: TrainOrder | None = None
        self._stream: OpenStream | None = None
        self._position = Position(self._num_processed)
        self._bad: BadSamples | None = None
        self._loaders: WeakSet[PositionedLoader | EvalLoader] = WeakSet()

    def prepare_data(self) -> None:
        """Index the shards on one process of each machine, before the others look for them."""
        for name in self._wanted(self._stage()):
            if name == "predict" and self._plain is not None:
                continue
            if name == "train" and self.mode == "stream":
                continue
            for split in self._splits[name]:
                self._indexes.of(split)

    def setup(self, stage: str) -> None:
        """Open the splits of a stage and check them against the settings.

        Raises:
            UserError: no such split, no such shard or member, or labels without a class name.
        """
        for name in self._wanted(stage):
            if name == "train" and self.mode == "stream":
                self._stream = self._open_stream()
            elif name not in self._samples:
                self._samples[name] = self._open(name)
        if stage == "fit":
            self._tell_what_is_there()
            if self.mode == "index":
                if self._order is None:
                    self._order = self._lay_out()
                self._order.check_world(self._rank().world_size)
            if self.trainer is None or self.trainer.global_step == 0:  # another trainer, from anew
                self._position.go_to(0)

    def _tell_what_is_there(self) -> None:
        if self.trainer is not None and self._rank().number == 0:
            there = self.what_is_there().items()
            if said := "; ".join(what_is_there(name, counts) for name, counts in there):
                note(said)
            if self._stream is not None:
                note(self._stream.describe())

    def _open_stream(self) -> OpenStream:
        (split,) = self._splits["train"]
        members = self._streamed["train"] = self._members_of(split, "train")
        key = "data.members" if split.members is None else "data.train.members"
        check_mapping(
            members, where=key, image=self.image, text=self.text, class_names=self.class_names
        )
        return open_stream(
            split,
            members,
            seed=self.seed,
            window=self.window,
            cache=self.cache,
            global_batch=self.global_batch_size,
            samples_per_epoch=self.samples_per_epoch,
            rank=self._rank(),
            trainer=self.trainer,
        )

    def teardown(self, stage: str) -> None:
        """End the workers, and keep the position: the next trainer may be another one."""
        self._position.go_to(self._position.next_batch())
        self._close_loaders()

    def on_exception(self, exception: BaseException) -> None:
        """End the workers."""
        self._close_loaders()

    def train_dataloader(self) -> PositionedLoader:
        """Return the batches of training, from the position on."""
        if self.trainer is not None and getattr(self.trainer, "overfit_batches", False):
            raise UserError(
                "trainer.overfit_batches is not supported: every epoch has another order; give "
                "data.train a shard with a few samples instead"
            )
        loader: PositionedLoader
        if self._stream is not None:
            loader = self._stream.loader(
                self.decoding("train"),
                self._layout("train"),
                position=self._position.next_batch,
                num_workers=self.num_workers,
                device=self._gpu(),
            )
        else:
            loader = TrainLoader(
                self.train_batches(self._rank()),
                position=self._position.next_batch,
                num_workers=self.num_workers,
                device=self._gpu(),
            )
        self._loaders.add(loader)
        return loader

    def train_batches(self, rank: Rank) -> TrainBatches:
        """Return one rank's batches of training by number; the stage `fit` must be set up."""
        assert self._order is not None
        return TrainBatches(
            self._samples["train"],
            order=self._order,
            decoding=self.decoding("train"),
            layout=self._layout("train"),
            seed=self.seed,
            rank=rank,
        )

    def val_dataloader(self) -> EvalLoader | list[Any]:
        """Return the batches of validation; none where no split is named."""
        return self._eval_loader("val") if "val" in self._splits else []

    def test_dataloader(self) -> EvalLoader:
        """Return the batches of the test split."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> EvalLoader:
        """Return the batches of the predict split."""
        return self._eval_loader("predict")

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Note the position and the bad samples of a batch, just before it is used."""
        if batch.bad:
            self._count_bad().add(batch.bad)
        if self.trainer is not None and self.trainer.training:
            training = self._stream or self._order
            assert training is not None
            self._position.take(batch.epoch * training.steps_per_epoch + batch.step)
        return batch

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Return the batch on a device; itself, if it is there."""
        return batch.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the position: two numbers, and what must be the same to continue from it."""
        # Here and not in a loader's state: Lightning stores rank 0's alone, and restores it only at
        # the first `setup_data`, which a schedule that asks for `estimated_stepping_batches` brings
        # on too early (Lightning issue 20550: the epoch began anew in silence).
        if self._stream is not None:
            return {"version": STATE_VERSION} | self._stream.state(self._position.next_batch())
        if self._order is None:
            return {}
        epoch, step = divmod(self._position.next_batch(), self._order.steps_per_epoch)
        return {
            "version": STATE_VERSION,
            "epoch": epoch,
            "step": step,
            "fingerprint": self._samples["train"].corpus.fingerprint(),
            "sources": [corpus.contents() for corpus, _ in self._samples["train"].parts],
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "order": self._order.settings,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a checkpoint's position.

        Raises:
            UserError: the data, the seed, the batch or what else makes the order of training are
                not those of the checkpoint, and nobody allowed that.
        """
        is_open = self._order is not None or self._stream is not None
        if not is_open or not state_dict or self._stage() != "fit":
            return  # an evaluation: the position in training does not matter
        check_mode(state_dict, self.mode)
        if self._stream is not None:
            self._position.go_to(self._stream.resumed(state_dict))
            return
        assert self._order is not None
        check_version(state_dict)
        self.changed = differences(state_dict, self.state_dict())
        if self.changed and not self.allow_changed:
            raise refusal(self.changed)
        if self.changed and self._rank().number == 0:
            note(
                f"goes on with other data than that of the checkpoint (data.allow_changed): "
                f"{'; '.join(self.changed)}"
            )
        # As Lightning counts, which ends an epoch that is shorter by now.
        steps_per_epoch = self._order.steps_per_epoch
        step = min(state_dict["step"], steps_per_epoch)
        self._position.go_to(state_dict["epoch"] * steps_per_epoch + step)

    def eval_loader(self, split: str) -> EvalLoader:
        """Return the batches of a split as an evaluation sees them: in order, not augmented.

        The split is opened if it is not yet.
        """
        self.samples(split)
        return self._eval_loader(split)

    def loader_of(self, split: str, batches: Sequence[np.ndarray]) -> EvalLoader:
        """Return batches of these samples (`Batch.index_B`) of a split, as an evaluation sees them.

        The split is opened if it is not yet; what other ranks get is their own matter.

        Args:
            split: its name.
            batches: int64 sample numbers of each batch.
        """
        self.samples(split)
        return self._loader_over(self._eval_batches(split, ListedOrder(batches)))

    def batch_of(self, split: str, numbers: Sequence[int]) -> Batch:
        """Return some samples (`Batch.index_B`) of an open split, decoded as an evaluation does.

        One that cannot be decoded becomes an empty row that is marked as not valid.
        """
        return self._eval_batches(split).of(numbers)

    def with_corruptions(self, corruptions: Sequence[Corruption]) -> "ShardDataModule":
        """Return the same data for another trainer, with samples spoiled in this way instead.

        What is open is shared, so that a report of many corruptions indexes the shards once.
        """
        twin = copy(self)
        twin.corruptions = list(corruptions)
        check_corruptions(twin.corruptions, self.all_members(), list(self._splits))
        twin.trainer = None
        twin._samples = dict(self._samples)
        twin._position = Position(twin._num_processed)
        twin._bad, twin._loaders = None, WeakSet()
        return twin

    def _stage(self) -> str:
        fn = self.trainer.state.fn if self.trainer is not None else None
        return str(fn.value) if fn is not None else "fit"

    def _wanted(self, stage: str) -> list[str]:
        needed = _STAGES[stage]
        if needed[0] not in self._splits:
            have = ", ".join(self._splits) or "none"
            if stage == "predict":
                raise UserError(
                    "predict needs something to read: --data.predict.files PATH, or "
                    f"--data.predict.shards SHARDS; of splits there is {have}"
                )
            raise UserError(
                f"{stage} needs data.{needed[0]}.shards, which is not set; there is {have}"
            )
        return [name for name in needed if name in self._splits]

    def _lay_out(self) -> TrainOrder:
        return train_order(
            self._samples["train"],
            self._splits["train"],
            global_batch=self.global_batch_size,
            seed=self.seed,
            window=self.window,
            num_lanes=self.num_lanes,
            bucket_batches=self.bucket_batches,
            samples_per_epoch=self.samples_per_epoch,
            weights_by=self.weights_by,
            batches=self.batches,
            text=self.text,
            decoding=self.decoding("train"),
        )

    def _num_processed(self) -> int:
        assert self.trainer is not None
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)

    def _eval_loader(self, name: str) -> EvalLoader:
        return self._loader_over(self._eval_batches(name))

    def _loader_over(self, dataset: EvalBatches) -> EvalLoader:
        on_gpu = self._gpu() is not None
        loader = EvalLoader(dataset, num_workers=self.num_workers, pin_memory=on_gpu)
        self._loaders.add(loader)
        return loader

    def _eval_batches(self, name: str, order: ListedOrder | None = None) -> EvalBatches:
        samples = self._samples[name]
        parts = [corpus for corpus, _ in samples.parts]
        return EvalBatches(
            samples,
            order=order or EvalOrder(*map(len, parts), batch_size=self.eval_batch_size),
            decoding=self.decoding(name),
            layout=self._layout(name),
            rank=self._rank(),
        )

    def _close_loaders(self) -> None:
        for loader in self._loaders:
            loader.close()

    def _gpu(self) -> torch.device | None:
        device = self.trainer.strategy.root_device if self.trainer is not None else None
        return device if device is not None and device.type == "cuda" else None

    def _count_bad(self) -> BadSamples:
        if self._bad is None:
            root = Path(self.trainer.default_root_dir) if self.trainer is not None else Path(".")
            total = max((len(samples) for samples in self._samples.values()), default=0)
            if self._stream is not None:
                total = max(total, self._stream.num_samples)
            world_size = self._rank().world_size
            share = f" on each of {world_size} ranks" if world_size > 1 else ""
            limit = self.max_bad_fraction * total / world_size
            if self.max_bad_fraction:  # a thousandth of 500 samples would be none
                limit = max(limit, 1)
            self._bad = BadSamples(
                root / "bad_samples.jsonl",
                # A prediction has a row for each of them, which says so.
                limit=math.inf if self._stage() == "predict" else limit,
                limit_text=f"{self.max_bad_fraction:.4g} of {total}{share} (data.max_bad_fraction)",
            )
        return self._bad
