"""Rows of predictions: what `predict_step` returns, joined with the samples it is about."""

from typing import Any

from mmlight.batch import Batch


def rows_of(batch: Batch, outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a batch's rows in the order of its samples, with keys, numbers and errors.

    Args:
        batch: the batch.
        outputs: what `predict_step` returned, a row for each valid sample.
    """
    errors = {bad.index: f"{bad.member}: {bad.reason}".lstrip(": ") for bad in batch.bad}
    found = iter(outputs)
    rows: list[dict[str, Any]] = []
    for key, index, valid in zip(
        batch.keys, batch.index_B.tolist(), batch.valid_B.tolist(), strict=True
    ):
        if valid:
            rows.append({"key": key, "index": index} | next(found))
        elif index in errors:
            rows.append({"key": key, "index": index, "error": errors.pop(index)})
    assert next(found, None) is None, "predict_step returned rows of samples that are not valid"
    return rows
