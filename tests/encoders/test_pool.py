import pytest
import torch

from mmlight.encoders.pool import AttentionPool, last_token, masked_max, masked_mean


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    mask = torch.tensor([[True, True, False, False], [True] * 4, [False] * 4])
    return torch.randn(3, 4, 8), mask


@pytest.mark.parametrize("pool", [masked_mean, masked_max, last_token])
def test_padding_has_no_say(pool, tokens):
    values, mask = tokens
    changed = values.clone()
    changed[0, 2:] = float("nan")
    torch.testing.assert_close(pool(changed, mask)[:2], pool(values, mask)[:2])


def test_values_of_the_plain_poolings(tokens):
    values, mask = tokens
    torch.testing.assert_close(masked_mean(values, mask)[0], values[0, :2].mean(0))
    torch.testing.assert_close(masked_max(values, mask)[0], values[0, :2].amax(0))
    torch.testing.assert_close(last_token(values, mask)[0], values[0, 1])
    assert masked_mean(values, mask)[2].eq(0).all()
    assert masked_max(values, mask)[2].eq(0).all()


def test_attention_equals_torch_attention(tokens):
    values, mask = tokens
    pool = AttentionPool(8, num_heads=2)
    reference = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([torch.eye(8), pool.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([torch.zeros(8), pool.key_value.bias]))
        reference.out_proj.weight.copy_(pool.out.weight)
        reference.out_proj.bias.copy_(pool.out.bias)
    keys = pool.norm(values[:2])
    query = pool.query_D.expand(2, 1, 8)
    expected, _ = reference(query, keys, keys, key_padding_mask=~mask[:2])
    torch.testing.assert_close(pool(values, mask)[:2], expected[:, 0])


def test_attention_over_nothing_stays_finite(tokens):
    values, mask = tokens
    pool = AttentionPool(8)
    pooled = pool(values, mask)
    pooled.sum().backward()
    assert pooled.isfinite().all()
    assert pool.query_D.grad.isfinite().all()


def test_attention_heads_divide_odd_widths():
    assert AttentionPool(192).num_heads == 3
    assert AttentionPool(200).num_heads == 2
    with pytest.raises(ValueError, match="does not divide"):
        AttentionPool(8, num_heads=3)
