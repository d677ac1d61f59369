"""What a task takes of texts: hidden tokens, rows that several share, several captions at once."""

from typing import Any, ClassVar, Protocol

from torch import nn

from mmlight.errors import UserError
from mmlight.modality import Modality
from mmlight.tasks.tower import Tower


class TakesTexts(Protocol):
    """What a task says of itself; see `mmlight.tasks.task.Task`."""

    takes_captions: ClassVar[bool]
    takes_documents: ClassVar[bool]
    takes_masked: ClassVar[bool]
    towers: nn.ModuleDict

    def tower(self, modality: Modality) -> Tower:
        """Return the tower of a modality."""
        ...


def check_rows(text: Any, task: TakesTexts) -> None:
    """Refuse texts in rows, or with hidden tokens, that a task does not take.

    Args:
        text: settings of the data's texts; None where it has none.
        task: whose tower may take no rows that texts share.
    """
    name = type(task).__name__
    if getattr(text, "masking", None) is not None and not task.takes_masked:
        raise UserError(
            f"data.text.masking hides tokens for masked language models; {name} reads them: leave "
            "it out"
        )
    documents = getattr(text, "documents", "cut")
    if documents != "cut" and not task.takes_documents:
        raise UserError(
            f"data.text.documents: {documents} is for language models; {name} takes whole texts: "
            "leave it out"
        )
    if documents == "packed" and "text" in task.towers:
        encoder = task.tower("text").encoder
        if not encoder.takes_packed:
            raise UserError(
                f"data.text.documents: packed is not known to be exact for this "
                f"{encoder.network_name}; use windows"
            )


def check_captions(text: Any, task: TakesTexts) -> None:
    """Refuse several captions of a sample in training where a task takes one."""
    if text is not None and text.captions_per_sample > 1 and not task.takes_captions:
        raise UserError(
            f"data.text.captions_per_sample: {text.captions_per_sample} has no effect on "
            f"{type(task).__name__}, which takes one; leave it out"
        )
