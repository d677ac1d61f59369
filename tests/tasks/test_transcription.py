"""A tiny recogniser on tones: each letter is a pitch, and a space is silence."""

import copy
from dataclasses import replace
from functools import partial

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmlight.batch import Audio, Batch, Text
from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_gru import MelGru
from mmlight.encoders.mel_timm import MelTimm
from mmlight.errors import UserError
from mmlight.metrics.ctc_decode import BeamDecoder
from mmlight.metrics.ctc_lexicon import LexiconDecoder
from mmlight.metrics.transcribed import count_edits
from mmlight.optim.adamw import AdamWSettings
from mmlight.tasks.load import load_task
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.tasks.transcription import Transcription
from mmlight.tasks.tuning import Tuning
from mmlight.text.tokenizer import CharTokenizer

RATE = 8000
PITCH = {"a": 500, "b": 1500, "c": 3000, " ": 0}
TOKENIZER = CharTokenizer(" abc")
GRU = partial(
    MelGru,
    mel=LogMelSettings(sample_rate_hz=RATE, n_mels=20),
    channels=4,
    dim=16,
    layers=1,
)
WAVE = dict(
    **dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32),
    **dict(conv_dim=[8, 8], conv_stride=[10, 16], conv_kernel=[20, 20]),
    **dict(num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2),
)
ENCODERS = {
    "gru": GRU,
    **{
        kind: partial(
            HfAudio,
            config=dict(model_type=kind, feat_extract_norm="group", **WAVE),
            features=dict(sampling_rate=RATE),
        )
        for kind in ("wav2vec2", "hubert")
    },
}


def preprocessing(**audio):
    settings = {"sample_rate_hz": RATE, "max_seconds": 4.0} | audio
    text = {"tokenizer": TOKENIZER.state(), "vocab_size": TOKENIZER.vocab_size, "max_tokens": 50}
    return {"image": None, "text": text, "audio": settings, "class_names": []}


def task(encoder=GRU, *, prepared=None, **settings):
    torch.manual_seed(0)
    built = Transcription(towers=Towers(audio=TowerSettings(encoder=encoder)), **settings)
    built.preprocessing = preprocessing() if prepared is None else prepared
    built.configure_model()
    return built


def sing(text, letter_s=0.12):
    time = np.arange(round(letter_s * RATE)) / RATE
    parts = [0.3 * np.sin(2 * np.pi * PITCH[letter] * time) for letter in text]
    return np.concatenate(parts).astype(np.float32)


def batch(texts, *, waves=None, captions_each=1, step=0):
    waves = [sing(text) for text in texts] if waves is None else waves
    size = len(waves)
    lengths = [len(wave) for wave in waves]
    waveform_BT = torch.zeros(size, max(lengths))
    for row, wave in enumerate(waves):
        waveform_BT[row, : len(wave)] = torch.from_numpy(wave)
    captions = [text for text in texts for _ in range(captions_each)]
    encoding = TOKENIZER.encode_batch(captions, max_tokens=50)
    return Batch(
        index_B=torch.arange(size),
        keys=[f"0/{n}" for n in range(size)],
        epoch=0,
        step=step,
        valid_B=torch.ones(size, dtype=torch.bool),
        audio=Audio(waveform_BT, torch.tensor(lengths), torch.tensor(lengths) > 0),
        text=Text(
            token_ids_NL=torch.from_numpy(encoding.ids_NL),
            mask_NL=torch.from_numpy(encoding.mask_NL),
            present_N=torch.tensor([bool(text) for text in captions]),
            item_N=torch.arange(size).repeat_interleave(captions_each),
            caption_id_N=torch.arange(len(captions)),
        ),
        captions=captions,
        fields={"speaker": [f"s{n}" for n in range(size)]},
    )


def loss_of(built, given):
    """The training loss without a trainer to log it to."""
    built.log_gated = lambda values: built.__dict__.__setitem__("logged", values)
    return built.training_step(given, 0)


