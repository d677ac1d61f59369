"""What training will cost, against arithmetic by hand."""

from dataclasses import replace

import pytest

from mmlight.costs.counting import ModelSize, StepCount
from mmlight.costs.foretell import TrainingSettings, foretell, memory, sent_bytes
from mmlight.costs.rates import DEVICES, Rates, between, find_device
from mmlight.costs.tally import Counted
from mmlight.errors import UserError

RATES = Rates(
    matmul_flops=1e9,
    conv_flops=1e9,
    norm_bytes=1e9,
    math_elements=1e9,
    random_elements=1e9,
    move_bytes=1e9,
    call_s=1e-6,
)
SIZE = ModelSize(
    num_parameters=1000,
    num_trained=800,
    num_tensors=10,
    state_bytes=4000,
    largest_block=100,
    optimiser_bytes=6400,
)
SETTINGS = TrainingSettings(
    num_devices=1,
    strategy="ddp",
    precision="32-true",
    clips=False,
    has_ema=False,
    accumulate=1,
    num_steps=3600,
    data_s=0.25,
    num_workers=0,
    is_cpu=False,
    base_bytes=100,
)


def step():
    counted = Counted()
    counted.work["matmul"].flops = 2e9
    counted.work["move"].num_bytes = 0.5e9
    counted.peak_bytes = 5000
    return StepCount(counted, 4000, 50, num_samples=10)


def test_time_is_the_sum_of_each_kind_of_work():
    found = foretell(step(), SIZE, SETTINGS, rates=RATES)
    trainer_s, optimiser_s = 0.7e-3, 28 * 800 / 1e9 + 10e-6
    assert found.step_s == pytest.approx(2 + 0.5 + 0.25 + trainer_s + optimiser_s)
    assert found.hours == pytest.approx(found.step_s)
    assert found.total_flops == 3600 * 2e9 and found.flops_per_sample == 2e8
    assert found.kwh is None


def test_workers_load_while_the_model_computes():
    busy = foretell(step(), SIZE, replace(SETTINGS, num_workers=1), rates=RATES)
    assert busy.part_s["waiting for data"] == 0
    slow = foretell(step(), SIZE, replace(SETTINGS, num_workers=2, data_s=8.0), rates=RATES)
    assert slow.step_s == pytest.approx(4.0)


def test_memory_by_use():
    one = memory(step(), SIZE, SETTINGS, share=1)
    assert one == {
        "base": 100,
        "parameters": 4000,
        "gradients": 3200,
        "optimiser": 6400,
        "activations and loss": 5000,
        "data": 100,
    }
    shared = memory(step(), SIZE, replace(SETTINGS, num_devices=8, has_ema=True), share=8)
    assert shared["parameters"] == 500 and shared["optimiser"] == 800
    assert shared["averaged weights"] == 400
    assert shared["gathered parameters"] == 2 * 4 * 100
    assert shared["activations and loss"] == 5000


def test_bytes_sent_by_rings():
    four = replace(SETTINGS, num_devices=4)
    assert sent_bytes(SIZE, SETTINGS) == 0
    assert sent_bytes(SIZE, four) == 2 * 3 / 4 * 4 * 800
    assert sent_bytes(SIZE, replace(four, strategy="fsdp")) == 3 / 4 * 4 * (2 * 1000 + 800)


def test_a_device_of_the_table():
    settings = replace(SETTINGS, precision="bf16-mixed", num_devices=64, num_workers=8)
    found = foretell(step(), SIZE, settings, device=DEVICES["h200"], efficiency=0.5)
    assert found.part_s["products"] == pytest.approx(2e9 / (989e12 * 0.5))
    assert found.device_hours == pytest.approx(64 * found.hours)
    assert found.kwh == pytest.approx(found.device_hours * 0.7)
    assert 0 <= found.communication_share < 1


def test_unknown_device_is_refused_with_the_nearest():
    assert find_device("cpu") is None
    with pytest.raises(UserError, match="did you mean 'h200'"):
        find_device("h20")


def test_two_measurements_are_joined_by_time():
    twice = replace(RATES, matmul_flops=3e9, call_s=3e-6)
    joined = between(RATES, twice)
    assert joined.matmul_flops == pytest.approx(1.5e9)
    assert joined.call_s == pytest.approx(2e-6)


def test_what_does_not_fit_a_device_is_said():
    large = replace(SIZE, state_bytes=30 * 2**30)
    settings = replace(SETTINGS, num_devices=2)
    device = find_device("rtx4090")
    (note,) = foretell(step(), large, settings, device=device).notes
    assert note.startswith("does not fit: 30.0 GiB are needed with ddp, a rtx4090 has 22.4 GiB")
    assert "--strategy fsdp, which needs 15.0 GiB" in note
    shared = replace(settings, strategy="fsdp")
    assert foretell(step(), large, shared, device=device).notes == []
