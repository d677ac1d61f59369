"""Captions become token ids: settings, cleaning and caption ids."""

import hashlib
from dataclasses import dataclass
from typing import Literal

from mmlight.data.masking import Masking
from mmlight.errors import UserError
from mmlight.text.clean import Cleaning, check_cleaning, clean_caption
from mmlight.text.tokenizer import Tokenizer

MAX_CHARACTERS = 100_000

Documents = Literal["cut", "packed", "windows"]


@dataclass
class TextSettings:
    """How captions become token ids; what is left out follows the model that a task begins with.

    Args:
        tokenizer: `mmlight.text.tokenizer.ByteTokenizer` (no file needed),
            `mmlight.text.json_tokenizer.HfTokenizer` (any tokenizer of transformers, or one
            trained by ``mmlight tokenizer train``) or `mmlight.text.clip_tokenizer.ClipTokenizer`
            (CLIP's own); by default that of `model.from_pretrained`.
        max_tokens: longer captions are cut to this many tokens, start and end included. Captions
            are padded to the longest of their batch only. By default that of the model, else 77.
        clean: clip mends broken Unicode, undoes HTML escapes, folds white space and lowers the
            case, as CLIP does; mend the same without the case; canonicalize, as SigLIP does, drops
            punctuation, too (siglip without mending); whitespace only folds white space. A
            tokenizer that cleans by itself needs none of it. By default that of the model, else
            none.
        max_characters: longer captions are cut to so many characters before they are cleaned and
            tokenised, which take time for each of them (clip 2 microseconds: 29 s for a file of 20
            MB among the captions); of what is left, `max_tokens` are kept.
        offsets: also tell which characters of its caption each token stands for; tagging needs it.
        documents: what becomes of texts that are longer than `max_tokens`, and of room that shorter
            ones leave. They are ``cut``; or, for language models, training lays them one after
            another in rows of `max_tokens`, none of which sees another (``packed``: a text goes on
            in the next row, and only the last row of a batch has padding), or takes `max_tokens`
            tokens of each, from anywhere in it (``windows``). Evaluation then takes all of each
            text, window by window, so that scores depend neither on the batch nor on the ranks.
        masking: which tokens are hidden, for masked language models; None hides none. In ``mmlight
            predict`` none is: the texts have mask tokens of their own.
        stride: tokens from one window of an evaluation to the next; by default
            ``max_tokens - 1``, so that each token but a text's first one has one before it. With
            less, each counts once, too, after more of the text.
        captions_per_sample: how many captions of a sample training takes at once, for contrastive
            tasks: all of them are its positives. They are drawn as one is, without repeats while
            there are others.
    """

    tokenizer: Tokenizer | None = None
    max_tokens: int | None = None
    clean: Cleaning | None = None
    offsets: bool = False
    documents: Documents = "cut"
    stride: int | None = None
    masking: Masking | None = None
    captions_per_sample: int = 1
    max_characters: int = MAX_CHARACTERS

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.most_tokens < 3:
            raise UserError(f"text.max_tokens must be 3 or more, not {self.max_tokens}")
        if self.max_characters < 1:
            raise UserError(f"text.max_characters must be 1 or more, not {self.max_characters}")
        if self.captions_per_sample < 1:
            raise UserError(
                f"text.captions_per_sample must be 1 or more, not {self.captions_per_sample}"
            )
        self._check_documents()
        if self.masking is not None and (self.offsets or self.captions_per_sample > 1):
            what = "offsets: true" if self.offsets else "captions_per_sample above 1"
            raise UserError(f"text.masking excludes text.{what}")
        check_cleaning(self.cleaning, key="text.clean")
        if self.offsets and self.cleaning != "none":
            raise UserError(
                f"text.clean: '{self.clean}' moves the characters that text.offsets counts; set "
                "clean: none (a tokenizer folds case and white space itself)"
            )

    def _check_documents(self) -> None:
        if self.documents == "cut":
            if self.stride is not None:
                raise UserError(
                    "text.stride has no effect on texts that are cut; set text.documents to packed "
                    "or windows, or leave it out"
                )
            return
        for name, value in (
            ("offsets: true", self.offsets),
            ("captions_per_sample above 1", self.captions_per_sample > 1),
        ):
            if value:
                raise UserError(f"text.documents: {self.documents} excludes text.{name}")
        if self.stride is not None and not 1 <= self.stride < self.most_tokens:
            raise UserError(
                f"text.stride: {self.stride} must be 1 or more and less than text.max_tokens "
                f"({self.most_tokens}), so that each token has one before it"
            )

    @property
    def window_stride(self) -> int:
        """Tokens from one window of an evaluation to the next."""
        return self.stride or self.most_tokens - 1

    @property
    def most_tokens(self) -> int:
        """Tokens that a caption is cut to."""
        return 77 if self.max_tokens is None else self.max_tokens

    @property
    def cleaning(self) -> Cleaning:
        """How captions are cleaned."""
        return self.clean or "none"

    @property
    def known_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            UserError: there is none.
        """
        if self.tokenizer is None:
            raise UserError(
                "data.text.tokenizer is not set, and no model says which; give one, such as "
                "{class_path: mmlight.text.tokenizer.ByteTokenizer}"
            )
        return self.tokenizer

    def prepared(self, text: str) -> str:
        """Return a text cut and cleaned as captions are."""
        # half of a surrogate pair, from a terminal that is not UTF-8 or out of JSON
        text = text[: self.max_characters].encode("utf-8", "replace").decode("utf-8")
        return clean_caption(text, self.cleaning)


def caption_id(text: str) -> int:
    """Return a 64-bit hash of a caption: equal captions, equal ids, in every run."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