def songs(count, *, seed=0):
    draws = np.random.default_rng(seed)
    words = ["a", "ab", "cab", "bc", "c", "ba"]
    return [" ".join(draws.choice(words, draws.integers(1, 4))) for _ in range(count)]


@pytest.mark.parametrize("kind", ENCODERS)
def test_every_parameter_learns(kind):
    built = task(ENCODERS[kind])
    loss_of(built, batch(songs(4))).backward()
    silent = [n for n, p in built.named_parameters() if p.requires_grad and p.grad is None]
    assert [name for name in silent if "masked_spec_embed" not in name] == []
    assert built.head.linear.out_features == TOKENIZER.vocab_size + 1


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_clip_is_heard_the_same_in_any_batch(kind):
    built = task(ENCODERS[kind]).eval()
    given = batch(["ab", "abc cab abc ba", "c"])
    together = built.emissions(given.audio)
    for row, text in enumerate(["ab", "abc cab abc ba", "c"]):
        alone = built.emissions(batch([text]).audio)
        frames = int(alone.frames_B)
        assert int(together.frames_B[row]) == frames
        torch.testing.assert_close(
            together.logits_BLK[row, :frames], alone.logits_BLK[0], atol=1e-4, rtol=1e-4
        )
    decoded = built.predict_step(given, 0)
    assert decoded[0]["transcript"] == built.predict_step(batch(["ab"]), 0)[0]["transcript"]


def test_clips_without_sound_or_transcript_do_not_count():
    built = task().eval()
    whole = loss_of(built, batch(["ab c", "ba"]))
    more = batch(["ab c", "ba", "", "cab"], waves=[sing(t) for t in ("ab c", "ba", "c", "cab")])
    audio = replace(more.audio, present_B=torch.tensor([True, True, True, False]))
    torch.testing.assert_close(loss_of(built, replace(more, audio=audio)), whole)


def test_clips_with_too_few_frames_are_counted_and_told():
    built = task().eval()
    waves = [sing("ab c"), sing("ba"), sing("c")[:800]]
    with pytest.warns(UserWarning, match=r"clip 0/2 has 3 frames, but its transcript needs 12"):
        loss = loss_of(built, batch(["ab c", "ba", "aabbccaa"], waves=waves))
    torch.testing.assert_close(loss, loss_of(task().eval(), batch(["ab c", "ba"])))
    assert built.logged["train/impossible"] == 1


def test_cut_clips_are_left_out_of_training_and_told():
    prepared = preprocessing(max_seconds=len(sing("cab ba")) / RATE)
    built = task(prepared=prepared).eval()
    with pytest.warns(UserWarning, match=r"clip 0/1 fills data.audio.max_seconds \(0.72\)"):
        loss = loss_of(built, batch(["ab c", "cab ba"]))
    torch.testing.assert_close(loss, loss_of(built, batch(["ab c"])))


class Data(lightning.LightningDataModule):
    def __init__(self, train, test):
        super().__init__()
        # Lightning takes a list of one for the thing in it.
        self.loaders = {
            name: DataLoader(batches, batch_size=None)
            for name, batches in (("train", train), ("val", test))
        }

    def preprocessing(self):
        return preprocessing()

    def train_dataloader(self):
        return self.loaders["train"]

    def val_dataloader(self):
        return self.loaders["val"]

    def test_dataloader(self):
        return self.loaders["val"]


def trainer(path, **options):
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **options,
    )


def fitted(path, *, epochs, batches=20):
    built = Transcription(
        towers=Towers(audio=TowerSettings(encoder=partial(GRU, dim=32))),
        optimizer=AdamWSettings(lr=1e-2, weight_decay=0.0),
        dropout=0.0,
        decoder=partial(BeamDecoder, beam_width=4),
    )
    data = Data(
        [batch(songs(8, seed=n), step=n) for n in range(batches)], [batch(songs(16, seed=99))]
    )
    torch.manual_seed(0)
    fit = trainer(path, max_epochs=epochs, check_val_every_n_epoch=epochs, gradient_clip_val=1.0)
    fit.fit(built, datamodule=data)
    return built, fit


