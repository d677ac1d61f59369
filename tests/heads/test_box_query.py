import pytest
import torch
from transformers import RTDetrConfig, RTDetrForObjectDetection
from transformers.models.rt_detr.configuration_rt_detr_resnet import RTDetrResNetConfig

from mmlight.batch import Boxes
from mmlight.errors import UserError
from mmlight.heads.box_query import BoxQuery

CANVAS = (128, 160)
WHOLE = torch.tensor([CANVAS] * 2)
DIMS, STRIDES = (16, 24, 32), (8, 16, 32)


def head(**settings) -> BoxQuery:
    given = dict(dim=32, num_queries=20, num_layers=2, num_heads=4, ffn_dim=64, num_denoising=30)
    built = BoxQuery(**(given | settings))
    built.build(in_dims=DIMS, in_strides=STRIDES, num_classes=3)
    return built


def maps() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, d, CANVAS[0] // s, CANVAS[1] // s, generator=g)
        for d, s in zip(DIMS, STRIDES, strict=True)
    ]


def boxes(*counts: int) -> Boxes:
    g = torch.Generator().manual_seed(0)
    most = max(counts)
    low = torch.rand(len(counts), most, 2, generator=g) * 80
    return Boxes(
        xyxy_BG4=torch.cat([low, low + 8 + torch.rand(len(counts), most, 2, generator=g) * 40], -1),
        label_BG=torch.randint(0, 3, (len(counts), most), generator=g),
        mask_BG=torch.arange(most) < torch.tensor(counts)[:, None],
        present_B=torch.ones(len(counts), dtype=torch.bool),
    )


def shake(module: torch.nn.Module) -> None:
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.15)


def test_a_single_image_has_half_the_gradients_of_two_that_are_equal():
    built = head(num_denoising=0).eval()
    shake(built)
    found = []
    for count in (1, 2):
        built.zero_grad()
        inputs = [m[:1].repeat(count, 1, 1, 1).requires_grad_() for m in maps()]
        outputs = built(inputs, area_B2=WHOLE[:count], canvas=CANVAS, boxes=None)
        sum(box_BQ4.square().sum() for _, box_BQ4 in outputs.layers).backward()
        found.append([p.grad for p in built.parameters() if p.grad is not None])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(2 * one, two, rtol=1e-3, atol=1e-4)


def test_predictions_equal_those_of_transformers_rt_detr():
    backbone = RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, *DIMS],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        d_model=32,
        encoder_hidden_dim=32,
        encoder_in_channels=[32] * 3,
        decoder_in_channels=[32] * 3,
        num_queries=20,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_labels=3,
        num_denoising=30,
    )
    theirs = RTDetrForObjectDetection(config).eval()
    shake(theirs)
    ours = head().eval()
    state = theirs.state_dict()
    ours.load_state_dict(
        {
            name.removeprefix("model."): tensor
            for name, tensor in state.items()
            if not name.startswith("model.backbone.")
        }
    )
    pixels = torch.randn(2, 3, *CANVAS)
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels)
        given = [part for part, _ in theirs.model.backbone(pixels, torch.ones(2, *CANVAS))]
        found = ours(given, area_B2=WHOLE, canvas=CANVAS, boxes=None)
    assert torch.allclose(found.layers[-1][0], wanted.logits, atol=1e-6)
    assert torch.allclose(found.layers[-1][1], wanted.pred_boxes, atol=1e-6)
    assert len(found.layers) == 3 and found.noised is None


