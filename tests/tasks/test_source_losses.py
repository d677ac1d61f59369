"""Of a mixture each source has its own loss and its own scores."""

from dataclasses import replace

import pytest
import torch
from objectives.contrastive_reference import make_batch, sample_features
from ranks import run_ranks
from tasks import tiny

from mmlight import comm
from mmlight.objectives.clip import Clip
from mmlight.objectives.labels import CrossEntropy
from mmlight.objectives.objective import Loss
from mmlight.objectives.siglip import SigLip
from mmlight.objectives.tokens import TokenLoss
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
    total_B, count_B = loss.terms
    assert count_B.tolist() == [1.5, 1.0] * 3
    parts = loss.logs["loss/image-text"] * 6 + 0.5 * loss.logs["loss/text-audio"] * 3
    assert float(total_B.sum()) == pytest.approx(float(parts), rel=1e-12)
    assert float(loss.value) != pytest.approx(float(total_B.sum() / count_B.sum()))
    assert not total_B.requires_grad


def test_terms_of_tokens_and_labels_add_up_to_the_loss():
    draws = torch.Generator().manual_seed(0)
    logits_NLV = torch.randn(4, 5, 7, generator=draws, dtype=torch.float64)
    target_NL = torch.randint(0, 7, (4, 5), generator=draws)
    counted_NL = torch.rand(4, 5, generator=draws) > 0.4
    loss = TokenLoss()(logits_NLV, target_NL, counted_NL=counted_NL)
    total_B, count_B = loss.terms
    assert total_B.shape == (4,)
    assert float(total_B.sum() / count_B.sum()) == pytest.approx(float(loss.value), rel=1e-12)

    objective = CrossEntropy(label_smoothing=0.1)
    objective.build(7)
    logits_BK, target_BK = logits_NLV[:, 0], torch.eye(7, dtype=torch.float64)[target_NL[:, 0]]
    counted_B = torch.tensor([True, False, True, True])
    total_B, weight_B = objective.counted_terms(logits_BK, target_BK, counted_B=counted_B)
    value = objective(logits_BK, target_BK, counted_B=counted_B)
    assert float(total_B.sum() / weight_B.sum()) == pytest.approx(float(value), rel=1e-12)


def _on_rank():
    sources = [["web", "web", "sounds"], ["sounds", "sounds", "sounds"]][comm.rank()]
    terms = torch.arange(3.0) + 10 * comm.rank(), torch.tensor([1.0, 1.0, 2.0])
    known = source_losses(Loss(torch.tensor(5.0), terms=terms), sources, NAMES)
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
