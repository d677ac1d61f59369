"""The learning rate's curve, number by number."""

import io
import math

import pytest
import torch
from torch import nn

from mmlight.errors import UserError
from mmlight.optim.schedule import Schedule


def curve(schedule, total):
    return [schedule.factor(step, total) for step in range(total + 1)]


def test_warm_up_and_cosine_are_open_clips():
    warmup, total = 10, 100
    expected = [(s + 1) / warmup for s in range(warmup)]
    expected += [
        0.5 * (1 + math.cos(math.pi * (s - warmup) / (total - warmup)))
        for s in range(warmup, total + 1)
    ]
    got = curve(Schedule(warmup_steps=10), total)
    assert got == pytest.approx(expected, abs=1e-12)
    assert got[9] == got[10] == 1.0
    assert got[-1] == 0.0
    assert Schedule(warmup_steps=10).factor(10**6, total) == 0.0


def test_fractions_are_shares_of_the_run():
    assert curve(Schedule(warmup_steps=0.29), 100) == curve(Schedule(warmup_steps=29), 100)
    half = Schedule(warmup_steps=0.5, kind="constant", cooldown_steps=0.5)
    half.build(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), 3)
    assert Schedule(warmup_steps=0.05).factor(0, 1) == 1.0


def test_cosine_and_linear_end_at_the_final_fraction():
    for kind in ("cosine", "linear"):
        got = curve(Schedule(warmup_steps=0, kind=kind, final_lr_fraction=0.1), 50)
        assert got[0] == 1.0
        assert got[25] == pytest.approx(0.55)
        assert got[-1] == pytest.approx(0.1)
        assert got == sorted(got, reverse=True)


def test_constant_stays_and_rsqrt_falls_with_the_root():
    assert curve(Schedule(warmup_steps=2, kind="constant"), 6) == [0.5, 1, 1, 1, 1, 1, 1]
    got = curve(Schedule(warmup_steps=4, kind="rsqrt"), 400)
    assert got[3] == 1.0
    assert got[15] == pytest.approx(0.5)
    assert got[399] == pytest.approx(0.1)


def test_cool_down_falls_from_where_the_curve_is():
    linear = Schedule(warmup_steps=0, kind="constant", cooldown_steps=4)
    assert curve(linear, 10)[5:] == [1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    root = Schedule(warmup_steps=0, kind="constant", cooldown_steps=4, cooldown_shape="sqrt")
    assert curve(root, 10)[6:] == pytest.approx([1 - math.sqrt(i / 4) for i in range(5)])
    rsqrt = Schedule(warmup_steps=4, kind="rsqrt", cooldown_steps=50, final_lr_fraction=0.02)
    got = curve(rsqrt, 100)
    assert got[50] == pytest.approx(math.sqrt(4 / 51))
    assert got[75] == pytest.approx((math.sqrt(4 / 51) + 0.02) / 2)
    assert got[100] == pytest.approx(0.02)


def test_the_rate_is_set_before_each_step_and_survives_a_resume():
    def make():
        weights = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
        optimizer = torch.optim.SGD(
            [{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 0.1}], lr=9.0
        )
        return optimizer, schedule.build(optimizer, 8)

    schedule = Schedule(warmup_steps=3)
    optimizer, scheduler = make()
    seen, saved = [], io.BytesIO()
    for step in range(8):
        if step == 5:
            torch.save([optimizer.state_dict(), scheduler.state_dict()], saved)
        seen.append([g["lr"] for g in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = [schedule.factor(s, 8) for s in range(8)]
    assert [a for a, _ in seen] == pytest.approx(expected)
    assert [b for _, b in seen] == pytest.approx([0.1 * e for e in expected])

    optimizer, scheduler = make()
    saved.seek(0)
    for part, state in zip(
        (optimizer, scheduler), torch.load(saved, weights_only=True), strict=True
    ):
        part.load_state_dict(state)
    for step in range(5, 8):
        assert [g["lr"] for g in optimizer.param_groups] == seen[step]
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cooldown_steps": 5}, "cooldown_steps: has no effect with kind 'cosine'"),
        ({"kind": "constant", "cooldown_shape": "sqrt"}, "cooldown_shape: 'sqrt' has no effect"),
        ({"kind": "constant", "final_lr_fraction": 0.1}, "final_lr_fraction: 0.1 has no effect"),
        ({"kind": "rsqrt", "warmup_steps": 0}, "needs warmup_steps"),
        ({"warmup_steps": 10.5}, "warmup_steps: 10.5"),
        ({"warmup_steps": -1}, "warmup_steps: -1"),
        ({"final_lr_fraction": 1.0}, "final_lr_fraction"),
    ],
)
def test_settings_out_of_range_or_without_effect_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Schedule(**settings)


def test_a_warm_up_and_cool_down_longer_than_the_run_are_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match="60 steps of warm-up and 50 of cool-down"):
        Schedule(warmup_steps=60, kind="constant", cooldown_steps=50).build(optimizer, 100)
    with pytest.raises(UserError, match="0 steps"):
        Schedule().build(optimizer, 0)


def test_a_run_within_its_warm_up_only_rises_and_says_so(capsys):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = Schedule(warmup_steps=4)
    schedule.build(optimizer, 2)
    assert "4 steps of warm-up are more than the run's 2" in capsys.readouterr().err
    assert [schedule.factor(step, 2) for step in range(2)] == [0.25, 0.5]


def test_a_cooldown_may_fall_by_a_factor_or_at_once():
    given = {"warmup_steps": 0.1, "kind": "constant", "cooldown_steps": 0.5}
    stages = Schedule(**given, cooldown_shape="exponential", final_lr_fraction=0.05)
    assert stages.factor(0, 100) == 0.1
    assert stages.factor(30, 100) == 1.0
    assert stages.factor(75, 100) == pytest.approx(0.05**0.5)
    assert stages.factor(100, 100) == pytest.approx(0.05)
    drop = Schedule(**given, cooldown_shape="step", final_lr_fraction=0.1)
    assert [drop.factor(step, 100) for step in (49, 50, 100)] == [1.0, 0.1, 0.1]
    with pytest.raises(UserError, match="never reaches 0"):
        Schedule(**given, cooldown_shape="exponential")
