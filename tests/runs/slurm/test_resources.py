"""What an experiment asks a cluster for, and what is refused before it is submitted."""

import pytest

from mmlight.errors import UserError
from mmlight.runs.slurm.profile import Profile
from mmlight.runs.slurm.resources import Resources, notes, plan

GPUS = Profile(gpus_per_node=4, max_nodes=2, cpus_per_task=8)
CPUS = Profile()


def config(*, data=None, **trainer):
    return {"trainer": trainer, "data": {"init_args": data or {}}}


@pytest.mark.parametrize(
    ("trainer", "profile", "expected"),
    [
        ({}, GPUS, Resources(1, 4, 4)),
        ({"devices": 2}, GPUS, Resources(1, 2, 2)),
        ({"devices": "2", "num_nodes": 2}, GPUS, Resources(2, 2, 2)),
        ({"devices": -1, "accelerator": "gpu"}, GPUS, Resources(1, 4, 4)),
        ({"accelerator": "cpu"}, GPUS, Resources(1, 1, 0)),
        ({"accelerator": "cpu", "devices": 3}, GPUS, Resources(1, 3, 0)),
        ({"num_nodes": 2}, CPUS, Resources(2, 1, 0)),
    ],
)
def test_trainer_and_profile_make_a_job(trainer, profile, expected):
    found = plan(config(**trainer), profile)
    assert found == expected
    assert found.trainer()["devices"] == expected.tasks_per_node


@pytest.mark.parametrize(
    ("trainer", "data", "profile", "said"),
    [
        ({"devices": 8}, {}, GPUS, r"has 4 .*use --trainer.devices 4 --trainer.num_nodes 2"),
        ({"devices": 6}, {}, GPUS, r"use --trainer.devices 3 --trainer.num_nodes 2"),
        ({"num_nodes": 3}, {}, GPUS, r"trainer.num_nodes: 3, but a job may have 2 .*max_nodes"),
        ({"accelerator": "gpu"}, {}, CPUS, "no GPU .*use --trainer.accelerator cpu"),
        ({"accelerator": "tpu"}, {}, GPUS, "use gpu, cpu or auto"),
        ({"devices": [0, 2]}, {}, GPUS, "SLURM chooses which"),
        ({"strategy": "ddp_spawn"}, {}, GPUS, "starts processes itself; on SLURM use ddp"),
        ({"strategy": "single_device"}, {}, GPUS, "for one process, not for 4"),
        (
            {"strategy": {"class_path": "lightning.pytorch.strategies.SingleDeviceStrategy"}},
            *({}, GPUS, "for one process"),
        ),
        ({}, {"global_batch_size": 10}, GPUS, "10 cannot be shared by 4 .*multiple of 4"),
        ({"devices": 2}, {"global_batch_size": 4, "num_lanes": 1}, GPUS, "num_lanes: 1 cannot"),
    ],
)
def test_what_the_cluster_cannot_serve_is_refused(trainer, data, profile, said):
    with pytest.raises(UserError, match=said):
        plan(config(data=data, **trainer), profile)


def test_workers_without_cores_are_told():
    assert notes(config(data={"num_workers": 7}), GPUS) == []
    (note,) = notes(config(data={"num_workers": 8}), GPUS)
    assert "cpus_per_task" in note
