"""Long sounds in windows."""

import numpy as np
import pytest
import torch
from multimodal import text_only
from shard_files import sound, write_tar
from test_audio import draws, tone, written

from mmlight.data.decode.audio import AudioSettings, WindowSettings, load_audio, load_windows
from mmlight.data.members import Members
from mmlight.errors import UserError


def settings(*, seconds=0.25, **windows):
    return AudioSettings(
        sample_rate_hz=8000, max_seconds=seconds, windows=WindowSettings(**windows)
    )


@pytest.mark.parametrize("format", ["FLAC", "WAV"])
def test_windows_hold_every_sample_of_a_clip_once(format):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 + 700)
    data = written(wave, 8000, format, subtype="PCM_16")
    parts = load_windows(data, settings(), draws=None)
    assert [len(part) for part in parts] == [2000] * 4 + [700]
    whole = load_audio(data, AudioSettings(sample_rate_hz=8000), draws=None)
    assert np.array_equal(np.concatenate(parts), whole)


def test_windows_overlap_by_what_the_hop_leaves():
    data = written(np.arange(8000) / 8000, 8000, subtype="PCM_24")
    parts = load_windows(data, settings(hop_s=0.1), draws=None)
    starts = [float(part[0]) * 8000 for part in parts]
    assert starts == pytest.approx([800 * place for place in range(9)], abs=1)
    assert [len(part) for part in parts] == [2000] * 8 + [8000 - 6400]


def test_a_short_clip_is_one_window():
    data = sound(0.2)
    (part,) = load_windows(data, settings(), draws=None)
    assert np.array_equal(part, load_audio(data, settings(), draws=None))


def test_windows_of_a_very_long_clip_are_spread_over_it():
    data = written(np.arange(80_000) / 80_000, 8000, subtype="PCM_24")
    parts = load_windows(data, settings(most=4), draws=None)
    assert [round(float(part[0]) * 40) for part in parts] == [5, 15, 25, 35]  # of 40 windows
    assert {len(part) for part in parts} == {2000}


def test_windows_are_resampled_as_parts_of_a_clip_are():
    data = written(tone(2.0, 44_100), 44_100)
    parts = load_windows(data, settings(seconds=0.5), draws=None)
    assert [len(part) for part in parts] == [4000] * 4
    expected = tone(2.0, 8000)
    for place, part in enumerate(parts):
        middle = slice(place * 4000 + 200, place * 4000 + 3800)
        assert np.abs(part[200:3800] - expected[middle]).max() < 1e-2


@pytest.mark.parametrize("format", ["OGG", "MP3"])
def test_windows_of_compressed_sound_are_the_same_each_time(format):
    data = written(tone(1.3, 8000), 8000, format)
    first, again = (load_windows(data, settings(), draws=None) for _ in range(2))
    assert len(first) in (6, 7)  # MP3 is a little longer than what went in
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_training_crops_unless_it_is_to_hear_all():
    data = written(np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 8000)
    (crop,) = load_windows(data, settings(), draws=draws())
    assert np.array_equal(crop, load_audio(data, settings(), draws=draws()))
    assert len(load_windows(data, settings(training=True), draws=draws())) == 4


def test_a_cut_clip_is_refused():
    with pytest.raises(Exception, match=r"."):
        load_windows(written(tone(1, 8000), 8000)[:-3000], settings(), draws=None)


def test_batches_hold_windows_by_sample(tmp_path):
    lengths = [0.6, 0.2, 0.0, 1.0]
    members = [(f"{n}.flac", sound(s)) for n, s in enumerate(lengths) if s]
    members += [(f"{n}.txt", b"a sound") for n in range(len(lengths))]
    write_tar(tmp_path / "0.tar", sorted(members))
    module = text_only(
        tmp_path, members=Members(audio="flac"), text=None, audio=settings(), max_bad_fraction=1.0
    )
    module.setup("fit")
    audio = module.batch_of("train", [0, 1, 2, 3]).audio
    assert audio.pieces.item_N.tolist() == [0, 0, 0, 1, 2, 3, 3, 3, 3]
    assert audio.length_B.tolist() == [2000, 2000, 800, 1600, 0, 2000, 2000, 2000, 2000]
    assert audio.pieces.weight_N.tolist() == [2000, 2000, 800, 1600, 1, 2000, 2000, 2000, 2000]
    assert audio.present_B.tolist() == [True, True, False, True]
    one = audio.rows(3, 4)
    assert torch.equal(one.waveform_BT, audio.waveform_BT[5:]) and one.size == 1
    assert torch.equal(audio.firsts().waveform_BT, audio.waveform_BT[[0, 3, 4, 5]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"windows": WindowSettings(hop_s=2.0), "max_seconds": 1.0}, "would not be heard"),
        ({"windows": WindowSettings(), "eval_crop": "start"}, "eval_crop has no effect"),
        ({"windows": WindowSettings(training=True), "train_crop": "start"}, "train_crop has no"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        AudioSettings(**given)


@pytest.mark.parametrize("given", [{"hop_s": 0.0}, {"most": 0}])
def test_impossible_windows_are_refused(given):
    with pytest.raises(UserError, match=r"audio\.windows"):
        WindowSettings(**given)


def test_what_is_left_out_follows_the_window_length():
    complete = AudioSettings(windows=WindowSettings(), max_seconds=3.0).complete()
    assert complete.windows == WindowSettings(hop_s=3.0)
