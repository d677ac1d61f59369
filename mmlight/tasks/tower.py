"""A tower: an encoder and its projection into the joint space."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mmlight.batch import Text
from mmlight.decoders.decoder import Decoder
from mmlight.encoders.encoder import Encoder
from mmlight.encoders.pool import PiecePool, Pooling
from mmlight.errors import UserError
from mmlight.modality import MODALITIES, Modality
from mmlight.tasks.projection import Kind, ProjectionSettings, projection_settings
from mmlight.tasks.source import Source, load_encoder, load_part, read_source

# What the data's settings call several inputs of one sample.
PIECES = {"image": "frames", "audio": "windows"}


@dataclass
class TowerSettings:
    """How one modality is encoded.

    Attributes:
        encoder: the backbone (a class of `mmlight.encoders` and its settings); left out, it is
            that of `from_run`, or of the task's `from_pretrained`.
        from_run: take the encoder's weights (and the projection's, where it is the same) from this
            run folder, checkpoint, exported folder, or model of open_clip or transformers.
        changes: settings of the encoder that is taken so that are other than there, such as
            ``{spec_augment: {time_masks: 2}}`` or ``{drop_path_rate: 0.1}``; mappings are merged.
            With another image size (``img_size``, or ``config: {image_size: ...}`` of transformers)
            learned position embeddings are resized.
        projection: maps the encoder's features to the joint width: ``linear``, ``mlp``, ``none``,
            or more of its settings; by default that of the task's `from_pretrained`, else linear.
            Tasks with a head of their own have no projection.
        pieces: how the features of a sample's frames (`data.image.frames`) or windows of sound
            (`data.audio.windows`) become one: their ``mean`` (of windows weighted by their
            length), or ``attention`` of a learned query; by default that of `from_run`, or of the
            task's `from_pretrained`, else the mean.
        locked: keep the encoder as it is, in evaluation mode and without gradients (LiT,
            arXiv 2111.07991). The projection still learns.
        checkpointing: recompute the encoder's blocks in backward: less memory, about a third
            more time.
    """

    outside: ClassVar[tuple[str, ...]] = ("from_run", "changes")  # see `Encoder.outside`

    encoder: Callable[[], Encoder] | None = None
    from_run: str | None = None
    changes: dict[str, Any] | None = None
    projection: ProjectionSettings | Kind | None = None
    pieces: Pooling | None = None
    locked: bool = False
    checkpointing: bool = False


@dataclass
class Towers:
    """The towers of a model; those left out do not exist.

    Attributes:
        image: the image tower.
        text: the text tower.
        audio: the audio tower.
    """

    image: TowerSettings | None = None
    text: TowerSettings | None = None
    audio: TowerSettings | None = None

    def given(self) -> dict[Modality, TowerSettings]:
        """Return the towers that exist, in the order image, text, audio."""
        return {name: getattr(self, name) for name in MODALITIES if getattr(self, name)}

    def check_only(self, modality: Modality, *, task: str) -> None:
        """Raise UserError, naming the task, unless there is one tower, of this modality."""
        if list(self.given()) != [modality]:
            named = ", ".join(self.given()) or "none"
            raise UserError(f"model.towers names {named}; {task} takes exactly one, {modality}")


class Tower(nn.Module):
    """An encoder and its projection.

    Args:
        settings: what to build.
        modality: which modality the tower is for.
        embed_dim: width D of the joint space; None builds no projection.
        source: what the task's `from_pretrained` has for it.

    Attributes:
        out_dim: width of what it returns.
        source: what its weights were taken from, or None.
        preparation: how its inputs are prepared, as far as encoder and source know (see
            `Encoder.preparation`).

    Raises:
        UserError: an encoder of another modality, `projection: none` with unequal widths, a
            projection for a task that has none, or a run that does not fit.
    """

    def __init__(
        self,
        settings: TowerSettings,
        *,
        modality: Modality,
        embed_dim: int | None,
        source: Source | None = None,
    ) -> None:
        super().__init__()
        where = f"model.towers.{modality}"
        if settings.changes and (
            (settings.from_run is None and source is None) or settings.encoder is not None
        ):
            raise UserError(
                f"{where}.changes: has an effect only on the encoder that from_run brings; here "
                f"{'encoder is set: change that' if settings.encoder else 'there is no from_run'}"
            )
        key = "model.from_pretrained"
        if settings.from_run:
            key = f"{where}.from_run"
            source = read_source(settings.from_run, modality, changes=settings.changes)
        self.source = source
        if settings.encoder is not None:
            encoder = settings.encoder()
        elif self.source is not None:
            encoder = self.source.encoder
        else:
            raise UserError(f"{where} has neither an encoder nor from_run; give one of them")
        if encoder.modality != modality:
            raise UserError(
                f"{where}.encoder: {type(encoder).__name__} encodes {encoder.modality}, "
                f"not {modality}"
            )
        if self.source is not None:
            if encoder is not self.source.encoder:
                load_encoder(encoder, self.source, key=key)
            encoder.is_pretrained = True
        if embed_dim is not None:
            check_pooled(encoder)
        self.encoder = encoder
        self.preparation = _preparation(encoder, self.source)
        if embed_dim is None:
            if projection_settings(settings.projection) != ProjectionSettings():
                raise UserError(f"{where}.projection has no effect: this task has a head instead")
            self.projection: nn.Module = nn.Identity()
        else:
            self.projection = projection_settings(settings.projection).build(
                encoder.out_dim, embed_dim=embed_dim, where=where
            )
        self.out_dim = encoder.out_dim if embed_dim is None else embed_dim
        self.loaded_projection = self.source is not None and load_part(
            self.projection, self.source.projection
        )
        kind = settings.pieces
        if modality == "text" and kind is not None:
            raise UserError(f"{where}.pieces has no effect: a text is in one piece")
        if kind is None:
            kind = "attention" if self.source is not None and self.source.piece_pool else "mean"
        self.piece_pool = PiecePool(encoder.out_dim, kind=kind)
        if self.source is not None:
            load_part(self.piece_pool, self.source.piece_pool)
        self.locked = settings.locked
        if settings.checkpointing:
            if settings.locked:
                raise UserError(
                    f"{where}.checkpointing has no effect on a locked tower; set one of the two"
                )
            encoder.set_checkpointing(True)
        if settings.locked:
            encoder.requires_grad_(False)
            encoder.eval()

    def forward(self, inputs: Any) -> Tensor:
        """Return projected features (B, D), or (N, D) for captions; not normalised."""
        features_BD: Tensor = self.projection(self.pooled(inputs))
        return features_BD

    def pooled(self, inputs: Any) -> Tensor:
        """Return the encoder's features (B, D), one of all pieces of a sample."""
        pooled_BD = self.encoder(inputs).pooled_BD
        if isinstance(inputs, Text):
            return pooled_BD
        together_BD: Tensor = self.piece_pool(pooled_BD, inputs.pieces, inputs.size)
        return together_BD

    def train(self, mode: bool = True) -> "Tower":
        """Set the training mode; a locked encoder stays in evaluation mode."""
        super().train(mode)
        if self.locked:
            self.encoder.eval()
        return self

    def compile_blocks(self) -> None:
        """Compile each repeated block in place; names in the state dict stay as they are."""
        for block in self.encoder.blocks():
            if block.repeated:
                for module in block.modules:
                    module.compile()


