"""The LightningDataModule over sharded tar files."""

import math
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import lightning
import torch

from mmlight.batch import Batch, Modality, Text
from mmlight.class_names import given_names
from mmlight.data.bad_samples import BadSamples
from mmlight.data.checks import check_members, without_absent_targets
from mmlight.data.collate import Layout, collate
from mmlight.data.dataset import EvalBatches, Rank, TrainBatches
from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.corruptions import Corruption, corruptor
from mmlight.data.decode.image import ImageSettings
from mmlight.data.following import follow_audio, follow_image, image_differs, text_differs
from mmlight.data.labels.checks import (
    SeenLabels,
    check_box_labels,
    check_label_lists,
    check_labels,
    field_values,
    label_counts,
)
from mmlight.data.labels.class_order import labels_of
from mmlight.data.labels.labels import Labels
from mmlight.data.loader import EvalLoader, TrainLoader
from mmlight.data.members import Members
from mmlight.data.module_checks import (
    check_corruptions,
    check_mapping,
    check_mixture,
    check_text_and_boxes,
    maps,
)
from mmlight.data.needed import count_what_is_there, only_read, what_is_there
from mmlight.data.order.bucket import Bucketed, lengths_of
from mmlight.data.order.cursor import EvalOrder, Order
from mmlight.data.order.mixture import Mixture
from mmlight.data.order.position import STATE_VERSION, Position, check_same
from mmlight.data.sample import Decoding, Sample, SampleSet
from mmlight.data.splits.plain_files import FileCorpus, PredictSplit, file_members, find_samples
from mmlight.data.splits.split import Indexes, Split, open_split
from mmlight.data.text import MAX_CHARACTERS, TextSettings
from mmlight.errors import UserError
from mmlight.terminal import note
from mmlight.text.tokenizer import Tokenizer

