"""Each setting of training has its effect on a tiny real model."""

import math

import cli_data
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from mmlight.errors import UserError
from mmlight.objectives.tiles import Similarities
from mmlight.trainer.ema import Ema

MODEL = "model.init_args."
TOWERS = f"{MODEL}towers."
IMAGE = f"{TOWERS}image.encoder.init_args."


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    values = cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")
    return cli_data.changed(
        values, {"trainer.max_steps": 3, f"{MODEL}schedule": {"warmup_steps": 0}}
    )


class Watch(Callback):
    """Notes what each step of the optimiser saw."""

    def __init__(self):
        self.norms, self.rates, self.batches = [], [], 0

    def on_train_batch_end(self, *_):
        self.batches += 1

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if grads:
            self.norms.append(float(torch.nn.utils.get_total_norm(grads)))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def run(values, folder, changes, *callbacks):
    losses = cli_data.Losses()
    values = cli_data.changed(values, changes)
    task = cli_data.fit(values, folder, callbacks=[losses, *callbacks])
    return task, list(losses.by_batch.values())


def test_gradient_clip_val_bounds_the_norm(values, tmp_path):
    free, clipped = Watch(), Watch()
    run(values, tmp_path, {}, free)
    run(values, tmp_path, {"trainer.gradient_clip_val": 0.01}, clipped)
    assert min(free.norms) > 0.1
    assert clipped.norms == pytest.approx([0.01] * len(clipped.norms), rel=1e-3)


def test_accumulate_grad_batches_takes_more_batches_to_a_step(values, tmp_path):
    one, two = Watch(), Watch()
    run(values, tmp_path, {}, one)
    run(values, tmp_path, {"trainer.accumulate_grad_batches": 2}, two)
    assert (len(one.rates), one.batches) == (3, 3)
    assert (len(two.rates), two.batches) == (3, 5)  # the epoch's fifth batch is a step of its own


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ({"warmup_steps": 0, "kind": "constant"}, lambda s: 1.0),
        ({"warmup_steps": 3, "kind": "constant"}, lambda s: min(1, (s + 1) / 3)),
        ({"warmup_steps": 0, "kind": "cosine"}, lambda s: (1 + math.cos(math.pi * s / 6)) / 2),
        ({"warmup_steps": 2, "kind": "rsqrt"}, lambda s: (0.5, 1, *_RSQRT)[s]),
        (
            {"warmup_steps": 0, "kind": "constant", "cooldown_steps": 2},
            lambda s: (1, 1, 1, 1, 1, 0.5)[s],
        ),
    ],
    ids=["constant", "warm-up", "cosine", "rsqrt", "cool-down"],
)
def test_schedule_sets_the_rate_of_each_step(schedule, factor, values, tmp_path):
    watch = Watch()
    run(values, tmp_path, {"trainer.max_steps": 6, f"{MODEL}schedule": schedule}, watch)
    assert watch.rates == pytest.approx([1e-3 * factor(step) for step in range(6)])


_RSQRT = [math.sqrt(2 / (step + 1)) for step in range(2, 6)]


def test_weight_decay_shrinks_matrices_only(values, tmp_path):
    """Without it, nothing but the gradients of a step moves a parameter."""
    settings = {"trainer.max_steps": 1}
    plain, _ = run(values, tmp_path, {**settings, f"{MODEL}optimizer.weight_decay": 0.0})
    decayed, _ = run(values, tmp_path, {**settings, f"{MODEL}optimizer.weight_decay": 100.0})
    plain, decayed = dict(plain.named_parameters()), dict(decayed.named_parameters())
    moved = {n for n in plain if not torch.allclose(plain[n], decayed[n], atol=1e-7)}
    excluded = {n for n in plain if plain[n].ndim < 2 or "pos_embed" in n or "cls_token" in n}
    assert excluded
    assert not moved & excluded
    assert {n for n in plain if n.endswith(("qkv.weight", "projection.weight"))} <= moved


