"""Every private name of Lightning, torch, torchvision and timm that mmlight uses, in one table.

An upgrade that takes one away fails here, with its name and who uses it. They are used in
`trainer/` only, which offers other rooms what they need of torch (`mmlight.trainer.internals`).
"""

import ast
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "mmlight"
PACKAGES = ("lightning", "torch", "torchvision", "timm")
_LIGHTNING = "lightning.pytorch"
_LOOP = f"{_LIGHTNING}.loops.training_epoch_loop"
_CHECKPOINT = f"{_LIGHTNING}.callbacks.model_checkpoint"
_STOPPING = f"{_LIGHTNING}.callbacks.early_stopping"
_CONNECTORS = f"{_LIGHTNING}.trainer.connectors"
# The module in whose text each name stands: one that is imported, asked for or overridden.
TABLE = {
    "_SignalConnector": f"{_CONNECTORS}.signal_connector",
    "_accelerator_connector": f"{_LIGHTNING}.trainer.trainer",
    "_broadcast_sigterm_tensor": _LOOP,
    "_data_fetcher": f"{_LIGHTNING}.loops.fit_loop",
    "_data_parallel_size": f"{_LIGHTNING}.strategies.model_parallel",
    "_ddp_kwargs": f"{_LIGHTNING}.strategies.ddp",
    "_evaluate_stopping_criteria": _STOPPING,
    "_every_n_epochs": _CHECKPOINT,
    "_every_n_train_steps": _CHECKPOINT,
    "_experiment": f"{_LIGHTNING}.loggers.wandb",
    "_first_loop_iter": f"{_CONNECTORS}.logger_connector.logger_connector",
    "_last_global_step_saved": _CHECKPOINT,
    "_logger_connector": f"{_LIGHTNING}.trainer.trainer",
    "_monitor_candidates": _CHECKPOINT,
    "_optimizer": f"{_LIGHTNING}.core.optimizer",
    "_run_early_stopping_check": _STOPPING,
    "_save_topk_checkpoint": _CHECKPOINT,
    "_should_accumulate": _LOOP,
    "_should_check_val_fx": _LOOP,
    "_should_remove_checkpoint": _CHECKPOINT,
    "_should_skip_saving_checkpoint": _CHECKPOINT,
    "_signal_connector": f"{_LIGHTNING}.trainer.trainer",
    "_train_time_interval": _CHECKPOINT,
    "_trainer": f"{_LIGHTNING}.core.module",
    "_wandb_init": f"{_LIGHTNING}.loggers.wandb",
    "_BatchNorm": "torch.nn.modules.batchnorm",
    "_EmptyStateDictLoadPlanner": "torch.distributed.checkpoint.default_planner",
    "_MultiProcessingDataLoaderIter": "torch.utils.data.dataloader",
    "_cdata": "torch.storage",
    "_foreach_lerp_": "torch.optim.adam",
    "_get_fused_kernels_supported_devices": "torch.utils._foreach_utils",
    "_iterator": "torch.utils.data.dataloader",
    "_load_state_dict": "torch.distributed.checkpoint.state_dict_loader",
    "_overloadpacket": "torch._ops",
    "_pytree": "torch.utils._pytree",
    "_scaled_dot_product_flash_attention_for_cpu": "torch._meta_registrations",
    "_scaled_dot_product_flash_attention_for_cpu_backward": "torch._meta_registrations",
    "_shutdown_workers": "torch.utils.data.dataloader",
    "torch._higher_order_ops.scan.scan": "torch._higher_order_ops.scan",
    "torch._ops.OpOverload": "torch._ops",
    "torch._subclasses.fake_tensor.DataDependentOutputException": "torch._subclasses.fake_tensor",
    "torch._subclasses.fake_tensor.FakeTensor": "torch._subclasses.fake_tensor",
    "torch._subclasses.fake_tensor.FakeTensorMode": "torch._subclasses.fake_tensor",
    "torch.utils._python_dispatch.TorchDispatchMode": "torch.utils._python_dispatch",
    "torch.utils._python_dispatch.is_traceable_wrapper_subclass": "torch.utils._python_dispatch",
    "torch.utils._pytree.tree_leaves": "torch.utils._pytree",
}
# Of packages that are pinned by who needs them: the standard library, transformers.
OTHERS = {
    **dict.fromkeys(("_exit", "_lru_cache_wrapper"), ("",)),
    **dict.fromkeys(
        ("_attn_implementation", "_from_config", "_gradient_checkpointing_func", "_init_weights"),
        ("encoders", "trainer"),
    ),
    "_model_mapping": ("encoders",),
}


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _imported(node: ast.AST) -> list[str]:
    """Return the private names among those that a statement imports, of other packages."""
    if isinstance(node, ast.Import):
        return [a.name for a in node.names if any(map(_is_private, a.name.split(".")))]
    if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
        return []
    if node.module.split(".")[0] == "mmlight":
        return []
    hidden = any(map(_is_private, node.module.split(".")))
    return [
        a.name if _is_private(a.name) else f"{node.module}.{a.name}"
        for a in node.names
        if hidden or _is_private(a.name)
    ]


@cache
def _used() -> dict[str, set[str]]:
    """Return the files that use a private name of others: in the table, or defined nowhere here."""
    trees = {path: ast.parse(path.read_text()) for path in ROOT.rglob("*.py")}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    own = {n.name for _, n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    own |= {n.id for _, n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    set_here = {
        (path, n.attr)
        for path, n in nodes
        if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)
    }
    own |= {name for _, name in set_here}
    used: dict[str, set[str]] = {}
    for path, node in nodes:
        names = _imported(node)
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            # A class of ours may have an attribute of the same name.
            is_ours = (path, node.attr) in set_here and "trainer" not in path.parts
            is_theirs = node.attr not in own or (node.attr in TABLE and not is_ours)
            names = [node.attr] if is_theirs else []
        elif isinstance(node, ast.FunctionDef) and node.name in TABLE and node.args.args[:1]:
            names = [node.name] if node.args.args[0].arg == "self" else []  # overridden
        for name in names:
            used.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return used


def test_private_names_of_others_stand_in_the_table():
    unlisted = {name: files for name, files in _used().items() if name not in TABLE | OTHERS}
    assert not unlisted, f"use public names, or `trainer/` and this table: {unlisted}"
    assert not TABLE.keys() - _used().keys(), "no longer used"


def test_they_are_used_in_their_room_only():
    rooms = {**dict.fromkeys(TABLE, ("trainer",)), **OTHERS}
    elsewhere = {
        name: file
        for name, files in _used().items()
        for file in files
        if not file.startswith(rooms.get(name, ("trainer",)))
    }
    assert not elsewhere


@pytest.mark.parametrize("name", TABLE)
def test_the_installed_versions_have_them(name):
    module = TABLE[name]
    package = module.split(".")[0]
    spec = find_spec(module)
    there = spec is not None and spec.origin is not None
    last = name.rpartition(".")[2]
    text = Path(spec.origin).read_text() if there else ""
    users = ", ".join(sorted(_used().get(name, ())))
    assert last in text or (there and last == module.rpartition(".")[2]), (
        f"{package} {version(package)} has no {name} in {module} any more; used in {users}"
    )