_STAGES = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class ShardDataModule(lightning.LightningDataModule):
    """Batches from webdataset tar files, resumable at any step.

    The order of training is a pure function of (seed, epoch, step): it does not depend on the
    number of workers, nor on the number of ranks at one `global_batch_size`.

    Args:
        members: which members of a sample are its image, text, audio, label.
        train: shards to train on; a list is a mixture by weight.
        val: shards to validate on while training.
        test: shards for ``mmlight test``.
        predict: shards or plain files for ``mmlight predict``; labels need not be there.
        image: how images are decoded; None takes the defaults where an image is mapped.
        text: how captions are tokenised; required where text is mapped.
        audio: how sounds are decoded; None takes the defaults where audio is mapped.
        global_batch_size: samples per step over all ranks together.
        eval_batch_size: samples per batch and rank in evaluation.
        num_workers: processes that decode, per rank; 0 decodes in the main process.
        seed: seed of the order, crops and drawn captions.
        num_lanes: lanes of the order, a divisor of the batch and a multiple of the number of
            ranks; None takes the largest common divisor of the batch and 32.
        window: samples of a lane that are shuffled together.
        bucket_batches: sort so many batches of training by length together (seconds of sound, else
            bytes of text), so that less of each is padding; None leaves batches mixed.
        max_bad_fraction: stop when more than this part of the training samples cannot be decoded;
            one sample always may, unless it is 0.
        samples_per_epoch: length of an epoch of a mixture; None takes the samples of all sources.
        class_names: a file with one class name per line, in the order of the labels, or the names.
        corruptions: what spoils samples on purpose, in this order.
        verify: compare each member that is read with its checksum in the index (about 2 % of the
            time); one that differs is a bad sample. Without it, bytes that rot on a disk are
            noticed only where they can't be decoded.
    """

    def __init__(
        self,
        *,
        members: Members,
        train: Split | list[Split] | None = None,
        val: Split | None = None,
        test: Split | None = None,
        predict: PredictSplit | None = None,
        image: ImageSettings | None = None,
        text: TextSettings | None = None,
        audio: AudioSettings | None = None,
        global_batch_size: int = 256,
        eval_batch_size: int = 256,
        num_workers: int = 2,
        seed: int = 0,
        num_lanes: int | None = None,
        window: int = 4096,
        bucket_batches: int | None = None,
        max_bad_fraction: float = 0.001,
        samples_per_epoch: int | None = None,
        class_names: str | list[str] | None = None,
        corruptions: list[Corruption] | None = None,
        verify: bool = True,
    ) -> None:
        super().__init__()
        self.members = members
        # What the model reads (modalities, and boxes), where no trainer tells; None is everything
        # that is mapped.
        self.reads: tuple[str, ...] | None = None
        self._splits: dict[str, list[Split]] = {
            name: split if isinstance(split, list) else [split]
            for name, split in {
                "train": train,
                "val": val,
                "test": test,
                "predict": self._predict_split(predict),
            }.items()
            if split is not None
        }
        self.global_batch_size = global_batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.num_lanes = num_lanes
        self.window = window
        self.bucket_batches = bucket_batches
        self.max_bad_fraction = max_bad_fraction
        self.samples_per_epoch = samples_per_epoch
        self.class_names: list[str] = given_names(class_names)
        self.image = _settings_of("image", image, mapped=self._maps("image"))
        self.audio = _settings_of("audio", audio, mapped=self._maps("audio"))
        self._given = (self.image, self.audio)
        self.text = text
        self.corruptions: list[Corruption] = corruptions or []
        self.verify = verify
        self._indexes = Indexes()
        self._check_settings()
        self._labels: Labels | None = None
        self._seen_labels: dict[str, SeenLabels] = {}
        self._samples: dict[str, SampleSet] = {}
        self._order: Order | Mixture | None = None
        self._buckets: Bucketed | None = None
        self._position = Position(self._num_processed)
        self._bad: BadSamples | None = None
        self._there: dict[str, dict[str, int]] = {}
        self._loaders: WeakSet[TrainLoader | EvalLoader] = WeakSet()

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None where no text is mapped."""
        return self.text.tokenizer if self.text is not None else None

    def prepare_data(self) -> None:
        """Index the shards on one process of each machine, before the others look for them."""
        for name in self._wanted(self._stage()):
            if name == "predict" and self._plain is not None:
                continue
            for split in self._splits[name]:
                self._indexes.of(split)

    def setup(self, stage: str) -> None:
        """Open the splits of a stage and check them against the settings.

        Raises:
            UserError: no such split, no such shard or member, or labels without a class name.
        """
        for name in self._wanted(stage):
            if name not in self._samples:
                self._samples[name] = self._open(name)
        if stage == "fit":
            self._tell_what_is_there()
            if self._order is None:
                self._order = self._lay_out()
                self._buckets = self._sort(self._order)
            (self._buckets or self._order).check_world(self._rank().world_size)
            if self.trainer is None or self.trainer.global_step == 0:  # another trainer, from anew
                self._position.go_to(0)

    def _tell_what_is_there(self) -> None:
        if self.trainer is not None and self._rank().number == 0:
            there = self.what_is_there().items()
            note("; ".join(what_is_there(name, counts) for name, counts in there))

    def what_is_there(self) -> dict[str, dict[str, int]]:
        """Return the numbers of samples, images, texts and sounds of each split that is open."""
        for name in self._samples.keys() - self._there.keys():
            self._there[name] = count_what_is_there(self._samples[name])
        return {name: self._there[name] for name in self._samples}

    def teardown(self, stage: str) -> None:
        """End the workers, and keep the position: the next trainer may be another one."""
        self._position.go_to(self._position.next_batch())
        self._close_loaders()

    def on_exception(self, exception: BaseException) -> None:
        """End the workers."""
        self._close_loaders()

    def fingerprint(self) -> dict[str, str]:
        """Return a hash of the content of each split that is open."""
        return {name: samples.corpus.fingerprint() for name, samples in self._samples.items()}

    def num_samples(self, split: str) -> int:
        """Return the number of samples of a split that is open."""
        return len(self._samples[split])

    def label_counts(self, split: str, num_classes: int, *, field: str | None = None) -> list[int]:
        """Return the number of samples with each label (see `mmlight.data.labels.checks`)."""
        return label_counts(
            self._samples[split],
            num_classes,
            field=field,
            class_names=self.class_names,
            labels=self._how_labels_are_read(),
        )

    def check_classes(self, num_classes: int, *, field: str | None = None) -> None:
        """Refuse labels that are no class, as far as up to 20,000 samples of a split show them.

        Args:
            num_classes: K.
            field: name of a further field that lists a sample's labels; None is the one label.

        Raises:
            UserError: in a split that is open.
        """
        for name, samples in self._samples.items():
            where = f"data.{name}"
            if name == "predict":
                continue
            if field is None:
                self._seen_labels.get(name, SeenLabels()).check(num_classes, where=where)
                continue
            names, parts = self.class_names, samples.parts
            check_label_lists(parts, field, names=names, num_classes=num_classes, where=where)

    def field_values(self, split: str, field: str, *, most: int) -> Iterator[Any]:
        """Yield a further field of some samples (see `mmlight.data.labels.checks`)."""
        return field_values(self._samples[split], field, most=most)

    def train_dataloader(self) -> TrainLoader:
        """Return the batches of training, from the position on."""
        assert self._order is not None
        if self.trainer is not None and getattr(self.trainer, "overfit_batches", False):
            raise UserError(
                "trainer.overfit_batches is not supported: every epoch has another order; give "
                "data.train a shard with a few samples instead"
            )
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
            order=self._buckets or self._order,
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
            assert self._order is not None
            self._position.take(batch.epoch * self._order.steps_per_epoch + batch.step)
        return batch

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Return the batch on a device; itself, if it is there."""
        return batch.to(device)

    def state_dict(self) -> dict[str, Any]:
        """Return the position: two numbers, and what must be the same to continue from it."""
        if self._order is None:
            return {}
        epoch, step = divmod(self._position.next_batch(), self._order.steps_per_epoch)
        return {
            "version": STATE_VERSION,
            "epoch": epoch,
            "step": step,
            "fingerprint": self._samples["train"].corpus.fingerprint(),
            "seed": self.seed,
            "global_batch_size": self.global_batch_size,
            "order": self._order_settings(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a checkpoint's position.

        Raises:
            UserError: the data, the seed, the batch or what else makes the order of training are
                not those of the checkpoint.
        """
        if self._order is None or not state_dict or self._stage() != "fit":
            return  # an evaluation: the position in training does not matter
        check_same(state_dict, self.state_dict())
        steps_per_epoch = self._order.steps_per_epoch
        self._position.go_to(state_dict["epoch"] * steps_per_epoch + state_dict["step"])

    def split_names(self) -> list[str]:
        """Return the names of the splits that have shards."""
        return list(self._splits)

    def eval_loader(self, split: str) -> EvalLoader:
        """Return the batches of a split as an evaluation sees them: in order, not augmented.

        Args:
            split: `train`, `val`, `test` or `predict`; it is opened if it is not yet.
        """
        self.samples(split)
        return self._eval_loader(split)

    def samples(self, split: str) -> SampleSet:
        """Return the samples of a split, which is opened if it is not yet."""
        if split not in self._samples:
            self._samples[split] = self._open(split)
        return self._samples[split]

    def batch_of(self, split: str, numbers: Sequence[int]) -> Batch:
        """Return some samples of a split that is open, decoded as an evaluation decodes them.

        One that cannot be decoded becomes an empty row that is marked as not valid.

        Args:
            split: `train`, `val`, `test` or `predict`.
            numbers: the samples' numbers in it (`Batch.index_B`).
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

    def follow(self, towers: Mapping[Modality, Mapping[str, Any]]) -> list[str]:
        """Prepare what the settings leave open as the towers want it.

        Args:
            towers: what each says (see `mmlight.encoders.encoder.Encoder.preparation`).

        Returns:
            Lines that say where the user's own settings are not those of a tower.
        """
        image, audio = self._given
        told = []
        if image is not None:
            wanted = towers.get("image", {})
            self.image = follow_image(image, wanted)
            told.append(image_differs(image, wanted))
        if audio is not None:
            self.audio = follow_audio(audio, towers.get("audio", {}))
        if self.text is not None:
            told.append(text_differs(self.text, towers.get("text", {})))
        return [line for line in told if line is not None]

    def preprocessing(self) -> dict[str, Any]:
        """Return how inputs are prepared, as plain values that a checkpoint can hold."""
        text = None
        if self.text is not None:
            text = {
                "tokenizer": self.text.tokenizer.state(),
                "vocab_size": self.text.tokenizer.vocab_size,
                "max_tokens": self.text.max_tokens,
                "clean": self.text.clean,
                "max_characters": self.text.max_characters,
                "offsets": self.text.offsets,
            }
        return {
            "image": asdict(self.image.complete()) if self.image is not None else None,
            "text": text,
            "audio": asdict(self.audio.complete()) if self.audio is not None else None,
            "class_names": self.class_names,
        }

    def text_inputs(self, sentences: Sequence[str]) -> Text:
        """Return sentences as a text encoder takes them, prepared as captions are."""
        assert self.text is not None
        samples = [
            Sample(number, "", captions=[self.text.prepared(sentence)])
            for number, sentence in enumerate(sentences)
        ]
        layout = Layout(modalities=("text",), labels=False, fields=(), image=None, text=self.text)
        text = collate(samples, layout).text
        assert text is not None
        return text

    def _module(self) -> Any:
        return getattr(self.trainer, "lightning_module", None)

    def _read_of(self, members: Members, *, targets: bool) -> Members:
        """Return a mapping without what the model does not read, where a model tells."""
        module = self._module()
        if hasattr(module, "tower_settings"):
            towers = tuple(module.tower_settings.given())
            return only_read(members, towers + (module.targets if targets else ()))
        return members if self.reads is None else only_read(members, self.reads)

    def _reads(self, mapped: tuple[Modality, ...]) -> tuple[Modality, ...]:
        """Return what of the mapped modalities the model reads; a transcript, say, it does not."""
        towers = getattr(self._module(), "tower_settings", None)
        reads = self.reads if towers is None else tuple(towers.given())
        return tuple(name for name in mapped if reads is None or name in reads)

    def _needs(self, mapped: tuple[Modality, ...]) -> tuple[Modality, ...]:
        """Return the modalities of which a sample must have one; none where no model tells."""
        knows = self.reads is not None or hasattr(self._module(), "tower_settings")
        return self._reads(mapped) if knows else ()

    def _predict_split(self, given: PredictSplit | None) -> Split | None:
        self._plain = given if given is not None and given.is_plain else None
        if given is None or (given.shards is None and self._plain is None):
            return None
        if self._plain is None:
            return given.split()
        return Split([], members=file_members((given.members or self.members).modalities()))

    def all_members(self) -> list[Members]:
        """Return the mapping of each split's members, as far as there are splits."""
        splits = [split for group in self._splits.values() for split in group]
        return [split.members or self.members for split in splits] or [self.members]

    def _maps(self, modality: Modality) -> bool:
        return maps(self.all_members(), modality)

    def _check_settings(self) -> None:
        check_mixture(
            self._splits, samples_per_epoch=self.samples_per_epoch, num_lanes=self.num_lanes
        )
        check_text_and_boxes(self.all_members(), text=self.text)
        check_corruptions(self.corruptions, self.all_members(), list(self._splits))
        for key, least in (("global_batch_size", 1), ("eval_batch_size", 1), ("num_workers", 0)):
            if getattr(self, key) < least:
                raise UserError(f"data.{key} is {getattr(self, key)}; it must be {least} or more")
        if not 0 <= self.max_bad_fraction <= 1:
            raise UserError(f"data.max_bad_fraction is {self.max_bad_fraction}; it must be 0 to 1")

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

    def _open(self, name: str) -> SampleSet:
        parts = []
        if name == "predict" and self._plain is not None:
            members = self._splits[name][0].members
            assert members is not None
            reads = self._reads(members.modalities())
            found = find_samples(self._plain, modalities=reads, where="data.predict")
            return SampleSet([(FileCorpus(found), members)])
        how = self._how_labels_are_read()
        for number, split in enumerate(self._splits[name]):
            members = self._read_of(split.members or self.members, targets=name != "predict")
            where = f"data.{name}" if len(self._splits[name]) == 1 else f"data.{name}[{number}]"
            key = "data.members" if split.members is None else f"{where}.members"
            corpus = open_split(
                split,
                members=members,
                seed=self.seed,
                where=where,
                labels=how,
                indexes=self._indexes,
                verify=self.verify,
            )
            if name == "predict":
                members = without_absent_targets(corpus, members)
            check_members(corpus, members, where=where, key=key)
            check_mapping(
                members,
                where=key,
                image=self.image,
                text=self.text,
                class_names=self.class_names,
            )
            if members.label is not None and name != "predict":
                seen = check_labels(
                    corpus, members.label, how, where=where, max_bad_fraction=self.max_bad_fraction
                )
                known = self._seen_labels.get(name, seen)
                self._seen_labels[name] = max(seen, known, key=lambda one: one.highest)
            if members.box_labels is not None:
                names = self.class_names or None
                check_box_labels(corpus, members.box_labels, how, class_names=names, where=where)
            parts.append((corpus, members))
        return SampleSet(parts)

    def _lay_out(self) -> Order | Mixture:
        parts = self._samples["train"].parts
        if len(parts) > 1:
            return Mixture(
                [corpus.shard_sizes for corpus, _ in parts],
                weights=[split.weight for split in self._splits["train"]],
                global_batch=self.global_batch_size,
                seed=self.seed,
                window=self.window,
                samples_per_epoch=self.samples_per_epoch,
            )
        return Order(
            parts[0][0].shard_sizes,
            global_batch=self.global_batch_size,
            seed=self.seed,
            num_lanes=self.num_lanes,
            window=self.window,
        )

    def _sort(self, order: Order | Mixture) -> Bucketed | None:
        if self.bucket_batches is None:
            return None
        return Bucketed(
            order,
            lengths_of(self._samples["train"]),
            global_batch=self.global_batch_size,
            pool_batches=self.bucket_batches,
            seed=self.seed,
        )

    def _order_settings(self) -> dict[str, Any]:
        """Return what else the order of training depends on, without what has no effect."""
        buckets = {} if self.bucket_batches is None else {"bucket_batches": self.bucket_batches}
        if isinstance(self._order, Mixture):
            return buckets | {
                "window": self.window,
                "samples_per_epoch": self.samples_per_epoch,
                "weights": self._order.weights,
            }
        assert self._order is not None
        return buckets | {"window": self.window, "num_lanes": self._order.num_lanes}

    def _num_processed(self) -> int:
        assert self.trainer is not None
        total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return int(total.processed)

    def _eval_loader(self, name: str) -> EvalLoader:
        dataset = self._eval_batches(name)
        on_gpu = self._gpu() is not None
        loader = EvalLoader(dataset, num_workers=self.num_workers, pin_memory=on_gpu)
        self._loaders.add(loader)
        return loader

    def _eval_batches(self, name: str) -> EvalBatches:
        samples = self._samples[name]
        return EvalBatches(
            samples,
            order=EvalOrder(len(samples), batch_size=self.eval_batch_size),
            decoding=self.decoding(name),
            layout=self._layout(name),
            rank=self._rank(),
        )

    def _close_loaders(self) -> None:
        for loader in self._loaders:
            loader.close()

    def _layout(self, name: str) -> Layout:
        all_members = [members for _, members in self._samples[name].parts]
        mapped = {modality for members in all_members for modality in members.modalities()}
        order: tuple[Modality, ...] = ("image", "text", "audio")
        return Layout(
            modalities=tuple(modality for modality in order if modality in mapped),
            labels=any(members.label is not None for members in all_members),
            fields=tuple(dict.fromkeys(name for m in all_members for name in m.fields)),
            image=self.image,
            text=self.text,
            boxes=any(members.boxes is not None for members in all_members),
        )

    def decoding(self, name: str) -> Decoding:
        """Return how the samples of a split that is open are decoded."""
        return Decoding(
            image=self.image,
            audio=self.audio,
            clean=self.text.clean if self.text is not None else "none",
            max_characters=self.text.max_characters if self.text is not None else MAX_CHARACTERS,
            num_captions=self.text.captions_per_sample if self.text is not None else 1,
            class_names=tuple(self.class_names) or None,
            labels=replace(self._how_labels_are_read(), lenient=name == "predict"),
            corruptor=corruptor(self.corruptions, split=name, seed=self.seed),
            needs=self._needs(self._layout(name).modalities),
        )

    def _how_labels_are_read(self) -> Labels:
        if self._labels is None:
            self._labels, lines = labels_of(
                self._splits, self.members, class_names=self.class_names
            )
            for line in lines if self._rank().number == 0 else []:
                note(line)
        return self._labels

    def _rank(self) -> Rank:
        if self.trainer is None:
            return Rank()
        return Rank(self.trainer.global_rank, self.trainer.world_size)

    def _gpu(self) -> torch.device | None:
        device = self.trainer.strategy.root_device if self.trainer is not None else None
        return device if device is not None and device.type == "cuda" else None

    def _count_bad(self) -> BadSamples:
        if self._bad is None:
            root = Path(self.trainer.default_root_dir) if self.trainer is not None else Path(".")
            total = max(len(samples) for samples in self._samples.values())
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


def _settings_of(key: str, given: Any, *, mapped: bool) -> Any:
    if given is not None and not mapped:
        raise UserError(f"data.{key} has no effect without data.members.{key}")
    default = {"image": ImageSettings, "audio": AudioSettings}[key]
    return given if given is not None or not mapped else default()
