"""What the samples of a data module are: mapped, opened, checked and decoded, split by split."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import lightning

from mmlight.batch import Text
from mmlight.class_names import given_names
from mmlight.data.checks import (
    check_members,
    count_what_is_there,
    only_read,
    without_absent_targets,
)
from mmlight.data.collate import Layout, collate
from mmlight.data.dataset import Rank
from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.corruptions import Corruption, corruptor
from mmlight.data.decode.image import ImageSettings
from mmlight.data.following import (
    follow_audio,
    follow_image,
    follow_text,
    image_differs,
    text_differs,
)
from mmlight.data.label_checks import (
    SeenLabels,
    check_box_labels,
    check_label_lists,
    check_labels,
    field_values,
    label_counts,
)
from mmlight.data.labels import Labels
from mmlight.data.members import Members
from mmlight.data.mixing import check_names, source_names
from mmlight.data.module_checks import (
    check_corruptions,
    check_frames,
    check_mapping,
    check_text_and_boxes,
    maps,
)
from mmlight.data.sample import Decoding, Sample, SampleSet
from mmlight.data.shards.cache import ShardCache
from mmlight.data.splits.class_order import labels_of
from mmlight.data.splits.plain_files import FileCorpus, PredictSplit, file_members, find_samples
from mmlight.data.splits.split import Indexes, Split, open_split
from mmlight.data.text import MAX_CHARACTERS, TextSettings
from mmlight.errors import UserError
from mmlight.modality import MODALITIES, Modality
from mmlight.terminal import note
from mmlight.text.tokenizer import Tokenizer


class SplitDataModule(lightning.LightningDataModule):
    """The splits of an experiment and their samples; `ShardDataModule` makes batches of them.

    Args:
        members: which members of a sample are its image, text, audio, label.
        train: shards to train on; a list is a mixture by weight.
        val: shards to validate on while training; of a list, each is scored by itself, too.
        test: shards for ``mmlight test``; likewise.
        predict: shards or plain files for ``mmlight predict``; labels need not be there.
        image: how images are decoded; None takes the defaults where an image is mapped.
        text: how captions are tokenised; required where text is mapped.
        audio: how sounds are decoded; None takes the defaults where audio is mapped.
        seed: seed of the order, crops and drawn captions.
        max_bad_fraction: stop when more than this part of the training samples cannot be decoded;
            one sample always may, unless it is 0.
        class_names: a file with one class name per line, in the order of the labels, or the names.
        corruptions: what spoils samples on purpose, in this order.
        verify: compare each member that is read with its checksum in the index (about 2 % of the
            time); one that differs is a bad sample. Without it, bytes that rot on a disk are
            noticed only where they can't be decoded.
        cache: where shards of remote stores are kept while they are needed; local shards are read
            where they lie.
    """

    def __init__(
        self,
        *,
        members: Members,
        train: Split | list[Split] | None = None,
        val: Split | list[Split] | None = None,
        test: Split | list[Split] | None = None,
        predict: PredictSplit | None = None,
        image: ImageSettings | None = None,
        text: TextSettings | None = None,
        audio: AudioSettings | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.001,
        class_names: str | list[str] | None = None,
        corruptions: list[Corruption] | None = None,
        verify: bool = True,
        cache: ShardCache | None = None,
    ) -> None:
        super().__init__()
        self.members = members
        # What the model reads (modalities, and boxes), where no trainer tells; None is everything
        # that is mapped.
        self.reads: tuple[str, ...] | None = None
        self._plain = predict if predict is not None and predict.is_plain else None
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
        check_names(self._splits)
        self.seed = seed
        self.max_bad_fraction = max_bad_fraction
        self.class_names: list[str] = given_names(class_names)
        self.image = _settings_of("image", image, mapped=self._maps("image"))
        self.audio = _settings_of("audio", audio, mapped=self._maps("audio"))
        self.text = text
        self._given = (self.image, self.audio, self.text)
        self.corruptions: list[Corruption] = corruptions or []
        self.verify = verify
        self.cache = cache or ShardCache()
        self._indexes = Indexes(self.cache)
        self._labels: Labels | None = None
        self._seen_labels: dict[str, SeenLabels] = {}
        self._samples: dict[str, SampleSet] = {}
        # Splits that are read once, in order: how their members are mapped.
        self._streamed: dict[str, Members] = {}
        self._there: dict[str, dict[str, int]] = {}
        check_text_and_boxes(self.all_members(), text=self.text)
        check_frames(self.all_members(), image=self.image)
        check_corruptions(self.corruptions, self.all_members(), list(self._splits))
        if not 0 <= self.max_bad_fraction <= 1:
            raise UserError(f"data.max_bad_fraction is {self.max_bad_fraction}; it must be 0 to 1")

    def _predict_split(self, given: PredictSplit | None) -> Split | None:
        if self._plain is not None:
            mapped = (self._plain.members or self.members).modalities()
            return Split([], members=file_members(mapped))
        return given.split() if given is not None and given.shards is not None else None

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, or None where no text is mapped."""
        return self.text.tokenizer if self.text is not None else None

    def split_names(self) -> list[str]:
        """Return the names of the splits that have shards."""
        return list(self._splits)

    def splits(self) -> dict[str, list[Split]]:
        """Return the splits that have shards, each with its sources."""
        return dict(self._splits)

    def source_names(self, split: str) -> list[str]:
        """Return what the log calls each source of a split; nothing where there is only one."""
        return source_names(self._splits.get(split, ()))

    def all_members(self) -> list[Members]:
        """Return the mapping of each split's members, as far as there are splits."""
        splits = [split for group in self._splits.values() for split in group]
        return [split.members or self.members for split in splits] or [self.members]

    def samples(self, split: str) -> SampleSet:
        """Return the samples of a split, which is opened if it is not yet.

        Raises:
            UserError: the split can't be opened, or is a stream.
        """
        if split not in self._samples and split not in self._streamed:
            self._samples[split] = self._open(split)
        return self._opened(split)

    def _opened(self, split: str) -> SampleSet:
        """Return the samples of a split that is open, or refuse a stream."""
        if split in self._streamed:
            raise UserError(
                f"data.mode: stream: the samples of data.{split} pass by once, so nothing can be "
                "counted or looked up in them before training; leave data.mode at index"
            )
        return self._samples[split]

    def num_samples(self, split: str) -> int:
        """Return the number of samples of a split that is open."""
        return len(self._opened(split))

    def fingerprint(self) -> dict[str, str]:
        """Return a hash of the content of each split that is open."""
        return {name: samples.corpus.fingerprint() for name, samples in self._samples.items()}

    def what_is_there(self) -> dict[str, dict[str, int]]:
        """Return the numbers of samples, images, texts and sounds of each split that is open."""
        for name in self._samples.keys() - self._there.keys():
            self._there[name] = count_what_is_there(self._samples[name])
        return {name: self._there[name] for name in self._samples}

    def label_counts(self, split: str, num_classes: int, *, field: str | None = None) -> list[int]:
        """Return the number of samples with each label (see `mmlight.data.label_checks`)."""
        return label_counts(
            self._opened(split),
            num_classes,
            field=field,
            class_names=self.class_names,
            labels=self._how_labels_are_read(),
        )

    def check_classes(self, num_classes: int, *, field: str | None = None) -> None:
        """Refuse labels that are no class, as far as up to 20,000 samples of a split show them.

        They are those of a field that lists a sample's labels; without it, the one label.

        Raises:
            UserError: in a split that is open.
        """
        names = self.class_names
        for name, samples in self._samples.items():
            where, parts = f"data.{name}", samples.parts
            if name == "predict":
                continue
            if field is None:
                self._seen_labels.get(name, SeenLabels()).check(num_classes, where=where)
            else:
                check_label_lists(parts, field, names=names, num_classes=num_classes, where=where)

    def field_values(self, split: str, field: str, *, most: int) -> Iterator[Any]:
        """Yield a further field of some samples (see `mmlight.data.label_checks`)."""
        return field_values(self._opened(split), field, most=most)

    def follow(self, towers: Mapping[Modality, Mapping[str, Any]]) -> list[str]:
        """Prepare what the settings leave open as the towers want it.

        Args:
            towers: what each says (see `mmlight.encoders.encoder.Encoder.preparation`).

        Returns:
            Lines that say where the user's own settings are not those of a tower.
        """
        image, audio, text = self._given
        lines = []
        if image is not None:
            wanted = towers.get("image", {})
            self.image = follow_image(image, wanted)
            lines.append(image_differs(image, wanted))
        if audio is not None:
            self.audio = follow_audio(audio, towers.get("audio", {}))
        if text is not None:
            self.text = follow_text(text, towers.get("text", {}))
            lines.append(text_differs(self.text, towers.get("text", {})))
        return [line for line in lines if line is not None]

    def preprocessing(self) -> dict[str, Any]:
        """Return how inputs are prepared, as plain values that a checkpoint can hold."""
        text = None
        tokenizer = self.tokenizer
        if self.text is not None:
            text = {
                "tokenizer": tokenizer.state() if tokenizer is not None else None,
                "vocab_size": tokenizer.vocab_size if tokenizer is not None else None,
                "max_tokens": self.text.most_tokens,
                "clean": self.text.cleaning,
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
        whole = replace(self.text, documents="cut", stride=None, masking=None)
        layout = Layout(modalities=("text",), labels=False, fields=(), image=None, text=whole)
        text = collate(samples, layout).text
        assert text is not None
        return text

    def decoding(self, name: str) -> Decoding:
        """Return how the samples of a split that is open are decoded."""
        text = self.text
        mapped = self._layout(name).modalities
        return Decoding(
            image=self.image,
            audio=self.audio,
            clean=text.cleaning if text is not None else "none",
            max_characters=text.max_characters if text is not None else MAX_CHARACTERS,
            num_captions=text.captions_per_sample if text is not None else 1,
            class_names=tuple(self.class_names) or None,
            labels=replace(self._how_labels_are_read(), lenient=name == "predict"),
            corruptor=corruptor(self.corruptions, split=name, seed=self.seed),
            needs=self._reads(mapped) if self._read(targets=False) is not None else (),
        )

    def _layout(self, name: str) -> Layout:
        all_members = self._mapped(name)
        mapped = {modality for members in all_members for modality in members.modalities()}
        return Layout(
            modalities=tuple(modality for modality in MODALITIES if modality in mapped),
            labels=any(members.label is not None for members in all_members),
            fields=tuple(dict.fromkeys(name for m in all_members for name in m.fields)),
            image=self.image,
            # Who predicts has hidden what is asked for.
            text=replace(self.text, masking=None) if self.text and name == "predict" else self.text,
            boxes=any(members.boxes is not None for members in all_members),
            answers=any(members.answer is not None for members in all_members),
            rejected=any(members.rejected is not None for members in all_members),
        )

    def _mapped(self, name: str) -> list[Members]:
        """Return how the members of a split that is open are mapped, source by source."""
        if name in self._streamed:
            return [self._streamed[name]]
        return [members for _, members in self._samples[name].parts]

    def _maps(self, modality: Modality) -> bool:
        return maps(self.all_members(), modality)

    def _read(self, *, targets: bool) -> tuple[str, ...] | None:
        """Return what the model reads, with or without its targets; None where no model tells."""
        module: Any = getattr(self.trainer, "lightning_module", None)
        if hasattr(module, "tower_settings"):
            return tuple(module.tower_settings.given()) + (module.targets if targets else ())
        return self.reads

    def _reads(self, mapped: tuple[Modality, ...]) -> tuple[Modality, ...]:
        """Return what of the mapped modalities the model reads; a transcript, say, it does not."""
        reads = self._read(targets=False)
        return tuple(name for name in mapped if reads is None or name in reads)

    def _open(self, name: str) -> SampleSet:
        parts = []
        if name == "predict" and self._plain is not None:
            members = self._splits[name][0].members or self.members
            inputs = self._reads(members.modalities())
            found = find_samples(self._plain, modalities=inputs, where="data.predict")
            return SampleSet([(FileCorpus(found), members)])
        how = self._how_labels_are_read()
        for number, split in enumerate(self._splits[name]):
            members = self._members_of(split, name)
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
                members, where=key, image=self.image, text=self.text, class_names=self.class_names
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
        return SampleSet(parts, names=self.source_names(name))

    def _members_of(self, split: Split, name: str) -> Members:
        """Return what of the members of a split is read."""
        members = split.members or self.members
        reads = self._read(targets=name != "predict")
        return members if reads is None else only_read(members, reads)

    def _how_labels_are_read(self) -> Labels:
        if self._labels is None:
            names = self.class_names
            self._labels, lines = labels_of(self._splits, self.members, class_names=names)
            for line in lines if self._rank().number == 0 else []:
                note(line)
        return self._labels

    def _rank(self) -> Rank:
        if self.trainer is None:
            return Rank()
        trainer = self.trainer
        return Rank(trainer.global_rank, trainer.world_size, on_node=trainer.num_devices)


def _settings_of(key: str, given: Any, *, mapped: bool) -> Any:
    if given is not None and not mapped:
        raise UserError(f"data.{key} has no effect without data.members.{key}")
    default = {"image": ImageSettings, "audio": AudioSettings}[key]
    return given if given is not None or not mapped else default()
