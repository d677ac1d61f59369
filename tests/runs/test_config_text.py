import yaml

from mmlight.compose import flatten
from mmlight.runs.config_text import look_up, raw_values

VALUES = {
    "seed_everything": 3,
    "trainer": {"max_steps": 100, "callbacks": None, "precision": "bf16-mixed", "deep": {"a": {}}},
    "run": {"tags": ["a paper", "b: c"], "name": "it's: odd"},
    "model": {
        "class_path": "mmlight.tasks.contrastive.Contrastive",
        "init_args": {
            "optimizer": {"lr": 1.0e-3, "betas": [0.9, 0.95]},
            "long": "a: text " * 30,
            "lines": "one: 1\ntwo: 2\n",
            "layers": [{"class_path": "x.Y", "init_args": {"dim": 4}}, {"class_path": "z"}],
            "after": True,
        },
    },
    "last": 1.5,
}


def test_every_value_is_found_as_the_whole_file_has_it():
    raw = raw_values(yaml.safe_dump(VALUES, sort_keys=False))
    for key, value in flatten(VALUES).items():
        assert look_up(raw, key) == value, key
    assert list(raw) == list(flatten(VALUES))


def test_the_end_of_a_key_is_enough():
    raw = raw_values(yaml.safe_dump(VALUES, sort_keys=False))
    assert look_up(raw, "optimizer.lr") == 1e-3
    assert look_up(raw, "model.optimizer.lr") == 1e-3
    assert look_up(raw, "max_steps") == 100
    assert look_up(raw, "steps") is None
