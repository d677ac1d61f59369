"""Models of open_clip are read and written back; what cannot be read is refused in one line."""

import json
from pathlib import Path

import open_clip_models
import pytest
import torch
from open_clip_models import CONFIGS, PREPROCESS, TINY_ROBERTA, changed, config, made
from safetensors.torch import load_file, save_file

from mmlight.batch import Images, Text
from mmlight.errors import UserError
from mmlight.published.open_clip import text
from mmlight.published.open_clip.files import CONFIG, WEIGHTS
from mmlight.published.open_clip.write import write_open_clip
from mmlight.published.read import read_model
from mmlight.saved.checkpoint import Saved
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.load import build_task, load_task


@pytest.fixture(autouse=True)
def tiny_roberta(monkeypatch):
    monkeypatch.setitem(text.MODELS, "roberta-tiny", TINY_ROBERTA)


def embeddings(task, *, seed=0, captions=3):
    g = torch.Generator().manual_seed(seed)
    side = task.tower("image").encoder._side or 64
    pixels = torch.randint(0, 256, (2, 3, side, side), generator=g, dtype=torch.uint8)
    lengths = torch.tensor([5, 11, 3])[:captions]
    ids = torch.randint(3, 38, (captions, int(lengths.max())), generator=g)
    mask = torch.arange(ids.shape[1]) < lengths[:, None]
    here = torch.ones(captions, dtype=torch.bool)
    words = Text(ids, mask, here, torch.arange(captions), torch.arange(captions))
    with torch.no_grad():
        return task.encode("image", Images(pixels, here[:2])), task.encode("text", words)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_was_written_is_read_as_it_was(kind, tmp_path):
    task = made(kind, tmp_path / "model")
    path, saved = read_model(tmp_path / "model", key="test")
    assert path == tmp_path / "model"
    ours = task.state_dict()
    assert saved.tensors.keys() == ours.keys()
    assert all(torch.equal(saved.tensors[name], ours[name]) for name in ours)
    again = build_task(saved)
    before, after = embeddings(task), embeddings(again)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True))
    # Different inputs, different embeddings.
    assert all((rows[0] - rows[1]).abs().max() > 1e-4 for rows in after)
    # And written again, file by file.
    (tmp_path / "again").mkdir()
    write_open_clip(tmp_path / "again", Saved(saved.description, saved.preprocessing, ours))
    first, second = (json.loads((tmp_path / f / CONFIG).read_text()) for f in ("model", "again"))
    assert first == second
    weights = [load_file(tmp_path / f / WEIGHTS) for f in ("model", "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    prepared = saved.preprocessing["image"]
    assert (prepared["eval_crop"], prepared["interpolation"]) == ("squash", "bilinear")
    assert again.tower("image").encoder._mean == PREPROCESS["mean"]


def test_tensors_are_named_and_laid_out_as_open_clips(tmp_path):
    made("ViT", tmp_path / "model")
    block = {
        "attn.in_proj_weight": (48, 16),
        "attn.in_proj_bias": (48,),
        "attn.out_proj.weight": (16, 16),
        "attn.out_proj.bias": (16,),
        "ln_1.weight": (16,),
        "ln_1.bias": (16,),
        "ln_2.weight": (16,),
        "ln_2.bias": (16,),
        "mlp.c_fc.weight": (64, 16),
        "mlp.c_fc.bias": (64,),
        "mlp.c_proj.weight": (16, 64),
        "mlp.c_proj.bias": (16,),
    }
    expected = {
        "logit_scale": (),
        "positional_embedding": (12, 16),
        "text_projection": (16, 8),
        "token_embedding.weight": (40, 16),
        "ln_final.weight": (16,),
        "ln_final.bias": (16,),
        "visual.class_embedding": (16,),
        "visual.positional_embedding": (17, 16),
        "visual.proj": (16, 8),
        "visual.conv1.weight": (16, 3, 8, 8),
        **{f"visual.{norm}.{end}": (16,) for norm in ("ln_pre", "ln_post") for end in ENDS},
        **{
            f"{tower}transformer.resblocks.{layer}.{name}": shape
            for tower in ("", "visual.")
            for layer in (0, 1)
            for name, shape in block.items()
        },
    }
    found = load_file(tmp_path / "model" / WEIGHTS)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == expected


ENDS = ("weight", "bias")


@pytest.mark.parametrize("kind", ["coca", "SigLIP"])
def test_embeddings_do_not_depend_on_the_batch(kind, tmp_path):
    """Padding is seen, by all tokens or by the class token: to one length, always."""
    task = made(kind, tmp_path / "model")
    ids = torch.randint(3, 38, (3, 12))

    def encode(rows, width):
        mask = torch.arange(width) < 5
        here = torch.ones(rows, dtype=torch.bool)
        given = ids[:rows, :width]
        with torch.no_grad():
            inputs = Text(
                given, mask.expand(rows, -1), here, torch.arange(rows), torch.arange(rows)
            )
            return task.encode("text", inputs)

    assert torch.allclose(encode(3, 11)[:1], encode(1, 5), atol=1e-6)
    assert torch.allclose(encode(3, 12), encode(3, 5), atol=1e-6)


def test_the_class_token_of_coca_sees_the_first_padding_and_not_itself(tmp_path):
    """Against a slow one: attention of every place, masked as open_clip's own mask is built."""
    task = made("coca", tmp_path / "model")
    encoder = task.tower("text").encoder
    for length in (4, 11, 12):
        mask = torch.arange(12) < length
        ids = torch.randint(3, 38, (1, 12)) * mask
        valid = torch.cat([torch.ones(1, dtype=torch.bool), ids[0] != 0])  # shifted by one
        sees = torch.ones(13, 13, dtype=torch.bool).tril() & valid
        whole = torch.cat([ids, torch.tensor([[encoder.class_id]])], 1)
        with torch.no_grad():
            hidden = encoder.model(input_ids=whole, attention_mask=sees[None, None])
            cut = Text(
                ids[:, :length], mask[None, :length], mask[:1], torch.arange(1), torch.arange(1)
            )
            ours = encoder(cut).pooled_BD
        assert torch.allclose(ours, hidden.last_hidden_state[:, -1], atol=1e-6), length


def test_a_training_checkpoint_is_read(tmp_path):
    task = made("ViT", tmp_path / "model")
    weights = load_file(tmp_path / "model" / WEIGHTS)
    (tmp_path / "model" / WEIGHTS).unlink()
    named = {f"module.{name}": tensor.half() for name, tensor in weights.items()}
    checkpoint = {"epoch": 3, "name": "run", "state_dict": named, "optimizer": {"state": {}}}
    torch.save(checkpoint, tmp_path / "model" / "epoch_3.pt")
    tensors = read_model(tmp_path / "model" / "epoch_3.pt", key="test")[1].tensors
    assert all(tensor.dtype == torch.float32 for tensor in tensors.values())
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensors[name], tensor.half().float()), name
    # Elsewhere, with the config named.
    torch.save(checkpoint, tmp_path / "alone.pt")
    (tmp_path / "tiny.json").write_text(json.dumps(config("ViT")))
    again = read_model(tmp_path / "alone.pt", key="test", arch=str(tmp_path / "tiny.json"))[1]
    assert again.tensors.keys() == tensors.keys()


def test_it_begins_a_contrastive_task_with_equal_scores(tmp_path):
    task = made("SigLIP", tmp_path / "model")
    begun = Contrastive(from_pretrained=str(tmp_path / "model"))
    begun.configure_model()
    before, after = embeddings(task), embeddings(begun.eval())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert type(begun.objective).__name__ == "SigLip"
    assert torch.equal(begun.objective.bias, task.objective.bias)
    described = begun.rebuild_description()
    assert str(tmp_path) not in str(described)


def refused(folder, match):
    with pytest.raises(UserError, match=match) as caught:
        load_task(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"vision_cfg": {"layers": [1, 1, 1, 1]}}, r"no ResNet of \[1, 1, 1, 1\] layers"),
        ({"vision_cfg": {"timm_model_name": "resnet10t"}}, r"holds visual\.class_embedding"),
        ({"vision_cfg": {"qk_norm": True}}, "vision_cfg.qk_norm: mmlight has no encoder"),
        ({"vision_cfg": {"mystery": 3}}, "vision_cfg.mystery is not known"),
        ({"vision_cfg": {"width": "wide"}}, "vision_cfg.width cannot be 'wide'"),
        ({"vision_cfg": {"image_size": 64}}, "size is 32, but the image tower is for 64 pixels"),
        ({"vision_cfg": {"patch_size": 16}}, "has 17 places, but image_size 32 in patches of 16"),
        ({"text_cfg": {"layers": 3}}, r"lacks text\.transformer\.resblocks\.2"),
        ({"text_cfg": {"layers": 1}}, r"holds text\.transformer\.resblocks\.1.* besides"),
        ({"text_cfg": {"vocab_size": 50}}, r"token_embedding.weight is \(40, 16\), not \(50, 16\)"),
        ({"text_cfg": {"hf_model_name": "who/knows"}}, "who/knows's sizes are not known"),
        ({"text_cfg": {"pool_type": "first"}}, "pool_type: 'first' of a causal transformer"),
        ({"text_cfg": "all"}, "text_cfg is no mapping"),
        ({"init_logit_bias": -10}, "lacks logit_bias"),
        ({"audio_cfg": {}}, "lacks audio.encoder"),
        ({"embed_dim": "512"}, "embed_dim is '512', not a width"),
    ],
)
def test_what_a_config_cannot_say_is_refused(tmp_path, changes, match):
    made("ViT", tmp_path / "model")
    changed(tmp_path / "model", **changes)
    refused(tmp_path / "model", match)