# What of an earlier run's settings holds for whatever is put into its tower; others (augmentation,
# the longest clip) are that run's own.
_OF_TOWER = (
    "size",
    "channels",
    "eval_crop",
    "interpolation",
    "crop_pct",
    "crop_offset",
    "sample_rate_hz",
    "tokenizer",
)
# What holds for a tower that begins where another model ended, and goes on with its data's kind.
_OF_TEXT = ("max_tokens", "clean")
_OF_MODEL = (*_OF_TOWER, *_OF_TEXT, "max_seconds")


def _preparation(encoder: Encoder, source: Source | None) -> Mapping[str, Any]:
    own = {name: value for name, value in encoder.preparation().items() if value is not None}
    if source is None:
        return own
    names = _OF_MODEL if source.is_whole else _OF_TOWER
    kept = {name: source.preparation[name] for name in names if name in source.preparation}
    if source.is_whole and "tokenizer" in kept:
        kept["is_required"] = True  # another one's ids would mean other words
    # With an encoder of the user's own (another size, say), it counts more.
    return {name: value for name, value in kept.items() if value is not None} | own


def has_pieces(data: Any, modality: Modality) -> bool:
    """Tell whether samples may have several images or sounds, by a data module's settings."""
    settings = getattr(data, modality, None)
    return getattr(settings, PIECES.get(modality, ""), None) is not None


