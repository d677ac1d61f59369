"""Models of transformers with random weights, in folders with tokenizer and preprocessor."""

import json

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SIZES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
VISION = dict(**SIZES, image_size=32, patch_size=8)
TEXT = dict(**SIZES, vocab_size=40, max_position_embeddings=12)
WORDS = "a the photo of red blue green circle square star dog cat barks rain falls".split()
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
TEXTS = ["a photo of the red star", "rain", "the dog barks a dog barks", "blue unheard circle"]


def config_of(kind):
    if kind == "clip":
        ids = dict(pad_token_id=0, bos_token_id=4, eos_token_id=5)
        return transformers.CLIPConfig(
            vision_config=VISION, text_config=TEXT | ids, projection_dim=24
        )
    if kind == "siglip":
        text = TEXT | dict(projection_size=16)
        return transformers.SiglipConfig(vision_config=VISION, text_config=text)
    if kind == "siglip2":
        vision = dict(**SIZES, num_patches=16, patch_size=8)
        text = TEXT | dict(projection_size=16)
        return transformers.Siglip2Config(vision_config=vision, text_config=text)
    audio = dict(
        **dict(patch_embeds_hidden_size=8, depths=[1, 1], num_attention_heads=[2, 2]),
        **dict(hidden_size=16, num_mel_bins=64, spec_size=256, num_hidden_layers=2),
    )
    text = TEXT | dict(max_position_embeddings=14)
    return transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=24)


MODELS = {
    "clip": transformers.CLIPModel,
    "siglip": transformers.SiglipModel,
    "siglip2": transformers.Siglip2Model,
    "clap": transformers.ClapModel,
}


def preprocessor_of(kind, config):
    side = getattr(getattr(config, "vision_config", None), "image_size", 32)
    if kind == "clip":
        crop = {"height": side, "width": side}
        return transformers.CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop)
    if kind == "siglip":
        return transformers.SiglipImageProcessor(size={"height": side, "width": side})
    if kind == "siglip2":
        vision = config.vision_config
        return transformers.Siglip2ImageProcessor(
            patch_size=vision.patch_size, max_num_patches=vision.num_patches
        )
    return transformers.ClapFeatureExtractor(truncation="rand_trunc", max_length_s=1)


def write_tokenizer(folder, kind, *, words=WORDS, most=12):
    """A word a token; CLIP's end token has another id, since 2 is a sign of old releases."""
    specials = [*SPECIALS, "<start>", "<end>"]
    if kind == "siglip2":  # of whose class transformers splits at no space
        words = [*"abcdefghijklmnopqrstuvwxyz", "\N{LOWER ONE EIGHTH BLOCK}"]
    start, end = ("<start>", "<end>") if kind == "clip" else ("<s>", "</s>")
    vocabulary = {word: number for number, word in enumerate([*specials, *words])}
    if kind == "siglip2":
        tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
        tokenizer.normalizer = normalizers.Replace(" ", words[-1])
    else:
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(specials)
    both = [(start, vocabulary[start]), (end, vocabulary[end])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=both
    )
    # What RoBERTa counts its positions from.
    pad = "<s>" if kind == "clap" else "<pad>"
    said = dict(bos_token=start, eos_token=end, pad_token=pad, unk_token="<unk>")
    said |= dict(tokenizer_class="PreTrainedTokenizerFast", model_max_length=most)
    said |= dict(padding_side="right")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def write_folder(folder, kind, *, config=None):
    """Write a folder; return the model, in evaluation mode."""
    torch.manual_seed(0)
    config = config or config_of(kind)
    model = MODELS[kind](config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "logit" in name:  # zero, where a bug would not show
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.dim() > 1:  # else all features are nearly equal
                parameter.mul_(3)
    model.save_pretrained(folder)
    write_tokenizer(folder, kind)
    preprocessor_of(kind, config).save_pretrained(folder)
    return model