def test_ema_is_what_validation_sees(values, tmp_path):
    class Seen(Callback):
        def on_validation_epoch_end(self, trainer, pl_module):
            self.weights = {n: p.clone() for n, p in pl_module.named_parameters()}

        def on_train_batch_end(self, trainer, pl_module, *_):
            self.trained = {n: p.clone() for n, p in pl_module.named_parameters()}

    metrics = {}

    class Metrics(Callback):
        def __init__(self, name):
            self.name = name

        def on_validation_end(self, trainer, pl_module):
            metrics[self.name] = dict(trainer.callback_metrics)

    changes = {"trainer.max_steps": 5, f"{MODEL}optimizer.lr": 0.01}
    ema, seen = Ema(decay=0.9), Seen()
    run(values, tmp_path, changes, ema, seen, Metrics("ema"))
    run(values, tmp_path, changes, Metrics("plain"))
    name = "towers.image.projection.weight"
    assert (seen.weights[name] - seen.trained[name]).abs().max() > 1e-4
    assert metrics["ema"]["val/loss"] != metrics["plain"]["val/loss"]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_logits_are_float32_under_autocast(precision, values, tmp_path, monkeypatch):
    multiplied, features = set(), set()
    real = Similarities.logits

    class Multiplied(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if function.overloadpacket == torch.ops.aten.mm:
                multiplied.add(out.dtype)
            return out

    def logits(*arguments):
        with Multiplied():
            return real(*arguments)

    class Features(Callback):
        def on_train_start(self, trainer, pl_module):
            for tower in pl_module.towers.values():
                tower.register_forward_hook(lambda _, __, out: features.add(out.dtype))

    monkeypatch.setattr(Similarities, "logits", logits)
    changes = {"trainer.precision": precision, "trainer.max_steps": 1}
    _, losses = run(values, tmp_path, changes, Features())
    assert features == {torch.float32 if precision == "32-true" else torch.bfloat16}
    assert multiplied == {torch.float32}
    assert math.isfinite(losses[0])

    if precision == "bf16-mixed":
        multiplied.clear()
        autocast = {"class_path": "mmlight.objectives.clip.Clip"}
        autocast["init_args"] = {"logits_dtype": "autocast"}
        run(values, tmp_path, {**changes, f"{MODEL}objective": autocast})
        assert multiplied == {torch.bfloat16}


def test_checkpointing_recomputes_blocks_and_keeps_the_losses(values, tmp_path):
    class Count(Callback):
        def on_train_start(self, trainer, pl_module):
            self.calls = 0
            block = pl_module.towers["image"].encoder.model.blocks[0]
            block.register_forward_pre_hook(self.count)

        def count(self, *_):
            self.calls += 1

    plain, recomputed = Count(), Count()
    _, losses = run(values, tmp_path, {}, plain)
    _, same = run(values, tmp_path, {f"{TOWERS}image.checkpointing": True}, recomputed)
    assert same == pytest.approx(losses, rel=1e-6)
    assert (plain.calls, recomputed.calls) == (3, 6)


def test_patch_drop_rate_leaves_patches_out_in_training_only(values, tmp_path):
    lengths = {True: set(), False: set()}

    class Lengths(Callback):
        def on_fit_start(self, trainer, pl_module):
            block = pl_module.towers["image"].encoder.model.blocks[0]
            block.register_forward_hook(
                lambda module, inputs, _: lengths[module.training].add(inputs[0].shape[1])
            )

    run(values, tmp_path, {f"{IMAGE}patch_drop_rate": 0.5, "trainer.max_steps": 5}, Lengths())
    assert lengths == {True: {1 + 8}, False: {1 + 16}}


def test_locked_tower_stays_as_it_is_and_its_projection_learns(values, tmp_path):
    class Start(Callback):
        def on_train_start(self, trainer, pl_module):
            self.state = {n: t.clone() for n, t in pl_module.state_dict().items()}

    start = Start()
    task, _ = run(values, tmp_path, {f"{TOWERS}image.locked": True}, start)
    state = task.state_dict()
    moved = {name for name in state if not torch.equal(state[name], start.state[name])}
    assert not [name for name in moved if name.startswith("towers.image.encoder.")]
    assert "towers.image.projection.weight" in moved
    assert [name for name in moved if name.startswith("towers.text.encoder.")]
    assert not task.towers["image"].encoder.training


@pytest.mark.slow  # the compiler takes most of a minute
def test_compiled_blocks_give_equal_losses_and_state_names(values, tmp_path):
    plain, losses = run(values, tmp_path, {})
    compiled, same = run(values, tmp_path, {f"{MODEL}compile": "blocks"})
    assert compiled.towers["image"].encoder.model.blocks[0]._compiled_call_impl is not None
    assert same == pytest.approx(losses, rel=1e-4)
    assert compiled.state_dict().keys() == plain.state_dict().keys()


def test_grad_cache_that_holds_the_whole_batch_is_refused(values, tmp_path):
    batch = values["data"]["init_args"]["global_batch_size"]
    with pytest.raises(UserError, match=f"grad_cache: {batch} has no effect on batches of {batch}"):
        run(values, tmp_path, {f"{MODEL}grad_cache": batch})
    task, _ = run(values, tmp_path, {f"{MODEL}grad_cache": batch - 1})
    assert task.grad_cache == batch - 1
