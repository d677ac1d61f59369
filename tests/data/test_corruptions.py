import io

import numpy as np
import pytest
import torch
from multimodal import picture, shard, text_only
from PIL import Image

from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.corruptions import KINDS, Corruption, Corruptor, corruptor
from mmlight.data.decode.image import ImageSettings
from mmlight.data.members import Members
from mmlight.data.text import TextSettings
from mmlight.errors import UserError
from mmlight.text.tokenizer import ByteTokenizer

RATE_HZ = 8000
ALL = [(modality, kind) for modality, kinds in KINDS.items() for kind in kinds]
TEXT = "what is the capital of the united kingdom ?"


def pixels(size: int = 48) -> torch.Tensor:
    return torch.from_numpy(np.array(picture(size, size, seed=3))).permute(2, 0, 1).contiguous()


def wave(seconds: float = 0.5, pitch_hz: float = 440) -> np.ndarray:
    time_s = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time_s)).astype(np.float32)


def spoil(modality: str, kind: str, *, sample: int = 0, seed: int = 0, **how):
    spoiler = Corruptor((Corruption(modality, kind, **(how or {"severity": 5})),), seed)
    if modality == "image":
        return spoiler.image(pixels(), sample=sample)
    if modality == "audio":
        most = RATE_HZ * 10
        return spoiler.audio(wave(), sample=sample, sample_rate_hz=RATE_HZ, max_samples=most)
    return spoiler.captions([TEXT], sample=sample)[0]


def equal(first, second) -> bool:
    if isinstance(first, str):
        return first == second
    return np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize(("modality", "kind"), ALL)
def test_depends_on_seed_and_sample_alone(modality, kind):
    first = spoil(modality, kind, sample=1)
    assert equal(first, spoil(modality, kind, sample=1))
    if kind in ("blur", "jpeg"):  # nothing is drawn
        return
    others = [
        spoil(modality, kind, sample=n, seed=s, severity=4) for n in (2, 3, 4) for s in (0, 1)
    ]
    assert not all(equal(first, other) for other in others)


@pytest.mark.parametrize(("modality", "kind"), ALL)
def test_severities_get_worse(modality, kind):
    amounts = KINDS[modality][kind].amounts
    assert sorted(amounts) in (list(amounts), list(amounts)[::-1])
    if modality == "image":
        distances = [
            (spoil(modality, kind, severity=s).float() - pixels().float()).square().mean().item()
            for s in range(1, 6)
        ]
        assert distances == sorted(distances) and distances[0] > 0
    # a severity is its amount
    assert equal(spoil(modality, kind, severity=3), spoil(modality, kind, amount=float(amounts[2])))


def test_image_noise_has_the_stated_deviation():
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    spoiler = Corruptor((Corruption("image", "noise", amount=0.1),), 0)
    noise = spoiler.image(grey, sample=0).float() - 128
    assert noise.std().item() == pytest.approx(25.5, rel=0.03)
    assert abs(noise.mean().item()) < 1


def test_occlusion_covers_the_stated_area():
    white = torch.full((3, 100, 50), 255, dtype=torch.uint8)
    spoiler = Corruptor((Corruption("image", "occlusion", amount=0.25),), 0)
    covered = spoiler.image(white, sample=0)[0] == 128
    assert covered.float().mean().item() == pytest.approx(0.25)


def test_jpeg_is_that_of_pillow():
    file = io.BytesIO()
    Image.fromarray(pixels().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=7)
    expected = np.array(Image.open(file)).astype(int)
    result = spoil("image", "jpeg", severity=5).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(result - expected).mean() < 2


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 1, 40)])
@pytest.mark.parametrize("kind", KINDS["image"])
def test_images_keep_their_shape(kind, shape):
    image = torch.arange(int(np.prod(shape))).reshape(shape).to(torch.uint8)
    spoiled = Corruptor((Corruption("image", kind, severity=5),), 0).image(image, sample=0)
    assert spoiled.shape == shape and spoiled.dtype == torch.uint8


