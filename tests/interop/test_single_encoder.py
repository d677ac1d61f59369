"""`mmlight import` of single encoders, compared with the models that they are of."""

import json

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModel

from mmlight.__main__ import main
from mmlight.batch import Audio, Images, Text
from mmlight.interop.embedder import Embedder
from mmlight.tasks.tower import Tower, TowerSettings

SIZES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
CONFIGS = {
    "bert": dict(**SIZES, vocab_size=12, max_position_embeddings=20),
    "vit": dict(**SIZES, image_size=32, patch_size=8),
    "audio-spectrogram-transformer": dict(
        **SIZES, num_mel_bins=32, max_length=64, time_stride=8, frequency_stride=8
    ),
    "wav2vec2": dict(
        **SIZES,
        **dict(conv_dim=[8, 8], conv_stride=[5, 4], conv_kernel=[10, 8]),
        **dict(num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2),
    ),
    "whisper": dict(
        **dict(d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32),
        **dict(decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=32, vocab_size=30),
        **dict(num_mel_bins=80, max_source_positions=50, max_target_positions=8),
        **dict(pad_token_id=1, bos_token_id=2, eos_token_id=3, decoder_start_token_id=4),
    ),
}
MODALITY = {"bert": "text", "vit": "image", "timm": "image"}


def write_tokenizer(folder, count=6):
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *"abcdefghijklmnop"][:count])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    said = dict(tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]", unk_token="[UNK]")
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def write_model(folder, kind):
    torch.manual_seed(0)
    if kind == "timm":
        arguments = dict(embed_dim=16, depth=2, num_heads=2, img_size=32, patch_size=8)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments).eval()
        folder.mkdir()
        state = model.state_dict()
        save_file(state | {"head.weight": torch.zeros(3, 16)}, folder / "model.safetensors")
        prepared = dict(input_size=[3, 32, 32], mean=[0.1] * 3, std=[0.2] * 3, crop_pct=0.9)
        config = dict(architecture="vit_tiny_patch16_224", model_args=arguments)
        (folder / "config.json").write_text(json.dumps(config | {"pretrained_cfg": prepared}))
        return model
    model = AutoModel.from_config(AutoConfig.for_model(kind, **CONFIGS[kind])).eval()
    model.save_pretrained(folder)
    if kind == "bert":
        write_tokenizer(folder)
    return model


def inputs(modality, rate):
    if modality == "image":
        pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        return Images(pixels, torch.ones(2).bool())
    if modality == "text":
        row, mask = torch.arange(2), torch.ones(2, 4).bool()
        return Text(torch.randint(2, 6, (2, 4)), mask, row >= 0, row, row)
    length = torch.tensor([rate // 2, rate // 2])
    return Audio(torch.rand(2, rate // 2) - 0.5, length, length > 0)


@torch.no_grad()
def expected(model, kind, encoder, given):
    """What the model itself makes of the same inputs, pooled as the encoder does by default."""
    if kind == "timm":
        return model(encoder._normalise(given.pixels_BCHW))
    if kind == "vit":
        values = encoder._normalise(given.pixels_BCHW)
        return model(pixel_values=values).last_hidden_state[:, 0]
    if kind == "bert":
        return model(input_ids=given.token_ids_NL).last_hidden_state.mean(1)
    extractors = {
        "whisper": transformers.WhisperFeatureExtractor,
        "wav2vec2": transformers.Wav2Vec2FeatureExtractor,
    }
    extractor = extractors.get(kind, transformers.ASTFeatureExtractor)
    own = {} if kind != "audio-spectrogram-transformer" else dict(num_mel_bins=32, max_length=64)
    waves = [wave.numpy() for wave in given.waveform_BT]
    values = extractor(**own)(waves, sampling_rate=16_000, return_tensors="pt")
    if kind == "whisper":
        features = values.input_features[..., :100]
        real = (given.length_B[0] // 160 - 1) // 2 + 1
        return model.get_encoder()(features).last_hidden_state[:, :real].mean(1)
    output = model(values.input_values)
    return output.last_hidden_state.mean(1) if kind == "wav2vec2" else output.pooler_output


@pytest.mark.parametrize("kind", [*CONFIGS, "timm"])
def test_an_imported_encoder_is_the_model_and_a_tower_to_begin_with(tmp_path, capsys, kind):
    model = write_model(tmp_path / "theirs", kind)
    modality = MODALITY.get(kind, "audio")
    assert main(["import", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    assert f"import: {tmp_path / 'ours'}" in capsys.readouterr().out
    settings = TowerSettings(from_run=str(tmp_path / "ours"))
    encoder = Tower(settings, modality=modality, embed_dim=None).eval().encoder
    given = inputs(modality, 16_000)
    with torch.no_grad():
        found = encoder(given).pooled_BD
    tolerance = 1e-4 if kind == "whisper" else 1e-5  # features of a short sound in NumPy
    torch.testing.assert_close(
        found, expected(model, kind, encoder, given), atol=tolerance, rtol=tolerance
    )
    embedder = Embedder.load(tmp_path / "ours")
    assert list(embedder.task.towers) == [modality]
    if kind == "bert":
        assert embedder.texts(["a b", "c"]).shape == (2, 16)
    assert "Embedder" in (tmp_path / "ours/README.md").read_text()


def without_a_layer(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "1.mlp.fc1" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def without_weights(folder):
    (folder / "model.safetensors").unlink()


def of_no_architecture(folder):
    config = json.loads((folder / "config.json").read_text())
    key = "architecture" if "architecture" in config else "model_type"
    (folder / "config.json").write_text(json.dumps(config | {key: "no_such_model"}))


def without_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


def of_another_tokenizer(folder):
    write_tokenizer(folder, count=15)


@pytest.mark.parametrize(
    ("kind", "spoil", "message"),
    [
        ("timm", without_a_layer, "lacks weights"),
        ("timm", without_weights, "has no weights"),
        ("timm", of_no_architecture, "no_such_model"),
        ("bert", without_weights, "cannot load"),
        ("bert", of_no_architecture, "no_such_model"),
        ("bert", without_tokenizer, "has no tokenizer"),
        ("bert", of_another_tokenizer, "has 15 ids, but its model embeds 12"),
    ],
)
def test_bad_folders_get_one_line_and_leave_nothing(tmp_path, capsys, kind, spoil, message):
    folder = tmp_path / "theirs"
    write_model(folder, kind)
    spoil(folder)
    assert main(["import", str(folder), str(tmp_path / "ours")]) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "import: " in one]
    assert message in line
    assert {one.name for one in tmp_path.iterdir()} == {"theirs"}