def test_a_network_that_timm_does_not_have_is_refused(tmp_path):
    made("convnext", tmp_path / "model")
    changed(tmp_path / "model", vision_cfg={"timm_model_name": "vit_giga"})
    refused(tmp_path / "model", "timm has no model 'vit_giga'")


def test_damaged_files_are_refused(tmp_path):
    folder = tmp_path / "model"
    made("ViT", folder)
    weights = load_file(folder / WEIGHTS)
    save_file(weights | {"visual.extra": torch.zeros(2)}, folder / WEIGHTS)
    refused(folder, "holds visual.extra besides")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:200])
    refused(folder, "damaged or cut short")
    (folder / WEIGHTS).unlink()
    refused(folder, "has no weights")
    torch.save({"state_dict": weights, "args": Path("x")}, folder / "epoch_1.pt")
    refused(folder, "holds more than tensors and plain values")
    (folder / CONFIG).write_text("{")
    refused(folder, r"open_clip_config.json cannot be read")
    with pytest.raises(UserError, match="no such file or folder"):
        read_model(tmp_path / "nowhere", key="import", arch="ViT-B-32")


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    from tokenizers import Tokenizer, models

    folder = tmp_path / "model"
    made("ViT", folder)
    words = {f"w{n}": n for n in range(60)} | {"[UNK]": 60}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]"})
    )
    changed(folder, text_cfg={"hf_tokenizer_name": "words"})
    refused(folder, "has 61 ids, but the model embeds 40: it is another model's")


