"""An encoder in one file outside the package is explained, drawn and exported."""

import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
import tiny

from mmlight.callbacks.showing.explain_pictures import draw_explanations
from mmlight.encoders.canvas import TokenGrid
from mmlight.encoders.encoder import Block, Encoded, Encoder
from mmlight.errors import UserError
from mmlight.insight.explain import explain
from mmlight.insight.samples import Explained
from mmlight.insight.settings import METHODS, ExplainSettings
from mmlight.insight.subject import Subject
from mmlight.interop.export_formats import compare, know, trace, write_torch
from mmlight.interop.export_inputs import Sizes, make_inputs
from mmlight.tasks.classification import Classification
from mmlight.tasks.tower import Towers, TowerSettings

PATCH = 8


class Patches(Encoder):
    """Attention of one head between the patches of an image."""

    modality = "image"
    out_dim = 12

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, self.out_dim, PATCH, PATCH)
        self.query_key = nn.Linear(self.out_dim, 2 * self.out_dim)
        self.out = nn.Linear(self.out_dim, self.out_dim)
        self._weights = None

    def forward(self, inputs, *, tokens=False):
        pixels = self.observed(inputs.pixels_BCHW.float() / 255, axes=(2, 3))
        tokens_BLD = self.embed(pixels).flatten(2).transpose(1, 2)
        query, key = self.query_key(tokens_BLD).chunk(2, -1)
        weights_BLL = (query @ key.transpose(1, 2)).softmax(-1)
        if self._weights is not None:
            self._weights.append(weights_BLL.detach()[:, None])
        tokens_BLD = tokens_BLD + self.out(weights_BLL @ tokens_BLD)
        if not tokens:
            return Encoded(tokens_BLD.mean(1))
        return Encoded(
            tokens_BLD.mean(1), tokens_BLD, tokens_BLD.new_ones(tokens_BLD.shape[:2]).bool()
        )

    def token_grid(self, canvas):
        return TokenGrid(0, canvas.rows // PATCH, canvas.columns // PATCH)

    map_layout = "NCHW"

    @contextmanager
    def explicit_attention(self):
        self._weights = []
        try:
            yield self._weights
        finally:
            self._weights = None

    def blocks(self):
        parts = (self.embed, self.query_key, self.out)
        return [Block(str(n), (part,), repeated=False) for n, part in enumerate(parts)]

    def set_checkpointing(self, enabled):
        pass

    def rebuild_args(self):
        return {}


class Silent(Patches):
    """Does not say what it reads."""

    def observed(self, values, **about):
        return values


def classifier(encoder):
    torch.manual_seed(1)
    task = Classification(towers=Towers(image=TowerSettings(encoder)), num_classes=3)
    task.configure_model()
    for parameter in task.head.parameters():  # a head at its start says nothing
        nn.init.normal_(parameter)
    return task.eval()


def test_it_is_explained_by_every_method_and_drawn(tmp_path):
    task, batch = classifier(Patches), tiny.batch(2)
    subject = Subject(task, batch, "image", task.class_question(1))
    settings = ExplainSettings(gradient_steps=64, curve_steps=4, random_orders=1)
    found = explain(subject, settings)
    assert tuple(a.method for a in found.attributions) == METHODS
    size = batch.image.pixels_BCHW.shape[2]
    for attribution in found.attributions:
        assert len(attribution.importance_U) == (size // PATCH) ** 2
        assert attribution.importance_U.any() and np.isfinite(attribution.map_RK).all()
    assert found.heads.shape == (1, 1, size, size)
    picture = batch.image.pixels_BCHW[0].permute(1, 2, 0).numpy()
    drawn = draw_explanations(
        [Explained(0, "s/0", "", found, picture)],
        tmp_path,
        stage="val",
        modality="image",
        num_drawn=1,
    )
    assert [path.stem for path in drawn if path.is_file()] == [
        "val_explain_image",
        "val_explain_image_faithfulness",
        "val_explain_image_heads",
    ]


def test_it_is_exported(tmp_path):
    (graph,) = classifier(Patches).graphs()
    graph.eval().requires_grad_(False)
    preprocessing = {"image": {"size": 16, "channels": 3}}
    small, large = (
        make_inputs(graph, preprocessing, sizes=Sizes(n, 1.0), look="noise", seed=n) for n in (2, 3)
    )
    known = know(graph, [small])
    traced = trace(graph, large)
    found = compare(graph, traced, write_torch(traced, tmp_path / "model.pt2"), known)
    assert found.num_inputs == 1 and found.largest < 1e-5


def test_one_that_does_not_say_what_it_reads_is_refused():
    task = classifier(Silent)
    with pytest.raises(UserError, match="nothing is known of the input of a Silent"):
        Subject(task, tiny.batch(2), "image", task.class_question(1))
