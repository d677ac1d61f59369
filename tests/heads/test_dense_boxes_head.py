import pytest
import torch

from mmlight.errors import UserError
from mmlight.heads.dense_boxes import DenseBoxes, DenseOutputs

WHOLE = torch.tensor([[64, 64]] * 2)


def head(**settings) -> DenseBoxes:
    built = DenseBoxes(**({"dim": 8, "num_convs": 1} | settings))
    built.build(in_dims=[4, 6, 8], in_strides=[8, 16, 32], num_classes=3)
    return built


def maps() -> list[torch.Tensor]:
    return [torch.randn(2, d, 64 // s, 64 // s) for d, s in ((4, 8), (6, 16), (8, 32))]


def test_a_prediction_for_every_position():
    torch.manual_seed(0)
    outputs = head()(
        maps(), area_B2=torch.tensor([[64, 64], [64, 30]]), canvas=(64, 64), boxes=None
    )
    count = 64 + 16 + 4
    assert outputs.logit_BAK.shape == (2, count, 3)
    assert outputs.xyxy_BA4.shape == (2, count, 4) and outputs.quality_BA.shape == (2, count)
    assert outputs.point_A2[:2].tolist() == [[4, 4], [12, 4]]
    assert outputs.stride_A.unique().tolist() == [8, 16, 32]
    assert outputs.real_BA.sum(1).tolist() == [count, 8 * 4 + 4 * 2 + 2]
    # At first every box is about eight strides wide around its position, and every score low.
    sides_BA2 = outputs.xyxy_BA4[..., 2:] - outputs.xyxy_BA4[..., :2]
    assert ((sides_BA2 / outputs.stride_A[:, None] - 8).abs() < 1.5).all()
    middle_BA2 = (outputs.xyxy_BA4[..., 2:] + outputs.xyxy_BA4[..., :2]) / 2
    assert ((middle_BA2 - outputs.point_A2).abs() < outputs.stride_A[:, None]).all()
    assert 0.003 < float(outputs.logit_BAK.detach().sigmoid().mean()) < 0.03


def test_every_parameter_learns():
    built = head()
    outputs = built(maps(), area_B2=WHOLE, canvas=(64, 64), boxes=None)
    (outputs.logit_BAK.sum() + outputs.xyxy_BA4.sum() + outputs.quality_BA.sum()).backward()
    assert all(p.grad is not None for p in built.parameters())


def test_candidates_are_the_best_real_ones():
    outputs = DenseOutputs(
        logit_BAK=torch.tensor([[[-1.0, 4.0], [9.0, -9.0], [2.0, 1.0]]]),
        xyxy_BA4=torch.arange(12.0).reshape(1, 3, 4),
        quality_BA=torch.tensor([[1.0, 9.0, 0.0]]),
        point_A2=torch.zeros(3, 2),
        stride_A=torch.full((3,), 8),
        real_BA=torch.tensor([[True, False, True]]),
    )
    best = head().candidates(outputs, limit=3)
    assert best.label_BQ.tolist() == [[1, 0, 1]]
    assert best.xyxy_BQ4[0].tolist() == [[0, 1, 2, 3], [8, 9, 10, 11], [8, 9, 10, 11]]
    wanted = (torch.tensor([4.0, 2.0, 1.0]).sigmoid() * torch.tensor([1.0, 0, 0]).sigmoid()).sqrt()
    assert torch.allclose(best.score_BQ[0], wanted)


@pytest.mark.parametrize("settings", [{"dim": 12}, {"num_convs": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        DenseBoxes(**settings)