@pytest.mark.parametrize(
    "change, match",
    [
        (
            {"audio": {"encoder": {}}},
            "not a Contrastive of image, text, audio",
        ),
        ({"image": {"projection": {"kind": "mlp"}}}, "no form for this image tower: projection"),
        ({"text": {"projection": {"kind": "mlp"}}}, "no text transformer that pools by last"),
        ({"text": {"encoder": {"class_path": "mmlight.encoders.text_cnn.TextCnn"}}}, "TextCnn"),
    ],
)
def test_what_open_clip_has_no_form_for_is_refused(tmp_path, change, match):
    made("ViT", tmp_path / "model")
    _, saved = read_model(tmp_path / "model", key="test")
    towers = saved.description["init_args"]["towers"]
    for name, value in change.items():
        own = towers.get(name, {})
        towers[name] = own | value
        if "class_path" in value.get("encoder", {}):
            towers[name]["encoder"] = own["encoder"] | value["encoder"]
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=match) as caught:
        write_open_clip(tmp_path / "out", saved)
    assert "\n" not in str(caught.value)
    assert not any((tmp_path / "out").iterdir())


def test_a_model_that_differs_is_not_written_as_if_it_did_not(tmp_path):
    made("ViT", tmp_path / "model")
    _, saved = read_model(tmp_path / "model", key="test")
    (tmp_path / "out").mkdir()
    text_config = saved.description["init_args"]["towers"]["text"]["encoder"]["init_args"]["config"]
    text_config["hidden_act"] = "quick_gelu"
    with pytest.raises(UserError, match="one setting, quick_gelu, for both towers"):
        write_open_clip(tmp_path / "out", saved)
    assert open_clip_models.CONFIGS["ViT"]["text_cfg"] is open_clip_models.TEXT
