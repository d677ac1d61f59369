"""CTC against the forward algorithm written out in float64, and against torch's own mean."""

import torch
import torch.nn.functional as F

from mmlight.objectives.ctc import Ctc, clip_losses
from mmlight.text.symbols import Transcripts

BLANK = 4


def forward_algorithm(log_p_LK, symbols):
    """-log p(symbols), by Graves et al. 2006, equations 6 to 8, one number at a time."""
    with_blanks = [BLANK]
    for symbol in symbols:
        with_blanks += [symbol, BLANK]
    nothing = log_p_LK.new_tensor(-1e30)
    alpha = [nothing] * len(with_blanks)
    alpha[0] = log_p_LK[0, BLANK]
    if symbols:
        alpha[1] = log_p_LK[0, symbols[0]]
    for log_p_K in log_p_LK[1:]:
        new = []
        for place, symbol in enumerate(with_blanks):
            ways = [alpha[place]]
            if place >= 1:
                ways.append(alpha[place - 1])
            if place >= 2 and symbol != BLANK and symbol != with_blanks[place - 2]:
                ways.append(alpha[place - 2])
            new.append(torch.stack(ways).logsumexp(0) + log_p_K[symbol])
        alpha = new
    return -torch.stack(alpha[-2:] if symbols else alpha).logsumexp(0)


def example():
    generator = torch.Generator().manual_seed(0)
    logits_BLK = torch.randn(5, 7, BLANK + 1, generator=generator, dtype=torch.float64)
    symbols = [[0, 1, 2], [3, 3], [], [1, 1, 1, 1], [2]]
    frames_B = torch.tensor([7, 4, 3, 6, 5])  # the fourth needs 7
    symbol_BS = torch.full((5, 4), 99)
    for row, values in enumerate(symbols):
        symbol_BS[row, : len(values)] = torch.tensor(values)
    symbol_BS = symbol_BS.clamp(max=BLANK - 1)  # padding may hold anything
    lengths = torch.tensor([len(values) for values in symbols])
    return logits_BLK.requires_grad_(), frames_B, Transcripts(symbol_BS, lengths), symbols


def test_equals_the_forward_algorithm_and_its_gradients():
    logits_BLK, frames_B, target, symbols = example()
    counted_B = torch.tensor([True, True, True, True, False])
    loss = Ctc(blank=BLANK)(logits_BLK, frames_B, target, counted_B=counted_B)
    (gradient,) = torch.autograd.grad(loss.value, logits_BLK)
    parts = [
        forward_algorithm(logits_BLK[row, : frames_B[row]].log_softmax(-1), symbols[row])
        / max(1, len(symbols[row]))
        for row in (0, 1, 2)
    ]
    expected = torch.stack(parts).mean()
    torch.testing.assert_close(loss.value, expected)
    (expected_gradient,) = torch.autograd.grad(expected, logits_BLK)
    torch.testing.assert_close(gradient, expected_gradient)
    assert int(loss.logs["impossible"]) == 1


def test_equals_torchs_mean_where_every_clip_is_possible():
    logits_BLK, _, target, _ = example()
    frames_B = torch.full((5,), 7)
    loss = Ctc(blank=BLANK)(logits_BLK, frames_B, target, counted_B=torch.ones(5).bool())
    expected = F.ctc_loss(
        logits_BLK.log_softmax(-1).transpose(0, 1),
        target.symbol_BS,
        frames_B,
        target.length_B,
        blank=BLANK,
        reduction="mean",
    )
    torch.testing.assert_close(loss.value, expected)


def test_frames_needed_counts_a_blank_between_equal_symbols():
    _, _, target, _ = example()
    assert target.frames_needed().tolist() == [3, 3, 0, 7, 1]


def test_a_clip_is_impossible_exactly_where_torch_says_infinite():
    logits_BLK, _, target, _ = example()
    for frames in range(1, 8):
        frames_B = torch.full((5,), frames)
        loss_B = F.ctc_loss(
            logits_BLK.log_softmax(-1).transpose(0, 1),
            target.symbol_BS,
            frames_B,
            target.length_B,
            blank=BLANK,
            reduction="none",
        )
        assert (target.frames_needed() > frames_B).tolist() == loss_B.isinf().tolist()


def test_nothing_but_impossible_clips_gives_zero_and_finite_gradients():
    logits_BLK, _, target, _ = example()
    loss = Ctc(blank=BLANK)(
        logits_BLK,
        torch.ones(5, dtype=torch.int64),
        target,
        counted_B=torch.tensor([1, 1, 0, 1, 0]).bool(),
    )
    loss.value.backward()
    assert loss.value == 0
    assert int(loss.logs["impossible"]) == 3
    assert logits_BLK.grad.abs().sum() == 0


def test_half_precision_logits_are_summed_in_float32():
    logits_BLK, frames_B, target, _ = example()
    half = logits_BLK.detach().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss_B = clip_losses(half, frames_B, target, blank=BLANK)
    assert loss_B.dtype == torch.float32
    torch.testing.assert_close(
        loss_B.double(),
        clip_losses(half.double(), frames_B, target, blank=BLANK),
        rtol=1e-5,
        atol=1e-5,
    )
