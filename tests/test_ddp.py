"""Two processes give what one gives with the same global batch."""

import json
import os
from functools import partial

import cli_data
import pytest
import torch
from ranks import run_ranks
from tasks import masked_data, token_experiments

from mmlight import comm
from mmlight.trainer.strategies import Ddp, Fsdp

STEPS = 20


def train(path, folder, *arguments):
    process = cli_data.start(
        *("fit", "-c", path, "--run.root", folder / "runs", *arguments), cwd=folder
    )
    _, error = process.communicate(timeout=250)
    assert process.returncode == 0, error
    return cli_data.only_run(folder / "runs")


def finetuning(values):
    """A classifier of three modalities that is unfrozen while it trains."""
    model = values["model"]["init_args"]
    kept = {name: model[name] for name in ("towers", "schedule")}
    return cli_data.changed(
        values,
        {
            "model": {
                "class_path": "mmlight.tasks.classification.Classification",
                "init_args": {
                    **kept,
                    "tuning": {"unfreeze": {0: "head", 5: "last 1 blocks", 10: "all"}},
                    # Modality dropout draws other numbers on other ranks.
                    "fusion": {
                        "class_path": "mmlight.heads.fusion.TransformerFusion",
                        "init_args": {
                            "fusion_dim": 8,
                            "fusion_heads": 2,
                            "modality_dropout": 0.0,
                            "fusion_dropout": 0.0,
                        },
                    },
                },
            },
        },
    )


