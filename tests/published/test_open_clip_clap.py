"""CLAP of open_clip's main branch: the same sounds and texts give the same embeddings here.

Parity is run where OPEN_CLIP_MAIN names the folder `src` of its sources and, behind a colon, a
folder with torchlibrosa.
"""

import json
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hf_models import TEXTS, write_tokenizer
from safetensors.torch import save_file
from transformers import RobertaConfig

from mmlight.encoders.hf_audio import HfAudio
from mmlight.encoders.hf_text import HfText
from mmlight.errors import UserError
from mmlight.interop.embedder import Embedder
from mmlight.published.hf.write import write_transformers
from mmlight.published.open_clip.audio import AudioCfg, plan_audio
from mmlight.published.read import read_model
from mmlight.saved.checkpoint import Saved
from mmlight.tasks.load import load_task

WORDS = dict(context_length=12, vocab_size=49408, width=32, heads=2, layers=2)
ROBERTA = dict(
    **dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    **dict(vocab_size=40, max_position_embeddings=14, pad_token_id=1, layer_norm_eps=1e-5),
    **dict(bos_token_id=0, eos_token_id=2, type_vocab_size=1),
)


def sounds():
    """Shorter than a clip, as long, and longer; with the noise that any recording has.

    Where there is nothing to be heard, decibels are those of rounding: of a pure tone's, in 32
    bits, open_clip's own differ by 0.08 dB from its own in 64.
    """
    result = []
    generator = np.random.default_rng(0)
    for seconds, pitch in ((0.7, 440.0), (1.0, 900.0), (1.6, 3000.0)):
        time = np.arange(int(seconds * 48_000)) / 48_000
        wave = 0.5 * np.sin(2 * np.pi * pitch * time * (1 + time))
        result.append((wave + 0.02 * generator.standard_normal(len(time))).astype(np.float32))
    return result


def config_of(*, text, clip_samples=48_000, **audio):
    return {
        "embed_dim": 24,
        "audio_cfg": {"model_type": "HTSAT", "clip_samples": clip_samples, **audio},
        "text_cfg": text,
    }


def write_folder(folder, config, tensors):
    folder.mkdir(exist_ok=True)
    said = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(said))
    whole = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "open_clip_model.safetensors")


@pytest.fixture(scope="module")
def pieces():
    """An audio tower of ours with random weights, and its plan."""
    torch.manual_seed(0)
    plan = plan_audio(AudioCfg(clip_samples=48_000), embed_dim=24)
    return HfAudio(**plan.encoder["init_args"]).eval(), plan


