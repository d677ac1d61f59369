"""A tiny model of every task, as training would leave it, with files to predict on."""

import io
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning
import numpy as np
import soundfile
import torch
from PIL import Image
from tasks import tiny

from mmlight.batch import Batch, Text
from mmlight.data.decode.audio import AudioSettings
from mmlight.data.decode.image import ImageSettings
from mmlight.data.masking import Masking
from mmlight.data.members import Members
from mmlight.data.module import ShardDataModule
from mmlight.data.splits.split import Split
from mmlight.data.text import TextSettings
from mmlight.decoders.coca_decoder import CocaDecoder
from mmlight.decoders.hf_decoder import HfDecoder
from mmlight.decoders.sampling import Sampling
from mmlight.decoders.transformer_decoder import TransformerDecoder
from mmlight.encoders.hf_text import HfText
from mmlight.encoders.lora import LoraSettings
from mmlight.encoders.mel import LogMelSettings
from mmlight.encoders.mel_gru import MelGru
from mmlight.encoders.timm_image import TimmImage
from mmlight.encoders.vq_image import VqImage
from mmlight.heads.box_query import BoxQuery
from mmlight.heads.dense_boxes import DenseBoxes
from mmlight.heads.fusion import TransformerFusion
from mmlight.objectives.labels import BinaryCrossEntropy
from mmlight.tasks.answering import Answering
from mmlight.tasks.attributes import Attributes
from mmlight.tasks.captioning import Captioning
from mmlight.tasks.causal_language import CausalLanguage
from mmlight.tasks.classification import Classification
from mmlight.tasks.coca import Coca
from mmlight.tasks.contrastive import Contrastive
from mmlight.tasks.detection import Detection
from mmlight.tasks.discrete_codes import DiscreteCodes
from mmlight.tasks.masked_language import MaskedLanguage
from mmlight.tasks.multimodal_decoder import MultimodalDecoder
from mmlight.tasks.preference import Preference
from mmlight.tasks.tagging import Tagging
from mmlight.tasks.task import Task
from mmlight.tasks.text_to_image import TextToImage
from mmlight.tasks.tower import Towers, TowerSettings
from mmlight.tasks.transcription import Transcription
from mmlight.tasks.tuning import Tuning
from mmlight.text.saved_tokenizer import tokenizer_from_state
from mmlight.text.tokenizer import ByteTokenizer, CharTokenizer

