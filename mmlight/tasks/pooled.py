"""The base of tasks that answer with one vector per sample, from any set of towers.

Shapes as in `mmlight.batch`: B samples, L tokens, D feature width, K outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmlight.batch import Batch
from mmlight.errors import UserError
from mmlight.heads.fusion import Fusion, LateFusion
from mmlight.heads.pooled import PooledHead, PooledHeadSettings
from mmlight.modality import Modality
from mmlight.tasks.task import Task
from mmlight.tasks.tower import Towers, check_pooled

# What a fusion takes, by modality: tokens (B, L, D), their mask (B, L), who has it (B,).
Features = dict[Modality, tuple[Tensor, Tensor, Tensor]]


class PooledTask(Task):
    """Joins the features of one or more towers and puts a head on them.

    Args:
        towers: the encoders; one or more.
        fusion: how several towers are joined, `mmlight.heads.fusion.LateFusion` or
            `TransformerFusion`; None is late fusion.
        head: the layers behind the features.
        settings: of every task, see `mmlight.tasks.task.Task`.
    """

    def __init__(
        self,
        *,
        towers: Towers,
        fusion: Callable[[], Fusion] | None = None,
        head: PooledHeadSettings = PooledHeadSettings(),  # noqa: B008  (never mutated)
        **settings: Any,
    ) -> None:
        super().__init__(towers=towers, **settings)
        names = list(towers.given())
        if not names:
            what = type(self).__name__.lower()
            raise UserError(f"model.towers is empty; {what} needs one of image, text, audio")
        if fusion is not None and len(names) == 1:
            raise UserError(f"model.fusion has no effect with the {names[0]} tower alone")
        self._make_fusion = fusion or LateFusion
        self.head_settings = head

    def build_pooled(self, *, out_dim: int) -> None:
        """Create the towers, their fusion and the head.

        Args:
            out_dim: number of outputs, K.
        """
        self.build_towers()
        given = self.tower_settings.given()
        dims = {name: self.tower(name).encoder.out_dim for name in given}
        self.fusion: Fusion | None = None
        if len(given) > 1:
            self.fusion = self._make_fusion()
            if self.fusion.takes_tokens:
                dims = {
                    name: self.tower(name).encoder.token_dim or dim for name, dim in dims.items()
                }
            self.fusion.build(dims)
        if not self.takes_tokens:
            for name in given:
                check_pooled(self.tower(name).encoder)
        in_dim = self.fusion.fusion_dim if self.fusion is not None else next(iter(dims.values()))
        self.head = PooledHead(self.head_settings, in_dim=in_dim, num_classes=out_dim)

    @property
    def takes_tokens(self) -> bool:
        """Whether what stands behind the towers reads their tokens, not one vector of each."""
        return self.fusion is not None and self.fusion.takes_tokens

    @property
    def takes_pieces(self) -> bool:
        """Whether samples may have several images or sounds; tokens of several aren't pooled."""
        return not self.takes_tokens

    def after_step(self) -> None:
        """Keep the head's weights within its `max_norm`."""
        self.head.after_step()

    def features(self, batch: Batch) -> Features:
        """Encode what a batch carries, one text per sample."""
        return self.encoded(batch.with_first_text())

    def encoded(self, batch: Batch) -> Features:
        """Encode what a batch carries: images and sounds of B samples, N texts."""
        wants_tokens = self.takes_tokens
        found: Features = {}
        for name in self.tower_settings.given():
            part = getattr(batch, name)
            if part is None:
                continue
            if wants_tokens:
                encoded = self.tower(name).encoder(part, tokens=True)
                tokens_BLD, mask_BL = encoded.tokens_BLD, encoded.mask_BL
            else:
                tokens_BLD = self.tower(name).pooled(part)[:, None]
                mask_BL = torch.ones_like(tokens_BLD[..., 0], dtype=torch.bool)
            found[name] = (tokens_BLD, mask_BL, batch.present(name))
        if not found:
            raise UserError(
                f"the data has none of the modalities of the model: "
                f"{', '.join(self.tower_settings.given())}"
            )
        return found

    def head_outputs(
        self, features: Features, *, only: tuple[Modality, ...] | None = None
    ) -> Tensor:
        """Return the head's outputs (B, K).

        Args:
            features: as `features` returns them.
            only: the modalities that may be used; None means all.
        """
        if self.fusion is None:
            ((tokens_B1D, _, _),) = features.values()
            outputs_BK: Tensor = self.head(tokens_B1D[:, 0])
            return outputs_BK
        size = next(iter(features.values()))[2].shape[0]
        tokens, masks, present = {}, {}, {}
        for name in self.tower_settings.given():
            if name in features:
                tokens[name], masks[name], present[name] = features[name]
            else:  # the data as a whole lacks it
                dim = self.fusion.dims[name]
                tokens[name] = torch.zeros(size, 1, dim, device=self.device)
                masks[name] = torch.ones(size, 1, dtype=torch.bool, device=self.device)
                present[name] = torch.zeros(size, dtype=torch.bool, device=self.device)
            if only is not None and name not in only:
                present[name] = torch.zeros_like(present[name])
        outputs_BK = self.head(self.fusion(tokens, masks, present))
        return outputs_BK
