import pytest
import torch
from encoder_inputs import assert_blocks_partition, assert_checkpointing_keeps_gradients
from torch.nn import functional as F

from mmlight.batch import Audio
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_segments import MelSegments
from mmlight.errors import UserError

MEL = LogMelSettings(sample_rate_hz=8000, window_ms=32, hop_ms=16, n_mels=12)
HOP = 128


def make(**more):
    torch.manual_seed(0)
    small = dict(mel=MEL, filters=4, hidden=[6, 5], dropout=0.0)
    return MelSegments(**(small | more))


def sounds(*frames, padded_to=None):
    """Clips of so many frames each, noise of a seed of its own."""
    samples = [(n - 1) * HOP for n in frames]
    waveform_BT = torch.zeros(len(frames), padded_to or max(samples))
    for row, count in enumerate(samples):
        waveform_BT[row, :count] = torch.randn(count, generator=torch.Generator().manual_seed(row))
    return Audio(waveform_BT, torch.tensor(samples), torch.ones(len(frames), dtype=torch.bool))


def test_a_segment_is_what_the_network_says_of_its_frames_alone():
    """Against the paper's network on segments that are cut out of the log-mel, in float64."""
    encoder = make().double().eval()
    inputs = sounds(100)
    tokens = encoder(inputs, tokens=True).tokens_BLD[0]
    mel = encoder.log_mel(inputs.waveform_BT, inputs.length_B).log_mel_BML[0].double()
    padded = F.pad(mel, (4, 4))
    slope = sum(n * padded[:, 4 + n : 104 + n] for n in range(-4, 5)) / 60
    expected = []
    for start in range(0, 100 - 41 + 1, 18):
        maps = torch.stack([mel, slope])[None, :, :, start : start + 41]
        maps = F.max_pool2d(F.relu(encoder.first(maps)), (4, 3), stride=(1, 3))
        maps = F.max_pool2d(F.relu(encoder.second(maps)), (1, 3), stride=(1, 3))
        assert maps.shape == (1, 4, 1, 3)
        hidden = maps.flatten()
        for layer in encoder.layers:
            hidden = F.relu(layer.weight.flatten(1) @ hidden + layer.bias)
        expected.append(hidden)
    torch.testing.assert_close(tokens, torch.stack(expected), atol=1e-9, rtol=1e-9)


def test_a_clip_gives_the_same_segments_in_any_batch():
    encoder = make().eval()
    alone, together = encoder(sounds(60), tokens=True), encoder(sounds(60, 130), tokens=True)
    assert together.mask_BL.sum(1).tolist() == [2, 5]
    torch.testing.assert_close(together.tokens_BLD[0, :2], alone.tokens_BLD[0])
    torch.testing.assert_close(together.pooled_BD[0], alone.pooled_BD[0])


def test_a_clip_shorter_than_a_segment_is_one():
    encoded = make().eval()(sounds(7), tokens=True)
    assert encoded.tokens_BLD.shape == (1, 1, 5)
    assert encoded.pooled_BD.isfinite().all()


def test_long_segments_blocks_gradients_and_rebuilding():
    encoder = make(segment_frames=101, segment_hop=9, dropout=0.3)
    assert_blocks_partition(encoder)
    assert_checkpointing_keeps_gradients(encoder, sounds(130, 110))
    again = MelSegments(**encoder.rebuild_args()).eval()
    again.load_state_dict(encoder.state_dict())
    encoder.eval()
    assert torch.equal(again(sounds(120)).pooled_BD, encoder(sounds(120)).pooled_BD)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(hidden=[]), "hidden: 0 must be"),
        (dict(filters=0), "filters: 0 must be"),
        (dict(segment_hop=20), "segment_hop: 20 must be a multiple of 9"),
        (dict(segment_frames=19), "segment_frames: 19 must be 20 or more"),
        (dict(dropout=1.0), "dropout: 1.0 must be"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        make(**arguments)