NAMES = ["cat", "dog", "owl"]
BERT = {
    "model_type": "bert",
    "vocab_size": 260,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
_IMAGE = ImageSettings(size=16)
_AUDIO = AudioSettings(sample_rate_hz=8000, max_seconds=1.0)
_BYTES = TextSettings(ByteTokenizer(), max_tokens=48)


def text_tower() -> TowerSettings:
    return TowerSettings(encoder=partial(HfText, config=BERT))


def three() -> Towers:
    return replace(tiny.towers(), text=text_tower())


def contrastive() -> tuple[Task, dict]:
    task = Contrastive(towers=three(), embed_dim=8)
    return task, _data("image", "text", "audio")


def image_classes() -> tuple[Task, dict]:
    task = Classification(towers=Towers(image=tiny.towers().image))
    return task, _data("image", class_names=NAMES)


def several_labels() -> tuple[Task, dict]:
    towers = Towers(audio=tiny.towers().audio)
    task = Classification(towers=towers, objective=BinaryCrossEntropy, label_field="labels")
    return task, _data("audio", class_names=NAMES)


def fusion() -> tuple[Task, dict]:
    joined = partial(TransformerFusion, fusion_dim=8, fusion_heads=2)
    return Classification(towers=three(), fusion=joined), _data(
        "image", "text", "audio", class_names=NAMES
    )


def late_fusion() -> tuple[Task, dict]:
    return Classification(towers=replace(three(), audio=None)), _data(
        "image", "text", class_names=NAMES
    )


def tagging() -> tuple[Task, dict]:
    task = Tagging(towers=Towers(text=text_tower()), types=["place"])
    return task, _data("text", text=TextSettings(ByteTokenizer(), max_tokens=48, offsets=True))


def masked() -> tuple[Task, dict]:
    task = MaskedLanguage(towers=Towers(text=text_tower()))
    return task, _data("text", text=replace(_BYTES, masking=Masking()))


def transcription() -> tuple[Task, dict]:
    encoder = partial(
        MelGru,
        mel=LogMelSettings(sample_rate_hz=8000, n_mels=16),
        channels=4,
        dim=16,
        layers=1,
    )
    task = Transcription(towers=Towers(audio=TowerSettings(encoder=encoder)))
    return task, _data("audio", "text", text=TextSettings(CharTokenizer("abc ")))


def detection() -> tuple[Task, dict]:
    net = dict(stem_width=8, channels=(8, 8, 8, 8))
    towers = Towers(image=TowerSettings(encoder=partial(TimmImage, "resnet10t", kwargs=net)))
    task = Detection(towers=towers, head=partial(DenseBoxes, dim=8, num_convs=1), least_score=0.0)
    image = ImageSettings(size=64, train_crop="fit", eval_crop="fit")
    return task, _data("image", image=image, class_names=NAMES)


def queries() -> tuple[Task, dict]:
    net = dict(stem_width=8, channels=(8, 8, 8, 8))
    towers = Towers(image=TowerSettings(encoder=partial(TimmImage, "resnet10t", kwargs=net)))
    head = partial(BoxQuery, dim=16, num_queries=10, num_layers=2, num_heads=2, ffn_dim=16)
    image = ImageSettings(size=64, train_crop="fit", eval_crop="fit")
    return Detection(towers=towers, head=head, least_score=0.0), _data(
        "image", image=image, class_names=NAMES
    )


def adapted() -> tuple[Task, dict]:
    tuning = Tuning(method="lora", lora=LoraSettings(rank=2))
    task = Classification(towers=Towers(text=text_tower()), tuning=tuning)
    return task, _data("text", class_names=NAMES)


def decoder(**settings) -> TowerSettings:
    sizes = dict(vocab_size=260, dim=16, num_layers=2, num_heads=2, max_tokens=96, dropout=0.0)
    return TowerSettings(encoder=partial(TransformerDecoder, **sizes | settings))


def captions() -> tuple[Task, dict]:
    towers = Towers(image=tiny.towers().image, text=decoder(memory_dim=12))
    task = Captioning(towers=towers, token_dropout=0.0, sampling=Sampling(max_new_tokens=5))
    return task, _data("image", "text")


def sound_captions() -> tuple[Task, dict]:
    towers = Towers(audio=tiny.towers().audio, text=decoder())
    short = Sampling(max_new_tokens=5)
    task = Captioning(towers=towers, by="prefix", token_dropout=0.0, sampling=short)
    return task, _data("audio", "text")


def answering() -> tuple[Task, dict]:
    joined = partial(TransformerFusion, fusion_dim=8, fusion_heads=2, fusion_positions=8)
    task = Answering(towers=replace(three(), audio=None), fusion=joined)
    return task, _data("image", "text", class_names=NAMES)


def multimodal() -> tuple[Task, dict]:
    towers = replace(three(), text=decoder(max_tokens=128))
    return MultimodalDecoder(towers=towers), _data("image", "text", "audio")


def multimodal_memory() -> tuple[Task, dict]:
    towers = Towers(image=tiny.towers().image, text=decoder(memory_dim=12))
    return MultimodalDecoder(towers=towers), _data("image", "text")


def coca() -> tuple[Task, dict]:
    sizes = dict(vocab_size=260, dim=16, num_layers=2, num_heads=2, max_tokens=96, dropout=0.0)
    reads = partial(CocaDecoder, unimodal_layers=1, memory_dim=16, **sizes)
    towers = Towers(image=tiny.towers().image, text=TowerSettings(encoder=reads))
    short = Sampling(max_new_tokens=5)
    task = Coca(towers=towers, embed_dim=8, token_dropout=0.0, sampling=short, predicts="captions")
    return task, _data("image", "text")


def attributes() -> tuple[Task, dict]:
    values = {"size": ["small", "large"], "shape": ["disc", "ring", "star"]}
    towers = Towers(image=tiny.towers().image)
    return Attributes(towers=towers, target="what", names=list(values), values=values), _data(
        "image"
    )


def codes_tower(**settings) -> TowerSettings:
    encoder = partial(VqImage, size=16, grid=4, num_codes=8, code_dim=4, channels=4)
    return TowerSettings(encoder=encoder, **settings)


def discrete_codes() -> tuple[Task, dict]:
    return DiscreteCodes(towers=Towers(image=codes_tower())), _data("image")


def text_to_image() -> tuple[Task, dict]:
    decoder = partial(
        TransformerDecoder,
        vocab_size=270,  # bytes, two marks, eight codes
        dim=16,
        num_layers=2,
        num_heads=2,
        max_tokens=66,
        dropout=0.0,
    )
    towers = Towers(image=codes_tower(locked=True), text=TowerSettings(encoder=decoder))
    return TextToImage(towers=towers, text_weight=0.5, image_first=0.3), _data("image", "text")


def language() -> tuple[Task, dict]:
    config = {"model_type": "llama", "vocab_size": 260, "hidden_size": 16, "head_dim": 8}
    sizes = {"intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = partial(HfDecoder, config={**config, **sizes, "max_position_embeddings": 64})
    towers = Towers(text=TowerSettings(encoder=encoder))
    return CausalLanguage(towers=towers, sampling=Sampling(max_new_tokens=4)), _data("text")


def preference() -> tuple[Task, dict]:
    towers = Towers(text=decoder())
    return Preference(towers=towers, sampling=Sampling(max_new_tokens=4)), _data("text")


EVERY = {
    f.__name__: f
    for f in (
        contrastive, image_classes, several_labels, fusion, late_fusion, tagging, transcription,
        detection, queries, adapted, captions, sound_captions, masked,
        answering, multimodal, multimodal_memory, coca, attributes,
        discrete_codes, text_to_image, language, preference,
    )
}  # fmt: skip


# Those of language and generation.
OF_TOKENS = (
    "captions", "sound_captions", "masked", "answering", "multimodal", "multimodal_memory",
    "coca", "discrete_codes", "text_to_image", "language", "preference",
)  # fmt: skip
# Their answers are no function of tensors alone.
WITHOUT_GRAPH = ("text_to_image",)


def _data(*modalities, **settings):
    members = {"image": "png", "text": "txt", "audio": "wav"}
    defaults = {"image": _IMAGE, "audio": _AUDIO, "text": _BYTES}
    return {
        "members": Members(**{name: members[name] for name in modalities}),
        **{name: defaults[name] for name in modalities},
        "train": Split("unused"),
        "num_workers": 0,
        **settings,
    }


def make(name: str) -> Task:
    """Build a task with weights that differ from those of a fresh one."""
    torch.manual_seed(1)
    task, given = EVERY[name]()
    task.preprocessing = ShardDataModule(**given).preprocessing()
    task.configure_model()
    with torch.no_grad():
        for tensor in task.state_dict().values():
            if tensor.is_floating_point():
                tensor += 0.02 * torch.randn_like(tensor).abs()
    return task.eval()


def save(task: Task, path: Path) -> Path:
    """Write the checkpoint that a trainer would write."""
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=path.parent
    )
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return path


def text_batch(task: Task) -> Batch:
    """Return a batch of texts, as the task's data prepares them."""
    text = task.preprocessing["text"]
    encoding = tokenizer_from_state(text["tokenizer"]).encode_batch(
        ["a cat", "two dogs and an owl"], max_tokens=text["max_tokens"]
    )
    ids, mask = torch.from_numpy(encoding.ids_NL), torch.from_numpy(encoding.mask_NL)
    rows = torch.arange(2)
    here = torch.ones(2, dtype=torch.bool)
    return Batch(rows, ["0", "1"], 0, 0, here, text=Text(ids, mask, here, rows, rows))


def write_files(folder: Path, count: int = 4) -> Path:
    """Write pictures, sounds and texts; a sample's three share their name."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(3)
    for number in range(count):
        pixels = draws.integers(0, 256, (20 + number, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        wave = 0.3 * np.sin(np.arange(2000 + 900 * number) * (0.1 + 0.05 * number))
        sound = io.BytesIO()
        soundfile.write(sound, wave, 8000, format="WAV")
        (folder / f"{number}.wav").write_bytes(sound.getvalue())
        (folder / f"{number}.txt").write_text(f"Anna saw {number} dogs in Paris")
    return folder
