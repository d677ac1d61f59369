"""Zero-shot classification: class names in prompts, embedded, compared with samples.

Shapes as in `mmlight.batch`: B samples, K classes, D joint width.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlight import comm
from mmlight.errors import UserError
from mmlight.text_file import MIB, read_text_file, split_lines

PLAIN_TEMPLATES: tuple[str, ...] = ("{}",)
IMAGE_TEMPLATES: tuple[str, ...] = (
    "a photo of a {}.",
    "a picture showing a {}.",
    "a close-up of a {}.",
    "a blurry photo of a {}.",
    "a dark photo of a {}.",
    "a small {} in a photo.",
    "a drawing of a {}.",
)
AUDIO_TEMPLATES: tuple[str, ...] = (
    "the sound of {}.",
    "a recording of {}.",
    "this is the sound of {}.",
    "{} can be heard.",
    "a noisy recording of {}.",
)
SPEECH_TEMPLATES: tuple[str, ...] = (
    "somebody says {}.",
    "a person saying the word {}.",
    'a voice says "{}".',
)
TEMPLATES = {
    "plain": PLAIN_TEMPLATES,
    "image": IMAGE_TEMPLATES,
    "audio": AUDIO_TEMPLATES,
    "speech": SPEECH_TEMPLATES,
}


def read_templates(given: str | Sequence[str], *, key: str) -> list[str]:
    """Return the prompt templates that a user gives.

    Args:
        given: the sentences; or the name of a built-in list (plain, image, audio, speech); or a
            file with one sentence per line, such as CLIP_benchmark's
            ``zeroshot_classification_templates.txt``, whose `{c}` is understood.
        key: the setting, for messages.

    Raises:
        UserError: no such list or file, or a template without ``{}``.
    """
    if not isinstance(given, str):
        return check_templates(given)
    if given in TEMPLATES:
        return list(TEMPLATES[given])
    try:
        lines = split_lines(read_text_file(given, what=given, largest=MIB))
    except UserError as error:
        raise UserError(
            f"{key}: '{given}' is neither a built-in list ({', '.join(TEMPLATES)}) "
            "nor a file that can be read; or give a list of sentences with {}"
        ) from error
    return check_templates([line.strip().replace("{c}", "{}") for line in lines if line.strip()])


def check_templates(templates: Sequence[str]) -> list[str]:
    """Return prompt templates as a list.

    Args:
        templates: sentences in which ``{}`` stands for the class name.

    Raises:
        UserError: no template, or one without ``{}``.
    """
    if isinstance(templates, str) or not templates:
        raise UserError(f"templates: {templates!r} must be a list of sentences such as ['a {{}}']")
    for template in templates:
        if "{}" not in template:
            raise UserError(
                f"templates: '{template}' has no {{}} where the class name goes, as in "
                f"'{IMAGE_TEMPLATES[0]}'"
            )
    return list(templates)


@torch.no_grad()
def classifier_weights(
    embed_texts: Callable[[list[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str] = PLAIN_TEMPLATES,
    *,
    batch_size: int = 256,
) -> Tensor:
    """Embed each class as the mean of its prompts (arXiv 2103.00020, section 3.1.4).

    Args:
        embed_texts: turns sentences into (number of sentences, D) features of any length.
        class_names: in the order of the labels; underscores are for the caller to replace.
        templates: sentences in which ``{}`` stands for the class name.
        batch_size: sentences embedded at once.

    Returns:
        (K, D) unit-length float32 features: normalised means of the prompts' normalised features.

    Raises:
        UserError: no class, no template, or a template without ``{}``.
    """
    sentences_of = check_templates(templates)
    if not class_names:
        raise UserError("class names: there are none; give one per label")
    # Each name once: classes of one name then have equal features, bit for bit, and tie.
    names = list(dict.fromkeys(class_names))
    # `replace`, not `format`: a class name or a template may hold other braces.
    sentences = [t.replace("{}", name) for name in names for t in sentences_of]
    parts = [
        F.normalize(embed_texts(sentences[i : i + batch_size]).float(), dim=-1)
        for i in range(0, len(sentences), batch_size)
    ]
    prompt_KTD = torch.cat(parts).unflatten(0, (len(names), len(sentences_of)))
    place = {name: number for number, name in enumerate(names)}
    return F.normalize(prompt_KTD.mean(dim=1), dim=-1)[[place[name] for name in class_names]]


@torch.no_grad()
def class_ranks(features_ND: Tensor, weights_KD: Tensor, labels_N: Tensor) -> Tensor:
    """Return how many other classes are as similar to each sample as its own, or more (N,).

    A NaN counts as more similar.

    Args:
        features_ND: features of any length.
        weights_KD: as from `classifier_weights`.
        labels_N: int64 in [0, K).
    """
    with torch.autocast(features_ND.device.type, enabled=False):
        feature_ND = F.normalize(features_ND.float(), dim=-1)
        similarity_NK = feature_ND @ weights_KD.float().T
    return ranks_of_labels(similarity_NK, labels_N)


def ranks_of_labels(score_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Return how many other classes each sample's own is not above (N,), from scores (N, K)."""
    right_N1 = score_NK.gather(1, labels_N[:, None])
    # Minus one: the right class is not below itself. A NaN is not either.
    return (~(score_NK < right_N1)).sum(1) - 1


