"""Texts of many rows are scored a piece at a time, as often on every rank."""

import pytest
import torch
from language_data import built, data_of
from ranks import run_ranks
from tasks import masked_data, test_masked_language

from mmlight import comm
from mmlight.batch import Text
from mmlight.tasks import text_pieces as pieces_module
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.text_pieces import text_pieces


def rows(count, length=4):
    ids = torch.arange(count * length).view(count, length)
    here = torch.ones(count, dtype=torch.bool)
    return Text(ids, torch.ones_like(ids, dtype=torch.bool), here, torch.arange(count), here.long())


def _on_rank():
    pieces_module._MOST_SCORES = 2 * 4 * 10
    text = rows([5, 1][comm.rank()])
    found = [(piece.size, piece.counted_NL is None) for piece in text_pieces(text, vocab_size=10)]
    return {"sizes": [size for size, _ in found], "counts": [counts for _, counts in found]}


def test_ranks_take_as_many_pieces_as_the_one_with_most_rows(tmp_path):
    first, second = run_ranks(_on_rank, world_size=2, folder=tmp_path)
    assert first == {"sizes": [2, 2, 1], "counts": [True] * 3}
    assert second == {"sizes": [1, 1, 1], "counts": [True, False, False]}


@pytest.mark.parametrize("rows_each", [1, 2])
def test_scores_of_documents_do_not_depend_on_the_pieces(rows_each, tmp_path, monkeypatch):
    samples = [{"txt": "to be or not to be " * n} for n in (9, 1, 4)]
    text = {"documents": "windows", "stride": 5}
    data = data_of(tmp_path, samples, members={"text": "txt"}, max_tokens=12, **text)
    task = built(data).double()
    batches = list(data.test_dataloader())
    whole = evaluate(task, batches)
    seen = []
    say = task.say
    monkeypatch.setattr(task, "say", lambda texts: seen.append(texts.size) or say(texts))
    monkeypatch.setattr(pieces_module, "_MOST_SCORES", rows_each * 12 * task.decoder.vocab_size)
    assert evaluate(task, batches) == pytest.approx(whole, rel=1e-12)
    assert max(seen) == rows_each and len(seen) > 20


def test_scores_of_hidden_tokens_do_not_depend_on_the_pieces(monkeypatch):
    task = test_masked_language.task()
    batches = [test_masked_language.batch(range(4))]
    whole = evaluate(task, batches)
    monkeypatch.setattr(pieces_module, "_MOST_SCORES", 16 * masked_data.BERT["vocab_size"])
    assert evaluate(task, batches) == pytest.approx(whole, rel=1e-6)
