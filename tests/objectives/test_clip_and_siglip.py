"""CLIP's and SigLIP's losses against slow loops in float64: values and gradients."""

import math

import pytest
import torch
from contrastive_reference import make_batch, sample_features, slow_clip, slow_siglip
from torch.utils._python_dispatch import TorchDispatchMode

from mmlight.errors import UserError
from mmlight.objectives.clip import Clip
from mmlight.objectives.siglip import SigLip

SLOW = {Clip: slow_clip, SigLip: slow_siglip}
THREE = ("image", "text", "audio")
PRESENT = {
    "image": [True, True, True, False, True, True, True],
    "text": [True, False, True, True, True, True, True],
    "audio": [True, True, False, False, True, True, False],
}
VALID = [True, True, True, True, True, False, True]
CAPTION = [7, 7, 7, 3, 9, 9, 3]
LABEL = [1, 1, -1, 2, 1, 2, -1]


def everything_there(size, modalities=THREE):
    return {m: [True] * size for m in modalities}


def built(cls, available=THREE, **settings):
    objective = cls(**settings)
    objective.build(available)
    return objective.double()


def same_sample(i, j):
    return i == j


def same_caption(i, j):
    known = PRESENT["text"][i] and PRESENT["text"][j]
    return i == j or (known and CAPTION[i] == CAPTION[j])


def same_label(i, j):
    return i == j or (LABEL[i] >= 0 and LABEL[i] == LABEL[j])


SAME = {"sample": same_sample, "caption": same_caption, "label": same_label}


@pytest.mark.parametrize("cls", [Clip, SigLip])
@pytest.mark.parametrize("positives", ["sample", "caption", "label"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("tile", [1, 3, None])
def test_value_and_gradients_equal_the_slow_loops(cls, positives, masked, tile):
    pairs = {"text-image": 1.0, "image-audio": 0.5, "audio-text": 2.0}
    objective = built(cls, pairs=pairs, positives=positives, tile=tile)
    present = PRESENT if masked else everything_there(7)
    valid = VALID if masked else [True] * 7
    features = {m: x.requires_grad_() for m, x in sample_features(THREE, 7).items()}
    parameters = [*features.values(), *objective.parameters()]
    batch = make_batch(present=present, valid=valid, caption=CAPTION, label=LABEL)

    def same(i, j):
        if positives == "caption" and not masked:
            return CAPTION[i] == CAPTION[j]
        return SAME[positives](i, j)

    fast = objective(features.__getitem__, batch).value
    slow = SLOW[cls](objective, features, present, valid, same)
    assert fast.item() == pytest.approx(slow.item(), rel=1e-13)
    for got, wanted in zip(
        torch.autograd.grad(fast, parameters), torch.autograd.grad(slow, parameters), strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-13)
        assert wanted.abs().max() > 0


@pytest.mark.parametrize("cls", [Clip, SigLip])
def test_features_of_masked_rows_change_nothing(cls):
    objective = built(cls)
    batch = make_batch(present=PRESENT, valid=VALID)
    features = sample_features(THREE, 7)
    before = objective(features.__getitem__, batch)
    features["image"][3] *= -50
    features["audio"][2] = 0
    features["text"][5] += 3
    after = objective(features.__getitem__, batch)
    assert torch.equal(before.value, after.value)
    for name, value in before.logs.items():
        assert torch.equal(value, after.logs[name])


@pytest.mark.parametrize("cls", [Clip, SigLip])
def test_a_pair_without_samples_costs_nothing_and_keeps_its_graph(cls):
    objective = built(cls, available=("image", "text"))
    features = {m: x.requires_grad_() for m, x in sample_features(("image", "text"), 4).items()}
    present = {"image": [True, True, False, False], "text": [False, False, True, True]}
    loss = objective(features.__getitem__, make_batch(present=present))
    loss.value.backward()
    assert loss.value.item() == 0
    for parameter in [*features.values(), *objective.parameters()]:
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))


@pytest.mark.parametrize("cls", [Clip, SigLip])
def test_gradients_stay_finite_at_the_largest_scale(cls):
    objective = built(cls, available=("image", "text"))
    with torch.no_grad():
        objective.log_scale.fill_(math.log(100))
    features = sample_features(("image", "text"), 6)
    features["text"] = features["image"].clone()
    for x in features.values():
        x.requires_grad_()
    batch = make_batch(present=everything_there(6, ("image", "text")))
    loss = objective(features.__getitem__, batch).value
    loss.backward()
    assert loss.isfinite()
    assert all(x.grad.isfinite().all() for x in features.values())