class ZeroShotCounts:
    """Counts hits batch by batch; holds three numbers per class, whatever the number of samples.

    (torchmetrics' macro accuracy counts a class that never occurs but is predicted as 0, which the
    published figures do not.)

    Args:
        num_classes: K.
        device: where the counts live: that of the features.
    """

    def __init__(self, num_classes: int, *, device: torch.device | str = "cpu") -> None:
        self._counts_3K = torch.zeros(3, num_classes, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, features_BD: Tensor, weights_KD: Tensor, labels_B: Tensor) -> None:
        """Count a batch; not a collective.

        A class as similar as the right one counts as more similar, and so does a NaN.

        Args:
            features_BD: features of any length.
            weights_KD: as from `classifier_weights`.
            labels_B: int64 in [0, K), or below 0 for samples to leave out.

        Raises:
            UserError: a label for which there is no class.
        """
        num_classes = self._counts_3K.shape[1]
        assert len(weights_KD) == num_classes
        if len(labels_B) and int(labels_B.max()) >= num_classes:
            raise UserError(
                f"class names: there are {num_classes}, but a sample has label "
                f"{int(labels_B.max())}; labels count from 0, so at least "
                f"{int(labels_B.max()) + 1} names are needed"
            )
        known_B = labels_B >= 0
        label_N = labels_B[known_B]
        rank_N = class_ranks(features_BD[known_B], weights_KD, label_N)
        hits_3N = torch.stack([torch.ones_like(rank_N), (rank_N < 1).long(), (rank_N < 5).long()])
        self._counts_3K.index_add_(1, label_N, hits_3N)

    def compute(self) -> dict[str, float]:
        """Return the scores over all ranks; every rank calls it, a lone process gets its own.

        ``accuracy_at_1``, the share of samples whose most similar class is theirs;
        ``mean_per_class_recall``, its mean over the classes that occur (scikit-learn's
        ``balanced_accuracy_score``); with more than five classes ``accuracy_at_5``, the share with
        their class among the five most similar. Nothing without a labelled sample.
        """
        total_K, first_K, five_K = comm.all_reduce_sum(self._counts_3K).double().unbind()
        num_samples = total_K.sum()
        if not num_samples:
            return {}
        scores = {
            "accuracy_at_1": float(first_K.sum() / num_samples),
            "mean_per_class_recall": float((first_K / total_K)[total_K > 0].mean()),
        }
        if len(total_K) > 5:  # among five at most, it is always found
            scores["accuracy_at_5"] = float(five_K.sum() / num_samples)
        return scores
