import io
import json

import numpy as np
import pytest
import torch
import transformers
from hf_models import MODELS, TEXTS, config_of, write_folder, write_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from mmlight.errors import UserError
from mmlight.interop.embedder import Embedder
from mmlight.published.hf.read import read_transformers
from mmlight.published.hf.write import write_transformers
from mmlight.saved.checkpoint import Saved
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.load import build_task, load_task
from mmlight.tasks.tower import Tower, TowerSettings

KINDS = ["clip", "siglip", "siglip2", "clap"]


def picture(side=32):
    y, x = np.mgrid[:side, :side]
    pixels = np.stack([x * 255 / side, y * 255 / side, 128 + 100 * np.sin((x + y) / 9)], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def sound(seconds=0.7):
    time = np.arange(int(seconds * 48_000)) / 48_000
    return (0.5 * np.sin(2 * np.pi * 440 * time * (1 + time))).astype(np.float32)


def read(folder):
    return build_task(read_transformers(folder, key="from"))


def unit(output):
    return torch.nn.functional.normalize(output.pooler_output, dim=-1)


@torch.no_grad()
def their_features(model, folder, kind, texts=TEXTS, side=32):
    """What transformers' own tokenizer, preprocessor and model make of files."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    how = dict(padding="max_length") if kind.startswith("siglip") else dict(padding=True)
    tokens = tokenizer(list(texts), truncation=True, return_tensors="pt", **how)
    known = {"input_ids": tokens["input_ids"]}
    if not kind.startswith("siglip"):  # trained to see padding
        known["attention_mask"] = tokens["attention_mask"]
    features = {"text": unit(model.get_text_features(**known))}
    if kind == "clap":
        extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
        inputs = extractor(sound(), sampling_rate=48_000, return_tensors="pt")
        features["audio"] = unit(model.get_audio_features(**inputs))
    else:
        processor = transformers.AutoImageProcessor.from_pretrained(folder)
        inputs = processor(picture(side), return_tensors="pt")
        features["image"] = unit(model.get_image_features(**inputs))
    return features


def our_features(task, kind, texts=TEXTS, side=32):
    embedder = Embedder(task)
    features = {"text": embedder.texts(list(texts))}
    if kind == "clap":
        features["audio"] = embedder.sounds([(sound(), 48_000)])
    else:
        features["image"] = embedder.images([png(picture(side))])
    return features


def largest_difference(ours, theirs):
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("kind", KINDS)
def test_files_have_the_same_embeddings_as_in_transformers_both_ways(tmp_path, kind):
    model = write_folder(tmp_path / "theirs", kind)
    theirs = their_features(model, tmp_path / "theirs", kind)
    spread = (theirs["text"][:1] - theirs["text"][1:]).abs().max()
    assert spread > 0.05  # else equality says nothing
    task = read(tmp_path / "theirs")
    assert largest_difference(our_features(task, kind), theirs) < 1e-5

    saved = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
    assert write_transformers(tmp_path / "back", saved) == []
    again, report = MODELS[kind].from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys"))
    assert largest_difference(their_features(again.eval(), tmp_path / "back", kind), theirs) < 1e-5
    assert largest_difference(our_features(read(tmp_path / "back"), kind), theirs) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_begins_with_a_folder_as_with_a_run(tmp_path, kind):
    model = write_folder(tmp_path, kind)
    theirs = their_features(model, tmp_path, kind)
    task = Contrastive(from_pretrained=str(tmp_path))
    task.configure_model()
    assert largest_difference(our_features(task.eval(), kind), theirs) < 1e-5
    assert largest_difference(our_features(load_task(tmp_path), kind), theirs) < 1e-5
    settings = TowerSettings(from_run=str(tmp_path))
    tower = Tower(settings, modality="text", embed_dim=None)
    name = "layer.0.output.dense" if kind == "clap" else "layers.0.mlp.fc1"
    taken = tower.encoder.state_dict()[f"model.encoder.{name}.weight"]
    assert torch.equal(taken, model.state_dict()[f"text_model.encoder.{name}.weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_temperature_and_bias_are_the_models(tmp_path, kind):
    model = write_folder(tmp_path, kind)
    learned = read(tmp_path).objective.learned()
    expected = (model.logit_scale_a if kind == "clap" else model.logit_scale).exp()
    torch.testing.assert_close(learned["scale"], expected.detach().reshape(1))
    if kind.startswith("siglip"):
        assert torch.equal(learned["bias"], model.logit_bias.detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["safetensors", "bin", "parts"])
def test_half_precision_and_every_form_of_weights_are_read_as_float32(tmp_path, form, dtype):
    write_folder(tmp_path, "clip")
    whole = tmp_path / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(whole).items()}
    if form == "safetensors":
        save_file(tensors, whole)
    else:
        whole.unlink()
    if form == "bin":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    if form == "parts":
        names = sorted(tensors)
        parts = {"model-1.safetensors": names[:30], "model-2.safetensors": names[30:]}
        for part, of_part in parts.items():
            save_file({name: tensors[name] for name in of_part}, tmp_path / part)
        index = {name: part for part, of_part in parts.items() for name in of_part}
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    model = transformers.CLIPModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    task = read(tmp_path)
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    theirs = their_features(model, tmp_path, "clip")
    assert largest_difference(our_features(task, "clip"), theirs) < 1e-5


def test_a_config_of_an_older_release_is_read(tmp_path):
    model = write_folder(tmp_path, "clip")
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["eos_token_id"] = 2
    config["text_config_dict"] = config.pop("text_config") | {"dropout": 0.0, "top_k": 50}
    config["vision_config_dict"] = config["vision_config"]
    path.write_text(json.dumps(config))
    preprocessor = {"size": 32, "crop_size": 32, "do_center_crop": True, "do_normalize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(tensors, tmp_path / "model.safetensors")
    theirs = their_features(model, tmp_path, "clip")
    assert largest_difference(our_features(read(tmp_path), "clip"), theirs) < 1e-5


def edit(folder, name, change):
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def of_other_kind(folder):
    edit(folder, "config.json", lambda c: c.update(model_type="imagebind"))


def without_type(folder):
    edit(folder, "config.json", lambda c: c.pop("model_type"))


def damaged(folder):
    (folder / "config.json").write_text("{")


def weightless(folder):
    (folder / "model.safetensors").unlink()


def without_projection(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors")


def without_a_layer(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if "layers.1.mlp.fc1" not in name}
    save_file(kept, folder / "model.safetensors")


def with_a_head(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"classifier.weight": torch.zeros(3)}, folder / "model.safetensors")


def without_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def with_a_larger_tokenizer(folder):
    write_tokenizer(folder, "clip", words=[f"w{n}" for n in range(60)])


def with_another_end(folder):
    write_tokenizer(folder, "siglip")


def of_another_size(folder):
    crop = {"height": 48, "width": 48}
    edit(
        folder,
        "preprocessor_config.json",
        lambda c: c.update(size={"shortest_edge": 48}, crop_size=crop),
    )


def outside_its_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "m.safetensors")
    index = {"weight_map": {"a": "../m.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (of_other_kind, "holds a 'imagebind' of transformers; with two towers clip, siglip"),
        (without_type, "config.json names no model_type"),
        (damaged, "config.json cannot be read"),
        (weightless, "has no weights .model.safetensors or pytorch_model.bin"),
        (without_projection, "lacks visual_projection.weight of a CLIPModel"),
        (without_a_layer, "it lacks towers.image.encoder.model.encoder.layers.1.mlp.fc1"),
        (with_a_head, "holds classifier.weight, which a CLIPModel has not"),
        (without_tokenizer, "has no tokenizer"),
        (with_a_larger_tokenizer, "has 66 ids, but its text tower embeds 40"),
        (with_another_end, "ends texts with id 2, but its text tower reads .* at id 5"),
        (of_another_size, "makes images of 48 pixels, but its image tower takes 32"),
        (outside_its_folder, "lacks '../m.safetensors', a part of its weights"),
    ],
)
def test_bad_folders_get_one_line(tmp_path, spoil, message):
    folder = tmp_path / "model"
    write_folder(folder, "clip")
    spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def change_pool(arguments):
    arguments["towers"]["text"]["encoder"]["init_args"]["pool"] = "mean"


def change_projection(arguments):
    arguments["towers"]["image"]["projection"] = "mlp"


def change_pieces(arguments):
    arguments["towers"]["image"]["pieces"] = "attention"


def change_objective(arguments):
    arguments["objective"]["class_path"] = "mmlight.objectives.siglip.SigLip"


def change_tower(arguments):
    arguments["towers"]["image"]["encoder"]["class_path"] = "mmlight.encoders.timm_image.TimmImage"
    arguments["towers"]["image"]["encoder"]["init_args"] = {"name": "resnet18"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_pool, "a CLIPModel whose text tower pools by 'mean'; it pools by 'last'"),
        (
            change_projection,
            "a CLIPModel whose image projection has kind: mlp; it has kind: linear",
        ),
        (change_pieces, "a CLIPModel whose image tower attends to frames"),
        (change_objective, "a CLIPModel with the objective SigLip"),
        (change_tower, "these towers .image: TimmImage and text: clip_text_model"),
    ],
)
def test_what_transformers_has_no_form_for_is_refused_and_not_written(tmp_path, change, message):
    write_folder(tmp_path / "theirs", "clip")
    task = read(tmp_path / "theirs")
    description = task.rebuild_description()
    change(description["init_args"])
    saved = Saved(description, task.preprocessing, task.state_dict())
    with pytest.raises(UserError, match=f"transformers has no form for {message}"):
        write_transformers(tmp_path / "back", saved)
    assert not (tmp_path / "back").exists()


def test_a_tokenizer_of_bytes_has_no_form_and_cleaning_is_told(tmp_path):
    write_folder(tmp_path / "theirs", "clip")
    task = read(tmp_path / "theirs")
    text = task.preprocessing["text"] | {"clean": "clip"}
    saved = Saved(
        task.rebuild_description(), task.preprocessing | {"text": text}, task.state_dict()
    )
    (note,) = write_transformers(tmp_path / "back", saved)
    assert "data.text.clean: clip" in note
    text["tokenizer"] = {"kind": "byte"}
    with pytest.raises(UserError, match="has no form for a ByteTokenizer"):
        write_transformers(tmp_path / "again", saved)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_default_sizes_have_the_same_embeddings_both_ways(tmp_path, kind):
    default = type(config_of(kind))()
    for part in ("text_config", "vision_config", "audio_config"):
        if hasattr(default, part):
            setattr(default, part, type(getattr(default, part))())
    if kind == "clip":
        default.text_config.eos_token_id = 5
    side = 256 if kind == "siglip2" else 224
    model = write_folder(tmp_path / "theirs", kind, config=default)
    write_tokenizer(tmp_path / "theirs", kind, most=64)
    theirs = their_features(model, tmp_path / "theirs", kind, side=side)
    task = read(tmp_path / "theirs")
    ours = largest_difference(our_features(task, kind, side=side), theirs)
    saved = Saved(task.rebuild_description(), task.preprocessing, task.state_dict())
    write_transformers(tmp_path / "back", saved)
    again = MODELS[kind].from_pretrained(tmp_path / "back").eval()
    back = largest_difference(their_features(again, tmp_path / "back", kind, side=side), theirs)
    print(f"{kind}: {ours:.1e} read, {back:.1e} written and read by transformers")
    assert max(ours, back) < 1e-5
