import pytest

from mmlight.data.scenes.scene import (
    COLOURS,
    MAX_EVAL_SAMPLES,
    SHAPES,
    SPLITS,
    Meaning,
    SceneRandom,
    Thing,
    class_names,
    eval_meanings,
    train_meanings,
)

RED_CIRCLE, ORANGE_STAR = Thing(0, 0), Thing(1, 3)


def test_each_colour_and_each_shape_lacks_two_combinations_in_training():
    seen = {t for m in train_meanings(num_val=256, seed=0) for t in (m.first, m.second)}
    for colour in range(len(COLOURS)):
        assert sum(t.colour == colour for t in seen) == len(SHAPES) - 2
    for shape in range(len(SHAPES)):
        assert sum(t.shape == shape for t in seen) == len(COLOURS) - 2


def test_test_shows_only_combinations_that_training_never_does():
    train = {t for m in train_meanings(num_val=256, seed=0) for t in (m.first, m.second)}
    test = {t for m in eval_meanings("test", count=256, seed=0) for t in (m.first, m.second)}
    assert test and not test & train
    assert {t.colour for t in test} == set(range(8)) and {t.shape for t in test} == set(range(8))


def test_val_shows_known_objects_in_pairings_that_training_never_does():
    train = set(train_meanings(num_val=256, seed=3))
    val = eval_meanings("val", count=256, seed=3)
    assert not train & set(val)
    assert {m.first for m in val} <= {m.first for m in train}


@pytest.mark.parametrize("split", ["val", "test"])
def test_no_two_evaluation_scenes_share_a_caption_or_a_transcript(split):
    meanings = eval_meanings(split, count=MAX_EVAL_SAMPLES, seed=1)
    assert len(meanings) == MAX_EVAL_SAMPLES
    for says in (lambda m: m.captions()[0], lambda m: m.transcript):
        assert len({says(m) for m in meanings}) == len(meanings)


def test_no_sentence_describes_two_meanings():
    meanings = train_meanings(num_val=1, seed=0) + eval_meanings("test", count=256, seed=0)
    sentences = [c for m in meanings for c in m.captions()]
    assert len(set(sentences)) == len(sentences)


def test_captions_say_what_is_where():
    beside, over = (Meaning(RED_CIRCLE, ORANGE_STAR, relation) for relation in (0, 1))
    assert beside.captions()[:2] == [
        "a red circle to the left of an orange star",
        "an orange star to the right of a red circle",
    ]
    assert over.captions()[:2] == [
        "a red circle above an orange star",
        "an orange star below a red circle",
    ]
    assert beside.transcript == "red circle left orange star"


def test_tags_mark_colours_shapes_and_the_relation():
    tokens, tags = Meaning(RED_CIRCLE, ORANGE_STAR, 0).tagged_tokens()
    assert " ".join(tokens) == "a red circle to the left of an orange star"
    relation = ["B-RELATION", "I-RELATION", "I-RELATION", "I-RELATION"]
    assert tags == ["O", "B-COLOUR", "B-SHAPE", *relation, "O", "B-COLOUR", "B-SHAPE"]
    _, tags = Meaning(RED_CIRCLE, ORANGE_STAR, 1).tagged_tokens()
    assert tags == ["O", "B-COLOUR", "B-SHAPE", "B-RELATION", "O", "B-COLOUR", "B-SHAPE"]


def test_class_number_is_the_place_of_the_first_objects_name():
    names = class_names()
    assert len(set(names)) == 64
    for meaning in eval_meanings("test", count=100, seed=0):
        assert names[meaning.class_number] == meaning.first.name


def test_draws_are_pinned_and_differ_between_samples_splits_and_seeds():
    assert [SceneRandom(0, split=0, sample=0).below(1000) for _ in range(2)] == [11, 11]
    firsts = {
        SceneRandom(seed, split=split, sample=sample).uniform(0, 1)
        for seed in range(3)
        for split in range(len(SPLITS))
        for sample in range(3)
    }
    assert len(firsts) == 27


def test_streams_of_neighbouring_samples_do_not_overlap():
    one, two = (SceneRandom(0, split=0, sample=sample).noise(20_000) for sample in (0, 1))
    windows = {one[i : i + 8].tobytes() for i in range(0, 20_000 - 8)}
    assert not [i for i in range(0, 20_000 - 8, 8) if two[i : i + 8].tobytes() in windows]


def test_order_is_a_permutation_and_noise_is_centred():
    draws = SceneRandom(5, split=1, sample=2)
    assert sorted(draws.order(50)) == list(range(50))
    noise = draws.noise(100, 100)
    assert noise.shape == (100, 100) and abs(noise.mean()) < 0.02 and noise.min() < -0.99
