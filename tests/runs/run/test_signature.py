"""When two configurations are the same experiment."""

from copy import deepcopy

import pytest

from mmlight.runs.run.signature import setting, signature

CONFIG = {
    "seed_everything": 0,
    "trainer": {"devices": 1, "num_nodes": 1, "accelerator": "cpu", "max_steps": 10},
    "run": {"name": None, "root": "runs"},
    "data": {"class_path": "D", "init_args": {"num_workers": 0, "global_batch_size": 8}},
}


def changed(path, value):
    config = deepcopy(CONFIG)
    *above, last = path.split(".")
    place = config
    for part in above:
        place = place[part]
    place[last] = value
    return config


def test_signature_is_fixed():
    # A new value would launch every experiment again that people have launched before.
    assert signature(CONFIG) == "94f22bd6"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("trainer.devices", 8),
        ("trainer.num_nodes", 2),
        ("trainer.accelerator", "gpu"),
        ("run.name", "other"),
        ("data.init_args.num_workers", 4),
    ],
)
def test_machines_and_places_do_not_count(path, value):
    assert signature(changed(path, value)) == signature(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed_everything", 1),
        ("trainer.max_steps", 11),
        ("data.init_args.global_batch_size", 16),
        ("data.class_path", "E"),
    ],
)
def test_seed_and_settings_count(path, value):
    assert signature(changed(path, value)) != signature(CONFIG)


def test_order_of_keys_does_not_count():
    assert signature(dict(reversed(CONFIG.items()))) == signature(CONFIG)


def test_nothing_of_the_configuration_is_changed():
    before = deepcopy(CONFIG)
    signature(CONFIG)
    assert before == CONFIG


def test_seeds_of_one_experiment_share_their_setting():
    other = changed("seed_everything", 1)
    other["data"]["init_args"]["seed"] = 4
    assert setting(other) == setting(CONFIG) and signature(other) != signature(CONFIG)
    assert setting(changed("trainer.max_steps", 20)) != setting(CONFIG)
