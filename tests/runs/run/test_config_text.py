import random

import yaml

from mmlight.compose import flatten
from mmlight.runs.run.config_text import look_up

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
            "a.b": {"c.d": 5},
        },
    },
    "last": 1.5,
}
TEXT = yaml.safe_dump(VALUES, sort_keys=False)


def test_every_value_is_found_as_the_whole_file_has_it():
    for key, value in flatten(VALUES).items():
        assert look_up(TEXT, key) == value, key


def test_the_end_of_a_key_is_enough():
    assert look_up(TEXT, "optimizer.lr") == 1e-3
    assert look_up(TEXT, "model.optimizer.lr") == 1e-3
    assert look_up(TEXT, "max_steps") == 100
    assert look_up(TEXT, "b.c.d") == look_up(TEXT, "d") == 5
    assert look_up(TEXT, "steps") is None
    assert look_up(TEXT, "optimizer") is None  # keys, not a value


def test_lines_of_lists_and_texts_are_no_keys():
    for key in ("dim", "one", "two", "x", "", "lr.", ".", "("):
        assert look_up(TEXT, key) is None, key


def made(draw, depth=0):
    leaves = [7, 0.5, None, True, "", "x: y", "a\n\nb: 1\n  c: 2\n", "t: " * 60, [], {}, [1, [2]]]
    leaves += [[{"a": 1, "b": {"c": 2}}], "- a: 1", "'q'", "#", 10**20, "010", 8]
    if depth == 4 or draw.random() < 0.3:
        return draw.choice(leaves)
    names = draw.sample(["a", "b", "c", "ab", "init_args", "q r", "d.e", "key-2"], 3)
    return {name: made(draw, depth + 1) for name in names}


def test_random_files_have_the_values_that_a_parser_finds():
    for seed in range(40):
        values = {"x": made(random.Random(seed)), "y": made(random.Random(-seed - 1))}
        text = yaml.safe_dump(values, sort_keys=False)
        flat = flatten(values)
        for key, value in flat.items():
            # The first in the file counts, of the keys that end so.
            first = next(v for k, v in flat.items() if f".{k}".endswith(f".{key}"))
            if value is first:
                assert look_up(text, key) == value, (seed, key)


def test_damaged_files_have_no_such_value():
    for text in (
        "",
        "a",
        "a: [",
        "a: *b",
        "a: !!timestamp 2020-99-99",
        "\0a: 1",
        "  a: 1",
        "a: !!x y",
    ):
        assert look_up(text, "a") is None, text