def kept_preparation(kept: Any) -> dict[str, Any]:
    """Return what of a checkpoint's own settings of a modality holds for its model elsewhere."""
    if not isinstance(kept, Mapping):
        return {}
    names = (*_OF_TOWER, *_OF_TEXT)
    return {name: kept[name] for name in names if kept.get(name) is not None}


def check_pooled(encoder: Encoder) -> None:
    """Raise UserError where an encoder gives no vector per sample."""
    if not encoder.has_pooled:
        raise UserError(
            f"model.towers.{encoder.modality}.encoder: a {type(encoder).__name__} gives tokens, "
            "and no vector for a sample as a whole, which this task needs"
        )


def check_decoder(encoder: Encoder) -> Decoder:
    """Return the text tower's encoder; raise UserError where it is no decoder."""
    if not isinstance(encoder, Decoder):
        raise UserError(
            f"model.towers.text.encoder: a {type(encoder).__name__} sees what comes after a word, "
            "so that it can't say what comes next; use a decoder, such as "
            "mmlight.decoders.hf_decoder.HfDecoder or "
            "mmlight.decoders.transformer_decoder.TransformerDecoder"
        )
    return encoder


def check_tower_fits(encoder: Any, preprocessing: dict[str, Any]) -> None:
    """Raise UserError where the data's settings and an encoder disagree.

    Args:
        encoder: an encoder of `mmlight.encoders`.
        preprocessing: what the data module says of itself: plain settings by modality, or None
            for a modality that the data lacks.
    """
    modality: Modality = encoder.modality
    settings = preprocessing.get(modality)
    where = f"model.towers.{modality}"
    if settings is None:
        raise UserError(
            f"{where} is set, but the data has no {modality}; name the member in "
            f"data.members.{modality}, or leave the tower out"
        )
    if modality == "text":
        # A published model's tokenizer may not be at hand.
        have, need = int(encoder.vocab_size), int(settings.get("vocab_size") or 0)
        if need > have:
            raise UserError(
                f"{where}.encoder has an embedding table of {have} tokens, but the tokenizer "
                f"gives {need}; set its vocab_size to {need} or more"
            )
        limit = getattr(encoder, "max_tokens", None)
        if limit is not None and settings["max_tokens"] > limit:
            raise UserError(
                f"data.text.max_tokens is {settings['max_tokens']}, but {where}.encoder has "
                f"positions for {limit}; lower the first or raise the second"
            )
    if modality == "audio" and settings["sample_rate_hz"] != encoder.sample_rate_hz:
        raise UserError(
            f"data.audio.sample_rate_hz is {settings['sample_rate_hz']}, but {where}.encoder "
            f"wants {encoder.sample_rate_hz}; set the first to {encoder.sample_rate_hz}"
        )
    if modality == "image":
        channels = getattr(encoder, "in_chans", settings["channels"])
        if settings["channels"] != channels:
            raise UserError(
                f"data.image.channels is {settings['channels']}, but {where}.encoder takes "
                f"{channels} (in_chans); make them equal"
            )
