"""Joins texts that are packed into rows, seen through windows or masked into one `Text`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlight.batch import Text
from mmlight.data.decode.draw import Draws
from mmlight.data.documents import Document, Window, all_windows, packed_rows, rows_of_windows
from mmlight.data.masking import mask_tokens
from mmlight.data.sample import Sample
from mmlight.data.text import TextSettings, caption_id

# Whole texts are tokenised, which `text.max_characters` limits.
_WHOLE = 1 << 30


def join_documents(
    samples: Sequence[Sample], settings: TextSettings, *, draws: Callable[..., Draws] | None
) -> tuple[Text, list[str]]:
    """Join the texts of samples; the second is the text of each row.

    Args:
        samples: the samples.
        settings: how texts become rows of token ids.
        draws: in training, the random numbers of a purpose and a sample.
    """
    tokenizer, width = settings.known_tokenizer, settings.most_tokens
    documents = _documents(samples, settings, draws=draws)
    # In training each sample has one text.
    if settings.documents == "packed" and draws is not None:
        real = [document for document in documents if document.present] or documents[:1]
        rows: dict[str, Any] = packed_rows(real, width=width, pad_id=tokenizer.pad_id)
        of_row = [real[number] for number in rows["number"][:, 0].tolist()]
        item_of = np.array([*(document.item for document in real), -1])
        sample_NL = torch.from_numpy(item_of[rows["number"]])
    else:
        windows: list[tuple[int, Window]] = []
        for number, document in enumerate(documents):
            length = len(document.ids_T)
            if settings.documents == "cut":
                windows.append((number, Window(0, length, 0)))
            elif draws is None:
                every = all_windows(length, width=width, stride=settings.window_stride)
                windows += [(number, window) for window in every]
            else:
                index, start = samples[document.item].index, 0
                if length > width:
                    start = draws("window", sample=index).integer(length - width + 1)
                windows.append((number, Window(start, min(start + width, length), start)))
        rows = rows_of_windows(documents, windows, pad_id=tokenizer.pad_id)
        of_row = [documents[number] for number, _ in windows]
        sample_NL = None
    captions = [document.text for document in of_row]
    text = Text(
        token_ids_NL=torch.from_numpy(rows["ids"]),
        mask_NL=torch.from_numpy(rows["mask"]),
        present_N=torch.tensor([document.present for document in of_row]),
        item_N=torch.tensor([document.item for document in of_row]),
        caption_id_N=caption_ids(captions),
        target_NL=None if settings.masking is None else torch.from_numpy(rows["target"]),
        counted_NL=torch.from_numpy(rows["counted"]),
        sample_NL=sample_NL,
    )
    return text, captions


def _documents(
    samples: Sequence[Sample], settings: TextSettings, *, draws: Callable[..., Draws] | None
) -> list[Document]:
    """Return the texts of samples, in order; one padding token where there is none."""
    tokenizer, masking = settings.known_tokenizer, settings.masking
    most = settings.most_tokens if settings.documents == "cut" else _WHOLE
    items = [(row, text) for row, sample in enumerate(samples) for text in sample.captions or [""]]
    texts = [text for _, text in items]
    if masking is not None and masking.needs_places:
        encoded = tokenizer.encode_with_offsets(texts, max_tokens=most)
    else:
        encoded = [(ids, []) for ids in tokenizer.encode(texts, max_tokens=most)]
    # Evaluation hides the same tokens in every run, whatever its seed.
    draws = draws or partial(Draws, seed=0, epoch=0)
    streams: dict[int, Draws] = {}
    documents: list[Document] = []
    for (row, text), (ids, places) in zip(items, encoded, strict=True):
        present = bool(samples[row].captions) and bool(ids)
        ids_T = np.array(ids if present else [tokenizer.pad_id], np.int64)
        document = Document(ids_T, None, np.full(len(ids_T), present), text, row, present)
        if masking is not None:
            if row not in streams:
                streams[row] = draws("masking", sample=samples[row].index)
            masked = mask_tokens(
                ids_T, masking, tokenizer=tokenizer, draws=streams[row], text=text, places=places
            )
            document = replace(
                document, ids_T=masked.ids_T, target_T=ids_T, counted_T=masked.counted_T
            )
        documents.append(document)
    return documents


def caption_ids(texts: Sequence[str]) -> Tensor:
    """Return the `caption_id` of each text, int64 (N,)."""
    return torch.tensor([caption_id(text) for text in texts])
