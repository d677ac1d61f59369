"""Two processes give what one gives with the same global batch."""

import json

import cli_data
import pytest
import torch
from tasks import code_tasks, masked_data

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
@pytest.mark.parametrize("kind", ["contrastive", "classification", "language"])
def test_two_processes_equal_one(kind, tmp_path):
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    zero_shot = {"templates": ["{} 1"]} if kind == "contrastive" else None
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
    if kind == "contrastive":
        # Its loss in an evaluation is the mean over batches, whose sizes differ; scores are not.
        scores = {k: v for k, v in scores.items() if not k.endswith("/loss")}
    assert len(scores) >= (6 if kind == "language" else 30)
    assert {k: other["final"][k] for k in scores} == pytest.approx(scores, abs=1e-5)
    assert other["samples_seen"] == final["samples_seen"] == STEPS * 8


def _weights(run):
    (path,) = (run / "checkpoints").glob("*.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_two_processes_have_one_codebook_and_draw_by_it(tmp_path):
    data = cli_data.write_data(tmp_path / "data")
    values = code_tasks.codes_experiment(data, tmp_path / "runs")
    exact = {"lr": 1.0e-3, "eps": 1.0e-3}
    for kind in ("codes", "drawing"):
        values = cli_data.changed(
            values,
            {
                "trainer.max_steps": STEPS + 2,  # dead codes are found again after 20
                "model.init_args.optimizer": exact,
                "run.name": kind,
            },
        )
        path = cli_data.write_yaml(tmp_path / f"{kind}.yaml", values)
        runs = []
        for name in ("one", "two"):
            (tmp_path / kind / name).mkdir(parents=True)
            many = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
            train_in = tmp_path / kind / name
            process = cli_data.start(
                *("fit", "-c", path, "--run.root", train_in / "runs"),
                *(many if name == "two" else ()),
                cwd=train_in,
            )
            _, error = process.communicate(timeout=250)
            assert process.returncode == 0, error
            runs.append(cli_data.only_run(train_in / "runs", kind))
        wanted = cli_data.losses(runs[0])
        assert cli_data.losses(runs[1]) == {
            s: pytest.approx(v, abs=1e-4) for s, v in wanted.items()
        }
        ours, theirs = (_weights(run) for run in runs)
        assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) < 1e-4
        values = code_tasks.drawing_experiment(data, tmp_path / "runs", tokens=runs[0])
        decoder = values["model"]["init_args"]["towers"]["text"]["encoder"]["init_args"]
        values["model"]["init_args"]["towers"]["text"]["encoder"]["init_args"] = decoder | {
            "dropout": 0.0
        }
