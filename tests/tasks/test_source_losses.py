"""Of a mixture each source has its own loss and its own scores."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from objectives.contrastive_reference import make_batch, sample_features
from ranks import run_ranks
from tasks import (
    box_data,
    code_tasks,
    question_data,
    test_attributes,
    test_captioning,
    test_regression,
    test_transcription,
    tiny,
)
from tasks.language_data import built, data_of

from mmlight import comm
from mmlight.data.collate import Layout, collate
from mmlight.data.decode.draw import Draws
from mmlight.data.sample import Sample
from mmlight.objectives.clip import Clip
from mmlight.objectives.labels import CrossEntropy
from mmlight.objectives.objective import Loss, Terms
from mmlight.objectives.siglip import SigLip
from mmlight.tasks.evaluation import evaluate
from mmlight.tasks.source_losses import source_losses

NAMES = ["web", "sounds"]


@pytest.mark.parametrize("cls", [Clip, SigLip])
def test_terms_of_a_contrastive_loss_add_up_to_it(cls):
    present = {"image": [True] * 6, "text": [True] * 6, "audio": [True, False] * 3}
    batch = make_batch(present=present, valid=[True] * 6, caption=range(6), label=[-1] * 6)
    objective = cls(pairs={"image-text": 1.0, "text-audio": 0.5})
    objective.build(("image", "text", "audio"))
    features = sample_features(("image", "text", "audio"), 6)
    loss = objective.double()(features.__getitem__, batch)
    total_B, count_B = loss.terms[0].total, loss.terms[0].count
    assert count_B.tolist() == [1.5, 1.0] * 3
    parts = loss.logs["loss/image-text"] * 6 + 0.5 * loss.logs["loss/text-audio"] * 3
    assert float(total_B.sum()) == pytest.approx(float(parts), rel=1e-12)
    assert float(loss.value) != pytest.approx(float(total_B.sum() / count_B.sum()))
    assert not total_B.requires_grad


def test_terms_of_labels_add_up_to_the_loss():
    draws = torch.Generator().manual_seed(0)
    objective = CrossEntropy(label_smoothing=0.1)
    objective.build(7)
    logits_BK = torch.randn(4, 7, generator=draws, dtype=torch.float64)
    target_BK = torch.eye(7, dtype=torch.float64)[torch.randint(0, 7, (4,), generator=draws)]
    counted_B = torch.tensor([True, False, True, True])
    loss = objective(logits_BK, target_BK, counted_B=counted_B)
    (terms,) = loss.terms
    mean = float(terms.total.sum() / terms.count.sum())
    assert mean == pytest.approx(float(loss.value), rel=1e-12)


# Of each task, with what its samples add by themselves.
CASES = {
    "attributes": lambda: (
        test_attributes.attributes(),
        test_attributes.batch(["red star", "blue ring", None, "red disc"]),
    ),
    "captioning": lambda: (
        test_captioning.task(),
        test_captioning.batch(test_captioning.ALL),
    ),
    "dense boxes": lambda: (box_data.detector(), box_data.batch(4)),
    "query boxes": lambda: (box_data.detector(box_data.QUERY), box_data.batch(4)),
    "discrete codes": lambda: (code_tasks.codes_task(), code_tasks.batch()),
    "drawing": lambda: (code_tasks.drawing_task(text_weight=0.3), code_tasks.batch()),
    "multimodal": lambda: (question_data.multimodal(), question_data.batch(4, per_sample=2)),
    "questions": lambda: (question_data.answering(), question_data.batch(4)),
    "regression": lambda: (
        test_regression.regression(names=["x", "y"]),
        test_regression.batch([[1, 2], [3, 4], None, [5, 9]]),
    ),
    "transcription": lambda: (
        test_transcription.task(),
        test_transcription.batch(["ab", "ba b", "a", "bb"]),
    ),
}


def _loss(task, given):
    found = []
    task.log_loss = lambda loss: found.append(loss) or loss.value
    torch.manual_seed(0)
    task.training_step(given, 0)
    return found[0]


def _only(given, is_of_B):
    """The batch in which other samples do not count, or have no texts."""
    texts = {
        name: replace(text, present_N=text.present_N & is_of_B[text.item_N])
        for name in ("text", "answer")
        if (text := getattr(given, name)) is not None
    }
    return replace(given, valid_B=is_of_B, **texts)


@pytest.mark.parametrize("case", CASES)
def test_each_source_has_the_loss_that_it_has_without_the_others(case):
    task, given = CASES[case]()
    task.eval()
    sources = [NAMES[n % 2] for n in range(given.size)]
    given = replace(given, sources=tuple(sources))
    loss = _loss(task, given)
    assert not any(term.total.requires_grad for term in loss.terms)
    found = source_losses(loss, sources, NAMES)
    together = source_losses(loss, ["web"] * given.size, NAMES)
    assert float(together["web/loss"]) == pytest.approx(float(loss.value), rel=1e-6)
    for name in NAMES:
        is_of = torch.tensor([source == name for source in sources])
        alone = _loss(task, _only(given, is_of))
        assert float(found[f"{name}/loss"]) == pytest.approx(float(alone.value), rel=1e-5)


def test_packed_rows_have_tokens_of_several_sources(tmp_path):
    texts = ["a cat", "two", "owls and dogs", "x y"]
    samples = [{"txt": text} for text in texts]
    data = data_of(tmp_path, samples, members={"text": "txt"}, max_tokens=40, documents="packed")
    task = built(data).double()
    raw = [Sample(n, f"s/{n}", captions=[text]) for n, text in enumerate(texts)]
    layout = Layout(modalities=("text",), labels=False, fields=(), image=None, text=data.text)

    def loss_of(numbers):
        draws = partial(Draws, seed=0, epoch=0)
        return _loss(task, collate([raw[n] for n in numbers], layout, draws=draws))

    found = source_losses(loss_of(range(4)), ["web", "sounds", "sounds", "web"], NAMES)
    for name, numbers in (("web", [0, 3]), ("sounds", [1, 2])):
        assert float(found[f"{name}/loss"]) == pytest.approx(float(loss_of(numbers).value))


def _on_rank():
    sources = [["web", "web", "sounds"], ["sounds", "sounds", "sounds"]][comm.rank()]
    terms = Terms(torch.arange(3.0) + 10 * comm.rank(), torch.tensor([1.0, 1.0, 2.0]))
    known = source_losses(Loss(torch.tensor(5.0), terms=(terms,)), sources, NAMES)
    both = source_losses(Loss(torch.tensor(5.0)), sources, NAMES)
    one = source_losses(Loss(torch.tensor(5.0)), ["sounds"] * 3, NAMES)
    return [{name: float(value) for name, value in found.items()} for found in (known, both, one)]


def test_ranks_together_know_the_loss_of_each_source(tmp_path):
    for known, both, one in run_ranks(_on_rank, world_size=2, folder=tmp_path):
        assert known == pytest.approx({"web/loss": 0.5, "sounds/loss": (2 + 10 + 11 + 12) / 6})
        assert both == {}  # nobody knows what each sample adds
        assert one == {"sounds/loss": 5.0}


def test_each_source_of_an_evaluation_has_the_scores_that_it_has_alone():
    task = tiny.task()
    batches = [tiny.batch(seed=seed) for seed in range(3)]
    batches = [replace(batch, index_B=batch.index_B + 6 * n) for n, batch in enumerate(batches)]
    named = [
        replace(batch, sources=(name,) * 6)
        for batch, name in zip(batches, ("web", "sounds", "sounds"), strict=True)
    ]
    together = evaluate(task, named)
    plain = evaluate(task, batches)
    alone = {"web": evaluate(task, batches[:1]), "sounds": evaluate(task, batches[1:])}
    wanted = plain | {
        f"{name}/{key}": value for name, scores in alone.items() for key, value in scores.items()
    }
    assert together == pytest.approx(wanted, rel=1e-12)
    assert "web/image_to_text/recall_at_1" in together and "sounds/loss" in together
