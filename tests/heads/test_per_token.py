import pytest
import torch

from mmlight.errors import UserError
from mmlight.heads.pooled import PerToken


def test_each_token_is_classified_by_its_own_features():
    torch.manual_seed(0)
    head = PerToken(6, 3).eval()
    tokens_BLD = torch.randn(2, 4, 6)
    logits_BLK = head(tokens_BLD)
    expected = tokens_BLD[1, 2].double() @ head.linear.weight.double().T
    torch.testing.assert_close(logits_BLK[1, 2].double(), expected)
    changed = tokens_BLD.clone()
    changed[1, 2] += 1
    assert (head(changed) != logits_BLK).any(-1).nonzero().tolist() == [[1, 2]]


def test_dropout_acts_in_training_only():
    head = PerToken(50, 3, dropout=0.5)
    tokens_BLD = torch.randn(1, 1, 50)
    assert not torch.equal(head(tokens_BLD), head(tokens_BLD))
    head.eval()
    assert torch.equal(head(tokens_BLD), head(tokens_BLD))
    with pytest.raises(UserError, match=r"model\.dropout"):
        PerToken(6, 3, dropout=1.0)