def test_siglip_keeps_digits_of_tiny_losses():
    objective = built(SigLip, available=("image", "text"), init_scale=60.0, init_bias=0.0)
    features = {"image": torch.eye(2, dtype=torch.float64), "text": torch.eye(2).double()}
    features["text"] = features["text"] * 2 - 1  # cosine 1/sqrt(2) with itself, -1/sqrt(2) else
    batch = make_batch(present=everything_there(2, ("image", "text")))
    got = objective(features.__getitem__, batch).value.item()
    scale = objective.log_scale.exp().item()
    assert got == pytest.approx(2 * math.log1p(math.exp(-scale / math.sqrt(2))), rel=1e-9)
    assert 0 < got < 1e-15


@pytest.mark.parametrize("cls", [Clip, SigLip])
def test_logits_are_float32_under_autocast_unless_asked(cls):
    features = {m: x.bfloat16() for m, x in sample_features(("image", "text"), 32).items()}
    batch = make_batch(present=everything_there(32, ("image", "text")))
    plain, exact, fast = (
        built(cls, available=("image", "text"), logits_dtype=dtype).float()
        for dtype in ("float32", "float32", "autocast")
    )
    outside = plain(features.__getitem__, batch).value
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = exact(features.__getitem__, batch).value
        rounded = fast(features.__getitem__, batch).value
    assert outside.dtype == inside.dtype == rounded.dtype == torch.float32
    assert torch.equal(inside, outside)
    assert not torch.equal(rounded, outside)
    assert rounded.item() == pytest.approx(outside.item(), rel=0.02)


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that any operation makes, and their names."""

    def __init__(self):
        super().__init__()
        self.num_numbers = 0
        self.operations = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor):
            self.num_numbers = max(self.num_numbers, out.untyped_storage().nbytes() // out.itemsize)
        self.operations.add(function.overloadpacket)
        return out


@pytest.mark.parametrize("cls", [Clip, SigLip])
@pytest.mark.parametrize("positives", ["sample", "caption"])
def test_nothing_is_as_large_as_all_similarities(cls, positives):
    size = 64
    features = {m: x.requires_grad_() for m, x in sample_features(("image", "text"), size).items()}
    batch = make_batch(present=everything_there(size, ("image", "text")), caption=[1, 2] * 32)
    objective = built(cls, available=("image", "text"), positives=positives, tile=4)
    with LargestTensor() as largest:
        objective(features.__getitem__, batch).value.backward()
    assert largest.num_numbers <= size * 5


@pytest.mark.parametrize("cls", [Clip, SigLip])
def test_evaluation_computes_no_gradient(cls):
    batch = make_batch(present=everything_there(6, ("image", "text")))
    features = sample_features(("image", "text"), 6)
    objective = built(cls, available=("image", "text"))
    with_grad = objective(features.__getitem__, batch)
    with torch.no_grad(), LargestTensor() as seen:
        without = objective(features.__getitem__, batch)
    assert not without.value.requires_grad
    assert torch.equal(without.value, with_grad.value)
    assert torch.ops.aten.mm in seen.operations
    assert torch.ops.aten.addmm_ not in seen.operations


@pytest.mark.parametrize("cls", [Clip, SigLip])
@pytest.mark.parametrize("positives", ["sample", "caption"])
def test_equal_features_are_no_hits(cls, positives):
    features = {m: torch.ones(4, 4, dtype=torch.float64) for m in ("image", "text")}
    batch = make_batch(present=everything_there(4, ("image", "text")), caption=[1, 1, 2, 2])
    objective = built(cls, available=("image", "text"), positives=positives)
    logs = objective(features.__getitem__, batch).logs
    assert logs["accuracy/image-text"].item() == 0


def test_float32_gradients_are_near_those_of_float64():
    features = sample_features(("image", "text"), 64, dim=16)
    batch = make_batch(present=everything_there(64, ("image", "text")))
    for cls in (Clip, SigLip):
        gradients = {}
        for dtype in (torch.float32, torch.float64):
            objective = built(cls, available=("image", "text"), tile=8).to(dtype)
            with torch.no_grad():
                objective.log_scale.fill_(math.log(100))
            leaves = {m: x.to(dtype, copy=True).requires_grad_() for m, x in features.items()}
            objective(leaves.__getitem__, batch).value.backward()
            gradients[dtype] = [*(x.grad for x in leaves.values()), objective.log_scale.grad]
        for single, double in zip(*gradients.values(), strict=True):
            torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=2e-6)


def test_logs_name_each_pair():
    features = sample_features(("image", "text"), 5)
    features["text"] = features["image"].clone()
    batch = make_batch(present=everything_there(5, ("image", "text")))
    clip = built(Clip, available=("image", "text"))(features.__getitem__, batch)
    assert set(clip.logs) == {"loss/image-text", "accuracy/image-text", "scale/image-text"}
    assert clip.logs["accuracy/image-text"].item() == 1
    assert clip.logs["scale/image-text"].item() == pytest.approx(1 / 0.07)
    assert torch.equal(clip.logs["loss/image-text"], clip.value.detach())
    siglip = built(SigLip, available=("image", "text"))(features.__getitem__, batch)
    assert siglip.logs["bias/image-text"].item() == -10
    assert siglip.logs["scale/image-text"].item() == pytest.approx(10)
    assert not any(v.requires_grad for v in [*clip.logs.values(), *siglip.logs.values()])


def test_accuracy_counts_any_positive():
    features = {
        "image": torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]).double(),
        "text": torch.tensor([[0.9, 0.1], [1.0, 0.0], [0.0, 1.0]]).double(),
    }
    batch = make_batch(present=everything_there(3, ("image", "text")), caption=[4, 4, 5])
    for positives, expected in (("sample", 1 / 3), ("caption", 1.0)):
        for cls in (Clip, SigLip):
            objective = built(cls, available=("image", "text"), positives=positives)
            logs = objective(features.__getitem__, batch).logs
            assert logs["accuracy/image-text"].item() == pytest.approx(expected)


def test_encode_is_called_once_for_each_used_modality():
    asked = []
    features = sample_features(THREE, 3)

    def encode(modality):
        asked.append(modality)
        return features[modality]

    objective = built(Clip, pairs={"audio-text": 1, "image-text": 1})
    objective(encode, make_batch(present=everything_there(3)))
    assert asked == ["image", "text", "audio"]
    asked.clear()
    objective = built(Clip, pairs={"audio-text": 1})
    objective(encode, make_batch(present=everything_there(3)))
    assert asked == ["text", "audio"]


def test_clamp_keeps_the_temperature_in_range():
    objective = built(Clip, max_scale=50.0)
    assert objective.log_scale.shape == (3,)
    with torch.no_grad():
        objective.log_scale.copy_(torch.tensor([9.0, -1.0, 2.0]))
    objective.after_step()
    assert objective.log_scale.tolist() == [math.log(50), 0.0, 2.0]


def test_temperature_can_be_kept():
    objective = built(Clip, learn_temperature=False, init_temperature=0.01)
    assert not any(p.requires_grad for p in objective.parameters())
    assert objective.log_scale.exp().tolist() == pytest.approx([100.0] * 3)


def test_building_twice_keeps_what_was_learned():
    for cls in (Clip, SigLip):
        objective = built(cls)
        with torch.no_grad():
            objective.log_scale += 0.5
        before = objective.log_scale.clone()
        objective.build(THREE)
        assert torch.equal(objective.log_scale, before)


def test_parameters_can_start_on_the_meta_device():
    for cls in (Clip, SigLip):
        objective = cls()
        with torch.device("meta"):
            objective.build(THREE)
        objective.to_empty(device="cpu")
        objective.reset_parameters()
        assert objective.log_scale.tolist() == built(cls).log_scale.float().tolist()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Clip(init_temperature=0.001), "init_temperature: 0.001"),
        (lambda: Clip(init_temperature=2.0), "init_temperature: 2.0"),
        (lambda: Clip(max_scale=1.0), "max_scale"),
        (lambda: Clip(positives="class"), "positives: 'class'"),
        (lambda: Clip(logits_dtype="bf16"), "logits_dtype"),
        (lambda: SigLip(init_scale=0.0), "init_scale"),
        (lambda: Clip(ranks="all"), "ranks: 'all' is none of gather, ring, local"),
        (lambda: SigLip(tile=0), "tile: 0 must be 1 or more"),
        (lambda: SigLip(init_bias=math.nan), "init_bias"),
    ],
)
def test_values_out_of_range_are_refused(make, said):
    with pytest.raises(UserError, match=said):
        make()


def test_what_the_data_lacks_is_named():
    features = sample_features(THREE, 2)
    only = everything_there(2, ("image", "audio"))
    with pytest.raises(UserError, match="needs text, but the data gives only image, audio"):
        built(Clip)(features.__getitem__, make_batch(present=only))
    with pytest.raises(UserError, match="the data maps none"):
        built(Clip, positives="label")(
            features.__getitem__, make_batch(present=everything_there(2))
        )
    with pytest.raises(UserError, match="has no text"):
        built(Clip, available=("image", "audio"), positives="caption")(
            features.__getitem__, make_batch(present=only)
        )