def write_clap(folder, pieces):
    """Write what open_clip would, of a text tower of transformers with CLAP's projection."""
    encoder, plan = pieces
    torch.manual_seed(1)
    tensors = {f"encoder.{name}": t for name, t in encoder.state_dict().items()}
    for name, shape in {
        "0.weight": (24, 768),
        "2.weight": (24, 24),
        "0.bias": 24,
        "2.bias": 24,
    }.items():
        tensors[f"projection.{name}"] = torch.randn(shape) / 10
    theirs = plan.write(dict(tensors))
    theirs["audio.encoder.logmel_extractor.melW"] = torch.zeros(3)
    theirs["audio.encoder.tscam_conv.bias"] = torch.zeros(3)
    theirs["audio.encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(3)
    theirs["logit_scale"] = torch.tensor(2.5)
    words = HfText(config={"model_type": "roberta", **ROBERTA}, pool="model")
    theirs |= {f"text.transformer.{n[6:]}": t for n, t in words.state_dict().items()}
    for name, shape in {
        "0.weight": (24, 32),
        "2.weight": (24, 24),
        "0.bias": 24,
        "2.bias": 24,
    }.items():
        theirs[f"text.proj.{name}"] = torch.randn(shape) / 10
    text = {"hf_model_name": "mine", "hf_pooler_type": "cls_pooler", "hf_proj_type": "clap_mlp"}
    write_folder(folder, config_of(text=text | {"context_length": 12}), theirs)
    write_tokenizer(folder, "clap")
    model = {"model_type": "roberta", **ROBERTA}
    (folder / "text_config.json").write_text(json.dumps(model))
    return tensors


def test_a_folder_is_read_with_its_front_end_and_goes_to_transformers(tmp_path, pieces):
    tensors = write_clap(tmp_path / "clap", pieces)
    task = load_task(tmp_path / "clap")
    own = task.tower("audio").state_dict()
    assert own.keys() == tensors.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in tensors.items())
    assert task.preprocessing["audio"]["max_seconds"] == 1.0
    assert task.objective.learned()["scale"].log().item() == pytest.approx(2.5)
    saved = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
    with pytest.raises(UserError, match="projection has activation: gelu; it has activation: relu"):
        write_transformers(tmp_path / "back", saved)
    path = tmp_path / "clap/open_clip_config.json"
    path.write_text(path.read_text().replace('"HTSAT"', '"HTSAT", "proj_act": "relu"'))
    task = load_task(tmp_path / "clap")
    saved = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
    write_transformers(tmp_path / "back", saved)
    embedders = [Embedder.load(tmp_path / name) for name in ("clap", "back")]
    heard = [embedder.sounds([(sounds()[0], 48_000)]) for embedder in embedders]
    assert torch.allclose(*heard, atol=1e-6) and heard[0].isfinite().all()
    assert torch.allclose(*(embedder.texts(TEXTS) for embedder in embedders), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "whisper"}, "audio_cfg.model_type: 'whisper': mmlight has an encoder for"),
        ({"model_name": "huge"}, "mmlight has an encoder for model_name tiny, base, large"),
        ({"pre_norm": True}, "without pre_norm and training_head"),
        ({"mel_bin": 64}, "audio_cfg.mel_bin is not known .did you mean 'mel_bins'"),
        ({"hop_size": "480"}, "audio_cfg.hop_size cannot be '480'"),
        ({"model_name": "base"}, "lacks audio.encoder.layers.2.blocks.10"),
    ],
)
def test_other_towers_are_refused_in_one_line(tmp_path, pieces, change, message):
    write_clap(tmp_path, pieces)
    path = tmp_path / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["audio_cfg"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        read_model(tmp_path, key="from")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def open_clip():
    places = os.environ.get("OPEN_CLIP_MAIN")
    if not places:
        pytest.skip("set OPEN_CLIP_MAIN to open_clip's src (and torchlibrosa's folder)")
    sys.path[:0] = places.split(os.pathsep)
    try:
        import open_clip
        from open_clip import clap_model
        from open_clip.audio import convert, transform

        assert hasattr(open_clip, "create_model")
        yield clap_model, convert, transform
    finally:
        for place in places.split(os.pathsep):
            sys.path.remove(place)


@torch.no_grad()
def their_sounds(model, transform, config):
    prepare = transform.audio_transform_v2(config["audio_cfg"], is_train=False)
    parts = [prepare((torch.from_numpy(wave)[None], 48_000)) for wave in sounds()]
    names = [name for name in ("waveform", "mel_fusion") if name in parts[0]]
    batch = {name: torch.stack([part[name] for part in parts]) for name in names}
    # What is longer than a clip is cut here; theirs fuses three windows of it.
    batch["longer"] = torch.tensor([False for _ in parts])
    return model.encode_audio(batch, normalize=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "audio"),
    [
        ("clip", {}),
        ("clip", {"model_name": "base"}),
        ("roberta", {"proj_act": "relu"}),
        ("roberta", {"proj_act": "relu", "enable_fusion": True}),
    ],
)
def test_embeddings_are_open_clips(tmp_path, open_clip, text, audio):
    clap_model, convert, transform = open_clip
    words = dict(WORDS)
    if text == "roberta":
        place = tmp_path / "roberta"
        RobertaConfig(**ROBERTA, hidden_dropout_prob=0.0).save_pretrained(place)
        words = dict(hf_model_name=str(place), hf_pooler_type="cls_pooler", context_length=12)
        words |= dict(hf_proj_type="clap_mlp", hf_model_pretrained=False)
    config = config_of(text=words, **audio)
    torch.manual_seed(0)
    from open_clip.audio.config import CLIPAudioCfg
    from open_clip.model import CLIPTextCfg

    model = clap_model.CLAP(
        24, CLIPAudioCfg(**config["audio_cfg"]), CLIPTextCfg(**config["text_cfg"])
    ).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "spectrogram" not in name and "logmel" not in name:
                tensor.add_(0.02 * torch.randn_like(tensor))
        model.audio.encoder.bn0.running_mean.uniform_(-30, -10)
        model.audio.encoder.bn0.running_var.uniform_(20, 200)
    folder = tmp_path / "model"
    write_folder(folder, config, model.state_dict())
    if text == "roberta":
        write_tokenizer(folder, "clap")
        said = {"model_type": "roberta", **ROBERTA}
        (folder / "text_config.json").write_text(json.dumps(said))
    task = load_task(folder)
    expected = their_sounds(model, transform, config)
    embedder = Embedder(task)
    whole = [wave[:48_000] for wave in sounds()]
    if audio.get("enable_fusion"):  # theirs takes a random second of what is longer
        expected, whole = expected[:2], whole[:2]
    heard = embedder.sounds([(wave, 48_000) for wave in whole])
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    difference = {"audio": float((heard - expected).abs().max())}
    ids = torch.tensor([[0, 8, 9, 2, 1, 1], [0, 7, 2, 1, 1, 1]])
    if text == "clip":
        ids = torch.tensor([[49406, 8, 9, 49407, 0, 0], [49406, 7, 49407, 0, 0, 0]])
    padded = F.pad(ids, (0, 6), value=1 if text == "roberta" else 0)
    with torch.no_grad():
        theirs = model.encode_text(padded, normalize=True)
        mask = ids != (1 if text == "roberta" else 0)
        from mmlight.batch import Text

        row = torch.arange(2)
        ours = task.encode("text", Text(ids, mask, mask[:, 0], row, row))
    difference["text"] = float((ours - theirs).abs().max())
    if text == "roberta":  # and back, by open_clip's own way from transformers
        saved = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
        write_transformers(tmp_path / "hf", saved)
        state = convert.load_hf_clap_state_dict(tmp_path / "hf/model.safetensors")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.audio.encoder.bn0.reset_running_stats()
        fresh = clap_model.CLAP(
            24, CLIPAudioCfg(**config["audio_cfg"]), CLIPTextCfg(**config["text_cfg"])
        ).eval()
        _, unexpected = fresh.load_state_dict(state, strict=False)
        assert not unexpected
        again = their_sounds(fresh, transform, config)[: len(expected)]
        difference["back"] = float((again - expected).abs().max())
        assert torch.equal(fresh.encode_text(padded, normalize=True), theirs)
    print(f"{text} {audio}: {difference}")
    assert max(difference.values()) < 1e-5