@pytest.mark.slow
def test_two_processes_equal_one_in_masked_language_modelling(tmp_path):
    """Texts are packed by rank, so that rows differ, but what is hidden and counted does not."""
    values = masked_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    config = "model.init_args.towers.text.encoder.init_args.config"
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    values = cli_data.changed(
        values,
        {
            "trainer.max_steps": 8,
            "data.init_args.eval_batch_size": 3,
            "run.test": True,
            # A text that goes on in another row sees less: rows that hold all of a batch.
            "data.init_args.text.max_tokens": 600,
            config: masked_data.BERT | still | {"max_position_embeddings": 600},
        },
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    for name in ("one", "ddp", "fsdp"):
        (tmp_path / name).mkdir()
    one = train(path, tmp_path / "one")
    wanted = cli_data.losses(one)
    final = json.loads((one / "summary.json").read_text())["final"]
    scores = {k: final[k] for k in ("val/masked_accuracy", "val/loss", "test/perplexity")}
    for how in ("ddp", "fsdp"):
        two = train(path, tmp_path / how, "--trainer.devices", "2", "--trainer.strategy", how)
        assert cli_data.losses(two) == {s: pytest.approx(v, abs=1e-5) for s, v in wanted.items()}
        found = json.loads((two / "summary.json").read_text())["final"]
        assert {k: found[k] for k in scores} == pytest.approx(scores, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["contrastive", "pieces", "classification", "language"])
def test_two_processes_equal_one(kind, tmp_path):
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    contrastive = kind in ("contrastive", "pieces")
    zero_shot = {"templates": ["{} 1"]} if contrastive else None
    if kind == "pieces":  # two to four windows of a clip
        values = cli_data.changed(
            values,
            {
                "model.init_args.towers.audio.pieces": "attention",
                "data.init_args.audio.max_seconds": 0.04,
                "data.init_args.audio.windows": {"training": True},
            },
        )
    if kind == "classification":
        values = finetuning(values)
    if kind == "language":
        values = cli_data.language(values, dropout=0.0)
    values = cli_data.changed(
        values,
        {
            "trainer.max_steps": STEPS,
            # The default epsilon turns rounding errors of tiny gradients into steps of full size.
            "model.init_args.optimizer": {"lr": 1.0e-3, "eps": 1.0e-3},
            "data.init_args.eval_batch_size": 3,
            "run.test": True,
            **({"zero_shot": zero_shot} if zero_shot else {}),
        },
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one = train(path, tmp_path / "one")
    two = train(path, tmp_path / "two", "--trainer.devices", "2", "--trainer.strategy", "ddp")
    wanted = cli_data.losses(one)
    assert sorted(wanted) == list(range(1, STEPS + 1))
    assert cli_data.losses(two) == {s: pytest.approx(v, abs=1e-5) for s, v in wanted.items()}
    ours, theirs = (_weights(run) for run in (one, two))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) < 1e-5
    final, other = (json.loads((run / "summary.json").read_text()) for run in (one, two))
    assert other["num_devices"] == 2
    scores = {k: v for k, v in final["final"].items() if k.startswith(("val/", "test/"))}
    if contrastive:
        # Its loss in an evaluation is the mean over batches, whose sizes differ; scores are not.
        scores = {k: v for k, v in scores.items() if not k.endswith("/loss")}
    assert len(scores) >= (6 if kind == "language" else 30)
    assert {k: other["final"][k] for k in scores} == pytest.approx(scores, abs=1e-5)
    assert other["samples_seen"] == final["samples_seen"] == STEPS * 8


def _weights(run):
    (path,) = (run / "checkpoints").glob("*.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def settings(kind, folder):
    """Return an experiment of a kind in which nothing depends on the rank."""
    values = cli_data.experiment(folder / "data", folder / "runs")
    return cli_data.changed(
        token_experiments.experiment(values, kind, dropout=0.0),
        {
            "trainer.max_steps": STEPS + 2,  # dead codes are found again after 20
            "model.init_args.optimizer": {"lr": 1.0e-3, "eps": 1.0e-3},
            "data.init_args.eval_batch_size": 3,
        },
    )


def trained(kind, folder, strategy=None):
    """Return the loss of every step, the last scores and the weights of a run."""
    values = settings(kind, folder)
    if strategy is not None:
        values["trainer"] |= {"strategy": strategy(), "devices": comm.world_size()}
    noted = cli_data.Losses()
    task = cli_data.fit(values, folder, callbacks=[noted])
    found = {f"loss {place}": torch.tensor(loss) for place, loss in noted.by_batch.items()}
    found |= {f"score {name}": value for name, value in task.trainer.callback_metrics.items()}
    # A sharded weight has parts on every rank.
    state = {f"weight {name}": w for name, w in task.state_dict().items()}
    found |= {n: w.full_tensor() if hasattr(w, "full_tensor") else w for n, w in state.items()}
    return {name: value.detach().clone() for name, value in found.items()}


def on_rank(folder):
    # Lightning takes the processes that are there.
    os.environ["LOCAL_RANK"] = str(comm.rank())
    return {
        f"{kind} {how}": trained(kind, folder, {"ddp": Ddp, "fsdp": Fsdp}[how])
        for kind in token_experiments.KINDS
        for how in ("ddp", "fsdp")
    }


@pytest.fixture(scope="module")
def on_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    cli_data.write_data(folder / "data")
    settings("drawing", folder)  # trains the tokenizer
    (folder / "ranks").mkdir()
    return folder, run_ranks(partial(on_rank, folder), world_size=2, folder=folder / "ranks")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", token_experiments.KINDS)
def test_each_token_task_is_trained_by_two_ranks_as_by_one(kind, on_ranks):
    folder, ranks = on_ranks
    wanted = trained(kind, folder)
    assert sum(name.startswith("loss") for name in wanted) == STEPS + 2
    assert any(name.startswith("score val/") for name in wanted)
    for how in ("ddp", "fsdp"):
        found = [rank[f"{kind} {how}"] for rank in ranks]
        for name, value in wanted.items():
            if (kind, name) == ("coca", "score val/loss"):
                continue  # contrastive: over the batches that all ranks see at once
            ours = [rank[name].float() for rank in found]
            if name.startswith("loss"):  # each rank's is that of its samples
                ours = [sum(ours) / len(ours)]
            for one in ours:
                assert (one - value.float()).abs().max() < 1e-4, f"{how}: {name}"
