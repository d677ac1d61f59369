"""A stream of training that is open: what is read, how many steps are an epoch, what is refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmlight.data.collate import Layout
from mmlight.data.dataset import Rank
from mmlight.data.members import Members
from mmlight.data.order.cursor import check_share
from mmlight.data.sample import Decoding
from mmlight.data.shards.byte_stream import Source, is_pipe
from mmlight.data.shards.cache import ShardCache
from mmlight.data.shards.paths import expand_streams
from mmlight.data.splits.split import Split
from mmlight.data.stream.batches import StreamBatches
from mmlight.data.stream.loader import StreamLoader
from mmlight.data.stream.reading import Stream
from mmlight.errors import UserError
from mmlight.terminal import note

_OF_INDEXES = "needs an index of the shards; leave it out, or leave data.mode at index"


def check_settings(
    train: Sequence[Split], *, bucket_batches: int | None, num_lanes: int | None
) -> None:
    """Refuse what a stream can't do.

    Raises:
        UserError: naming the setting.
    """
    if not train:
        raise UserError("data.mode: stream has no effect without data.train, which it is about")
    if len(train) > 1:
        raise UserError(
            "data.mode: stream reads one source, not a mixture, whose counts an index makes exact; "
            "name all shards in one data.train"
        )
    for name, value in (("bucket_batches", bucket_batches), ("num_lanes", num_lanes)):
        if value is not None:
            raise UserError(f"data.mode: stream: data.{name} {_OF_INDEXES}")
    for name in ("only", "without", "per_class", "limit"):
        if getattr(train[0], name) is not None:
            raise UserError(f"data.mode: stream: data.train.{name} {_OF_INDEXES}")


@dataclass(frozen=True)
class OpenStream:
    """A stream, and the steps of an epoch of it.

    Attributes:
        stream: what is read.
        steps_per_epoch: batches of an epoch, the same on every rank.
        global_batch: samples of all ranks in a batch.
        rank: this process.
    """

    stream: Stream
    steps_per_epoch: int
    global_batch: int
    rank: Rank

    @property
    def num_samples(self) -> int:
        """Samples of an epoch."""
        return self.steps_per_epoch * self.global_batch

    def loader(
        self,
        decoding: Decoding,
        layout: Layout,
        *,
        position: Callable[[], int],
        num_workers: int,
        device: torch.device | None,
    ) -> StreamLoader:
        """Return this rank's batches for training; see `StreamLoader`."""
        size = self.global_batch // self.rank.world_size
        return StreamLoader(
            StreamBatches(self.stream, decoding, layout, self.rank, size),
            position=position,
            steps_per_epoch=self.steps_per_epoch,
            num_workers=num_workers,
            device=device,
        )

    def state(self, position: int) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        epoch, step = divmod(position, self.steps_per_epoch)
        return {"mode": "stream", "epoch": epoch, "step": step}

    def resumed(self, state: Mapping[str, Any]) -> int:
        """Return the position that a checkpoint tells, and say what is not as it was."""
        position: int = state["epoch"] * self.steps_per_epoch + state["step"]
        if position and self.rank.number == 0:
            note(
                f"data.mode: stream: goes on at step {state['step']:,} of epoch {state['epoch']} "
                "with shards from their beginning, in another order"
            )
        return position

    def describe(self) -> str:
        """Return a line for the start of a training."""
        count = len(self.stream.sources)
        return (
            f"data.mode: stream: {count:,} shard{'s' * (count != 1)} of training, "
            f"{self.steps_per_epoch:,} steps an epoch; the order is seeded, but not exactly "
            "resumable: a resumed run reads shards from their beginning, in another order"
        )


def open_stream(
    split: Split,
    members: Members,
    *,
    seed: int,
    window: int,
    cache: ShardCache,
    global_batch: int,
    samples_per_epoch: int | None,
    rank: Rank,
    trainer: Any,
) -> OpenStream:
    """Return a stream of training.

    Raises:
        UserError: see `_find_sources` and `_count_steps`.
    """
    sources = _find_sources(
        split, cache=cache, global_batch=global_batch, world_size=rank.world_size
    )
    steps = _count_steps(samples_per_epoch, global_batch=global_batch, trainer=trainer)
    stream = Stream(sources, members, seed, window, cache.patience_s)
    return OpenStream(stream, steps, global_batch, rank)


def check_mode(state: Mapping[str, Any], mode: str) -> None:
    """Refuse to go on in another way than training began.

    Raises:
        UserError: the checkpoint is of the other mode.
    """
    if (saved := state.get("mode", "index")) != mode:
        raise UserError(
            f"cannot continue from this checkpoint: it was trained with data.mode: {saved}, now it "
            f"is {mode}; set data.mode to it"
        )


def _count_steps(samples_per_epoch: int | None, *, global_batch: int, trainer: Any) -> int:
    """Return the batches of an epoch: of so many samples, or all that the trainer asks for.

    Raises:
        UserError: neither is set, or there are fewer samples than a batch.
    """
    if samples_per_epoch is not None:
        if samples_per_epoch < global_batch:
            raise UserError(
                f"data.samples_per_epoch {samples_per_epoch} is less than one global batch of "
                f"{global_batch}"
            )
        return samples_per_epoch // global_batch
    most = trainer.max_steps if trainer is not None else None
    if most is None or most < 1:
        raise UserError(
            "data.mode: stream can't know how many samples there are: set data.samples_per_epoch "
            "(as open_clip's --train-num-samples), or trainer.max_steps"
        )
    return int(most) * int(trainer.accumulate_grad_batches)


def _find_sources(
    split: Split, *, cache: ShardCache, global_batch: int, world_size: int
) -> tuple[Source, ...]:
    """Return what is read.

    Raises:
        UserError: a pattern that matches nothing, pipes among other shards, fewer pipes than ranks,
            or a batch that ranks can't share.
    """
    sources = tuple(expand_streams(split.shards, cache=cache))
    pipes = [source for source in sources if is_pipe(source)]
    if pipes and len(pipes) < len(sources):
        raise UserError(
            f"data.train: {pipes[0]} is a pipe and others are not, so nobody can tell when all of "
            "them have passed by; name pipes only, or none"
        )
    if pipes and len(pipes) < world_size:
        raise UserError(
            f"data.train: {len(pipes)} pipe(s) for {world_size} ranks; what one reads of a pipe no "
            "other gets: make a pipe for each rank at least"
        )
    check_share(global_batch, world_size)
    return sources
