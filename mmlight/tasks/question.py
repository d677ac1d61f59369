"""What an explanation asks of a model about a sample.

Shapes as in `mmlight.batch`: B samples.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mmlight.batch import Batch


@dataclass(frozen=True)
class Question:
    """What is asked about a sample; higher is more.

    Attributes:
        about: the answer that is explained, in words.
        score: returns (B,) numbers with gradients, which attributions share out.
        confidence: returns (B,) numbers that deletion and insertion follow.
    """

    about: str
    score: Callable[[Batch], Tensor]
    confidence: Callable[[Batch], Tensor]
