"""What settings of the data module contradict one another or have no effect."""

import math
from collections.abc import Mapping, Sequence

from mmlight.data.decode.corruptions import Corruption
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members, listed
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.modality import Modality


def check_mixture(
    splits: Mapping[str, Sequence[Split]],
    *,
    samples_per_epoch: int | None,
    num_lanes: int | None,
    weights_by: str,
    batches: str,
    bucket_batches: int | None,
) -> None:
    """Refuse settings that only a mixture has, or has not.

    Raises:
        UserError: no shards at all, or a setting without effect.
    """
    if not splits:
        raise UserError("data names no shards; give data.train.shards")
    is_mixture = len(splits.get("train", ())) > 1
    for name, given in (
        ("samples_per_epoch", samples_per_epoch is not None),
        ("weights_by", weights_by != "samples"),
        ("batches", batches != "mixed"),
    ):
        if given and not is_mixture:
            raise UserError(f"data.{name} has an effect only if data.train is a list")
    for name, sources in splits.items():
        weighed = is_mixture and name == "train"
        if not weighed and any(split.weight != 1 for split in sources):
            raise UserError("data: a split's weight has an effect only if data.train is a list")
        for split in sources:
            if split.tokens_per_sample is None:
                continue
            if not weighed or weights_by != "tokens":
                raise UserError(
                    f"data.{name}: tokens_per_sample has an effect only on a list of sources with "
                    "data.weights_by: tokens"
                )
            if not 0 < split.tokens_per_sample < math.inf:
                raise UserError(
                    f"data.train: tokens_per_sample is {split.tokens_per_sample}; it must be above "
                    "0"
                )
    if num_lanes is not None and is_mixture:
        raise UserError("data.num_lanes has no effect on a mixture; leave it out")
    if bucket_batches is not None and batches == "one_source":
        raise UserError(
            "data.bucket_batches sorts samples of several batches, which would mix the sources of "
            "data.batches: one_source; leave one of them out"
        )


def check_mapping(
    members: Members,
    *,
    where: str,
    image: ImageSettings | None,
    text: TextSettings | None,
    class_names: Sequence[str],
) -> None:
    """Refuse members of a split that the other settings of the data do not fit.

    Raises:
        UserError: naming the member and the setting.
    """
    if text is None and ("text" in members.modalities() or members.answer is not None):
        mapped = "answer" if members.answer is not None else "text"
        raise UserError(
            f"{where}.{mapped} is set, but data.text is not; give it a tokenizer, such as "
            "{tokenizer: {class_path: mmlight.text.tokenizer.ByteTokenizer}}"
        )
    if members.class_captions and not class_names:
        raise UserError(f"{where}.class_captions needs data.class_names, a file of names")
    if image is not None and members.image is not None:
        several = [name for name in listed(members.image) if "*" in name]
        if several and image.frames is None:
            raise UserError(
                f"{where}.image: '{several[0]}' names several images of a sample; say how many of "
                "them are encoded by data.image.frames, such as 8"
            )
    if members.boxes is not None and image is not None and not image.fits:
        raise UserError(
            f"{where}.boxes: boxes need images that are not cut or squashed; set "
            "data.image.eval_crop: fit and train_crop: fit or random_fit"
        )


def check_text_and_boxes(all_members: Sequence[Members], *, text: TextSettings | None) -> None:
    """Refuse settings of text and boxes that no split has.

    Raises:
        UserError: naming the setting.
    """
    has_answer = any(members.answer is not None for members in all_members)
    if text is not None and not maps(all_members, "text") and not has_answer:
        raise UserError("data.text has no effect without data.members.text")
    if any(members.boxes is None and members.box_format != "xyxy" for members in all_members):
        raise UserError("data.members.box_format has no effect without members.boxes")


def check_frames(all_members: Sequence[Members], *, image: ImageSettings | None) -> None:
    """Refuse several frames of samples that have one image.

    Raises:
        UserError: naming the setting.
    """
    if image is not None and image.frames is not None:
        if not any(members.has_frames for members in all_members):
            raise UserError(
                "data.image.frames has no effect: data.members.image names one member; give a "
                "pattern, such as '*.jpg', or a list"
            )


def check_corruptions(
    corruptions: Sequence[Corruption], all_members: Sequence[Members], splits: Sequence[str]
) -> None:
    """Refuse corruptions that meet no sample.

    Raises:
        UserError: naming the corruption.
    """
    for corruption in corruptions:
        if not maps(all_members, corruption.modality):
            raise UserError(
                f"data.corruptions: {corruption.name} has no effect without "
                f"data.members.{corruption.modality}"
            )
        if not any(corruption.holds_for(name) for name in splits):
            raise UserError(
                f"data.corruptions: {corruption.name} has no effect: of the splits that it "
                f"names, none has shards; there is {', '.join(splits)}"
            )


def maps(all_members: Sequence[Members], modality: Modality) -> bool:
    """Return whether any split has a modality."""
    return any(modality in members.modalities() for members in all_members)