def test_audio_noise_has_the_stated_ratio_and_falls_3_db_per_octave():
    noise = spoil("audio", "noise", amount=10.0) - wave()
    ratio_db = 10 * np.log10(np.mean(wave() ** 2) / np.mean(noise**2))
    assert ratio_db == pytest.approx(10, abs=0.1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [power[2**k : 2 ** (k + 1)].mean() for k in range(4, 11)]
    falls_db = 10 * np.log10(np.array(octaves[:-1]) / octaves[1:])
    assert falls_db.mean() == pytest.approx(3, abs=0.6)


def test_loud_mixtures_are_turned_down_and_silence_stays():
    loud = spoil("audio", "noise", amount=-20.0)
    assert np.abs(loud).max() == pytest.approx(1)
    silent = Corruptor((Corruption("audio", "noise", severity=5),), 0).audio(
        np.zeros(100, np.float32), sample=0, sample_rate_hz=RATE_HZ, max_samples=100
    )
    assert not silent.any()


def test_tempo_changes_the_length_and_keeps_the_pitch():
    lengths = set()
    for sample in range(8):
        result = spoil("audio", "tempo", amount=1.5, sample=sample)
        lengths.add(len(result))
        middle = result[500:-500] * np.hanning(len(result) - 1000)
        pitch_hz = np.abs(np.fft.rfft(middle)).argmax() * RATE_HZ / len(middle)
        assert pitch_hz == pytest.approx(440, abs=8)
    assert lengths == {round(4000 / 1.5), 6000}


def test_a_clip_that_got_too_long_keeps_its_middle():
    spoiler = Corruptor((Corruption("audio", "tempo", amount=2.0),), 0)
    for sample in range(4):
        result = spoiler.audio(wave(), sample=sample, sample_rate_hz=RATE_HZ, max_samples=4000)
        assert len(result) in (2000, 4000)


def test_typos_change_the_stated_share_and_keep_the_words():
    for sample in range(20):
        one = spoil("text", "typos", amount=0.01, sample=sample)
        assert abs(len(one) - len(TEXT)) <= 1
        many = spoil("text", "typos", amount=0.25, sample=sample)
        assert len(many.split()) == len(TEXT.split())
        assert many != TEXT


def test_texts_without_letters_stay_as_they_are():
    spoiler = Corruptor((Corruption("text", "typos", amount=1.0),), 0)
    assert spoiler.captions(["", "12 ?", "a"], sample=0)[:2] == ["", "12 ?"]


def test_case_turns_all_words_over_at_its_worst():
    assert spoil("text", "case", severity=5) == TEXT.upper()
    spoiler = Corruptor((Corruption("text", "case", severity=5),), 0)
    assert spoiler.captions(["YES, Sir"], sample=0) == ["yes, SIR"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (dict(modality="image", kind="nois", severity=1), "did you mean 'noise'"),
        (dict(modality="audio", kind="blur", severity=1), "there is noise, tempo"),
        (dict(modality="taste", kind="noise", severity=1), "none of image, audio, text"),
        (dict(modality="image", kind="blur"), "either a severity or an amount"),
        (dict(modality="image", kind="blur", severity=1, amount=0.1), "either a severity"),
        (dict(modality="image", kind="blur", severity=6), "use 1 to 5"),
        (dict(modality="image", kind="jpeg", amount=0), "must be 1 to 100"),
        (dict(modality="text", kind="case", severity=1, splits=["dev"]), "'dev'"),
        (dict(modality="text", kind="case", severity=1, splits=[]), "is empty"),
    ],
)
def test_what_does_not_exist_is_refused(settings, told):
    with pytest.raises(UserError, match=told):
        Corruption(**settings)


def test_evaluation_splits_are_spoiled_unless_others_are_named():
    plain = Corruption("image", "noise", severity=1)
    trained = Corruption("image", "noise", severity=1, splits=["train"])
    assert corruptor([plain], split="train", seed=0) is None
    assert corruptor([plain, trained], split="test", seed=0) == Corruptor((plain,), 0)
    assert corruptor([plain, trained], split="train", seed=0) == Corruptor((trained,), 0)


@pytest.fixture
def data(tmp_path):
    shard(tmp_path / "0.tar", range(8))

    def build(**settings):
        return text_only(
            tmp_path,
            members=Members(image="jpg", audio="flac", text="txt"),
            test=text_only(tmp_path)._splits["train"][0],
            image=ImageSettings(size=16),
            audio=AudioSettings(sample_rate_hz=RATE_HZ),
            text=TextSettings(ByteTokenizer(), clean="clip"),
            **settings,
        )

    return build


def test_a_data_module_spoils_what_it_is_asked_to(data):
    kinds = [("image", "noise"), ("audio", "tempo"), ("text", "typos")]
    spoiled = data(corruptions=[Corruption(m, k, severity=5) for m, k in kinds])
    clean = data()
    for module in (spoiled, clean):
        module.setup("test")
    (a, _), (b, _) = list(spoiled.test_dataloader()), list(clean.test_dataloader())
    assert not torch.equal(a.image.pixels_BCHW, b.image.pixels_BCHW)
    assert not torch.equal(a.audio.length_B, b.audio.length_B)
    assert not set(a.captions) & set(b.captions)
    # what was meant is the same
    assert torch.equal(a.text.caption_id_N, b.text.caption_id_N)


def test_with_corruptions_gives_a_module_for_another_trainer(data):
    clean = data()
    clean.setup("test")
    twin = clean.with_corruptions([Corruption("text", "case", severity=5)])
    twin.setup("test")
    assert next(iter(twin.test_dataloader())).captions[0] == "caption 0"  # cleaned afterwards
    noisy = clean.with_corruptions([Corruption("image", "noise", severity=1)])
    before = next(iter(clean.test_dataloader()))
    after = next(iter(noisy.test_dataloader()))
    assert not torch.equal(before.image.pixels_BCHW, after.image.pixels_BCHW)
    assert clean.corruptions == []
    assert noisy._samples["test"] is clean._samples["test"]


def test_corruptions_without_effect_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="no effect without"):
        text_only(tmp_path, corruptions=[Corruption("image", "noise", severity=1)])
    with pytest.raises(UserError, match="there is train, test"):
        data(corruptions=[Corruption("image", "noise", severity=1, splits=["val"])])