def test_scores_evaluation_and_checkpoint_agree(tmp_path):
    built, fit = fitted(tmp_path, epochs=1, batches=5)
    scores = {name: float(value) for name, value in fit.callback_metrics.items()}
    evaluation = built.evaluation
    assert evaluation.stage == "val" and evaluation.said == songs(16, seed=99)
    assert evaluation.fields["speaker"][3] == "s3"
    num_words = sum(len(said.split()) for said in evaluation.said)
    pairs = zip(evaluation.said, evaluation.heard, strict=True)
    num_edits = sum(count_edits(said.split(), heard.split()).total for said, heard in pairs)
    assert scores["val/wer"] == pytest.approx(num_edits / num_words)
    assert scores["val/loss"] == pytest.approx(evaluation.loss_S.mean())
    assert scores["val/num_impossible"] == 0

    fit.save_checkpoint(tmp_path / "a.ckpt")
    again = load_task(tmp_path / "a.ckpt")
    expected = built.eval().predict_step(batch(songs(5)), 0)
    assert again.predict_step(batch(songs(5)), 0) == expected
    assert list(expected[0]) == ["key", "transcript", "score"]


@pytest.mark.slow
def test_it_learns_to_read_tones(tmp_path):
    """From nothing to every word, also of songs that it never heard."""
    _, fit = fitted(tmp_path, epochs=12)
    assert float(fit.callback_metrics["val/wer"]) < 0.05
    assert float(fit.callback_metrics["val/cer"]) < 0.05


def test_several_transcripts_count_as_their_first_and_fillers_not_at_all(tmp_path):
    given = batch(["ab", "c"], captions_each=2)
    given = replace(given, captions=["AB", "x", "c", "y"], valid_B=torch.tensor([True, False]))
    built = task()
    trainer(tmp_path).validate(built, datamodule=Data([], [given]), verbose=False)
    assert built.evaluation.said == ["ab"]


def test_the_front_of_wav2vec2_can_be_frozen():
    front = ["towers.audio.encoder.model.feature_extractor.*"]
    built = task(ENCODERS["wav2vec2"], tuning=Tuning(freeze=front))
    built.trained.begin(0)
    trained = {n for n, p in built.named_parameters() if p.requires_grad}
    assert not [n for n in trained if ".feature_extractor." in n]
    assert any(".encoder.model.encoder.layers.0." in n for n in trained)


def test_a_language_model_is_used_and_named_by_no_checkpoint(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    (tmp_path / "words.txt").write_text("ab\nc\n")
    decoder = partial(LexiconDecoder, lexicon=str(tmp_path / "words.txt"), beam_width=7)
    built = task(decoder=decoder).eval()
    heard = built.predict_step(batch(songs(3)), 0)
    assert all(set(row["transcript"].split()) <= {"ab", "c"} for row in heard)
    checkpoint = {"state_dict": built.state_dict()}
    built.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    (tmp_path / "words.txt").unlink()
    again = load_task(tmp_path / "a.ckpt")
    assert isinstance(again.decoder, BeamDecoder) and again.decoder.beam_width == 7


def test_a_copy_of_the_task_is_heard_the_same():
    built = task().eval()
    given = batch(songs(3))
    assert copy.deepcopy(built).predict_step(given, 0) == built.predict_step(given, 0)


def test_towers_without_frames_and_other_mistakes_are_named():
    with pytest.raises(UserError, match="takes exactly one, audio"):
        Transcription(towers=Towers())
    mel = LogMelSettings(sample_rate_hz=RATE, n_mels=20)
    small = partial(MelTimm, "resnet10t", mel=mel)
    with pytest.raises(UserError, match="tokens of MelTimm are no frames"):
        task(small)
    with pytest.raises(UserError, match=r"data\.text is not set"):
        task(prepared=preprocessing() | {"text": None})
    with pytest.raises(UserError, match="has no audio"):
        task().predict_step(replace(batch(["a"]), audio=None), 0)
    with pytest.raises(UserError, match=r"data\.members\.text is not set"):
        task().training_step(replace(batch(["a"]), text=None), 0)
