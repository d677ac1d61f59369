"""The contract of detection heads.

Shapes as in `mmlight.batch`: B samples, G boxes; Q candidates, K classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from mmlight.batch import Boxes


@dataclass(frozen=True)
class Candidates:
    """What a head found, best first, before overlapping ones are removed.

    Attributes:
        xyxy_BQ4: corners in pixels of the padded image, float32.
        score_BQ: from 0 to 1; 0 for a place that holds no candidate.
        label_BQ: int64 class numbers.
    """

    xyxy_BQ4: Tensor
    score_BQ: Tensor
    label_BQ: Tensor


class BoxHead(nn.Module, ABC):
    """Finds objects in the feature maps of an image tower.

    Attributes:
        kind: what it returns, which an objective must understand.
        needs_nms: whether several candidates may stand for one object.
        uses: strides of the tower's maps that it looks at, once it is built.
    """

    kind: ClassVar[Literal["dense", "query"]]
    needs_nms: ClassVar[bool]
    uses: tuple[int, ...]

    @abstractmethod
    def build(self, *, in_dims: Sequence[int], in_strides: Sequence[int], num_classes: int) -> None:
        """Create the parameters, now that the tower and the classes are known.

        Args:
            in_dims: channels of the tower's maps, finest first.
            in_strides: their strides in pixels.
            num_classes: number of classes K.

        Raises:
            UserError: settings that don't suit these maps.
        """

    @abstractmethod
    def forward(
        self,
        maps: Sequence[Tensor],
        *,
        area_B2: Tensor,
        canvas: tuple[int, int],
        boxes: Boxes | None,
    ) -> Any:
        """Return what the objective of this `kind` takes.

        Args:
            maps: the tower's maps of the strides `uses`, finest first, (B, C, H, W).
            area_B2: height and width of the real pixels of each image.
            canvas: height and width of the padded images.
            boxes: the objects, in training (a head may learn from noised copies of them).
        """

    @abstractmethod
    def scored_boxes(self, outputs: Any) -> tuple[Tensor, Tensor]:
        """Return all boxes, as those of `Candidates`, and their scores (B, Q, K) for each class."""

    def candidates(self, outputs: Any, *, limit: int) -> Candidates:
        """Return the boxes and classes of the highest scores: at most `limit` of each image."""
        xyxy_BA4, score_BAK = self.scored_boxes(outputs)
        num_classes = score_BAK.shape[2]
        score_BQ, place_BQ = score_BAK.flatten(1).topk(min(limit, score_BAK[0].numel()), dim=1)
        position_BQ4 = (place_BQ // num_classes)[..., None].expand(-1, -1, 4)
        return Candidates(xyxy_BA4.gather(1, position_BQ4), score_BQ, place_BQ % num_classes)
