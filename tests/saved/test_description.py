from functools import partial

import pytest
from tasks import tiny
from torch.distributed.fsdp import FSDPModule

from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_timm import MelTimm
from mmlight.errors import UserError
from mmlight.objectives.clip import Clip
from mmlight.saved.description import describe, describe_call
from mmlight.saved.rebuild import rebuild
from mmlight.tasks.task import Task


def test_factory_becomes_what_yaml_would_hold():
    factory = partial(MelTimm, "resnet10t", mel=LogMelSettings(n_mels=20))
    described = describe(factory)
    assert described["class_path"] == "mmlight.encoders.mel_timm.MelTimm"
    assert described["init_args"]["name"] == "resnet10t"
    assert described["init_args"]["mel"]["n_mels"] == 20


def test_task_is_rebuilt_with_equal_settings():
    original = tiny.task(objective=partial(Clip, init_temperature=0.1))
    again = rebuild(original.description, base=Task)
    again.configure_model()
    shapes = {name: p.shape for name, p in original.state_dict().items()}
    assert {name: p.shape for name, p in again.state_dict().items()} == shapes
    assert again.objective.log_scale.tolist() == original.objective.log_scale.tolist()
    assert again.description["init_args"]["embed_dim"] == 8


def test_class_made_up_by_fully_shard_is_described_as_the_module_it_wraps():
    sharded = type("FSDPMelTimm", (FSDPModule, MelTimm), {})
    assert describe_call(sharded, {}) == describe(MelTimm)


def test_lambda_is_refused_with_what_would_work():
    with pytest.raises(UserError, match=r"functools\.partial"):
        describe(lambda: None)
