import tokenizers
from transformers import PreTrainedTokenizerFast

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.data.following import follow_audio, follow_image, text_differs
from mmlight.data.text import TextSettings
from mmlight.text.json_tokenizer import HfTokenizer
from mmlight.text.tokenizer import ByteTokenizer


def word_tokenizer(folder, words):
    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {word: n for n, word in enumerate(words, 2)}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    return HfTokenizer(str(folder))


def test_sound_follows_where_nothing_is_set():
    wanted = {"sample_rate_hz": 8000, "max_seconds": 30.0}
    assert follow_audio(AudioSettings(), wanted).max_samples == 240_000
    assert follow_audio(AudioSettings(max_seconds=1.0), wanted).max_samples == 8000
    assert follow_audio(AudioSettings(), {}) == AudioSettings(16_000, 10.0)


def test_what_no_setting_may_be_is_not_followed():
    wanted = {"size": -1, "interpolation": ["bicubic"], "crop_pct": "x", "eval_crop": 3, "hop": 1}
    assert follow_image(ImageSettings(), wanted) == ImageSettings().complete()
    assert follow_audio(AudioSettings(), {"sample_rate_hz": "8000"}) == AudioSettings().complete()


def test_another_tokenizer_than_the_towers_is_told(tmp_path):
    theirs = word_tokenizer(tmp_path / "a", ["A", "small", "red"])
    other = word_tokenizer(tmp_path / "b", ["red", "A", "house"])
    for wanted in ({"tokenizer": theirs.state()}, {"tokenizer_folder": str(tmp_path / "a")}):
        assert text_differs(TextSettings(theirs), wanted) is None
        for own in (other, ByteTokenizer()):
            said = text_differs(TextSettings(own), wanted)
            assert said.startswith("data.text.tokenizer gives other ids than the tokenizer that")
    assert text_differs(TextSettings(other), {}) is None
    assert text_differs(TextSettings(other), {"tokenizer": {"kind": "?"}}) is None