def test_what_lies_in_the_padding_changes_nothing():
    built = head().eval()
    shake(built)
    area_B2 = torch.tensor([CANVAS, (64, 96)])
    given = maps()
    spoiled = [part.clone() for part in given]
    for part, stride in zip(spoiled, STRIDES, strict=True):
        part[1, :, 64 // stride :] = 50
        part[1, :, :, 96 // stride :] = -50
    with torch.no_grad():
        one, other = (
            built(m, area_B2=area_B2, canvas=CANVAS, boxes=None) for m in (given, spoiled)
        )
    for first, second in zip(one.layers, other.layers, strict=True):
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_queries_come_from_real_positions():
    built = head(num_queries=30).eval()
    with torch.no_grad():
        outputs = built(maps(), area_B2=torch.tensor([CANVAS, (64, 96)]), canvas=CANVAS, boxes=None)
    # The last layers of the box heads are zero at first: boxes are the positions' anchors.
    centre_Q2 = outputs.layers[0][1][1, :, :2]
    assert (centre_Q2 < torch.tensor([96 / 160, 64 / 128])).all()


def test_noised_copies_know_where_they_come_from():
    built = head()
    torch.manual_seed(0)
    given = boxes(5, 2)
    outputs = built(maps(), area_B2=WHOLE, canvas=CANVAS, boxes=given)
    noised = outputs.noised
    assert noised is not None and noised.num_groups == 6  # 30 copies for at most 5 objects
    assert noised.layers[0][0].shape == (2, 2 * 5 * 6, 3)  # each with a negative one
    for (copies, objects), count in zip(noised.pairs, (5, 2), strict=True):
        assert len(copies) == len(objects) == 6 * count
        assert objects.tolist() == list(range(count)) * 6
    assert outputs.layers[-1][0].shape == (2, 20, 3)


def test_a_batch_without_objects_has_no_copies():
    built = head()
    outputs = built(maps(), area_B2=WHOLE, canvas=CANVAS, boxes=boxes(0, 0))
    assert outputs.noised is None


def test_every_parameter_learns():
    built = head()
    shake(built)
    torch.manual_seed(0)
    outputs = built(maps(), area_B2=WHOLE, canvas=CANVAS, boxes=boxes(5, 2))
    sum(
        logit.sum() + box.sum() for logit, box in [*outputs.layers, *outputs.noised.layers]
    ).backward()
    assert [n for n, p in built.named_parameters() if p.grad is None] == []


def test_a_plain_vit_s_only_map_is_enough():
    built = BoxQuery(dim=32, num_queries=5, num_layers=1, num_heads=4, ffn_dim=32)
    built.build(in_dims=[12], in_strides=[16], num_classes=2)
    outputs = built.eval()([torch.randn(2, 12, 8, 10)], area_B2=WHOLE, canvas=CANVAS, boxes=None)
    assert outputs.layers[-1][0].shape == (2, 5, 2)


def test_candidates_are_in_pixels():
    built = head()
    outputs = built.eval()(maps(), area_B2=WHOLE, canvas=CANVAS, boxes=None)
    logit_BQK = torch.full((2, 20, 3), -9.0)
    logit_BQK[:, 4, 2] = 3.0
    box_BQ4 = torch.full((2, 20, 4), 0.5)
    box_BQ4[:, 4] = torch.tensor([0.5, 0.25, 0.2, 0.5])
    outputs.layers.append((logit_BQK, box_BQ4))
    best = built.candidates(outputs, limit=5)
    assert best.label_BQ[:, 0].tolist() == [2, 2] and best.score_BQ.shape == (2, 5)
    assert torch.allclose(best.xyxy_BQ4[0, 0], torch.tensor([64.0, 0, 96, 64]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dim": 30}, "dim must be"),
        ({"num_queries": 0}, "num_queries"),
        ({"strides": (8,)}, "two or more"),
        ({"dropout": 1.0}, "dropout"),
        ({"strides": (4, 8)}, "none of 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        head(**settings)


def test_images_that_do_not_halve_are_refused():
    with pytest.raises(UserError, match="whole multiples of 32"):
        head()(
            [torch.randn(2, d, -(-120 // s), 160 // s) for d, s in zip(DIMS, STRIDES, strict=True)],
            area_B2=torch.tensor([[120, 160]] * 2),
            canvas=(120, 160),
            boxes=None,
        )
