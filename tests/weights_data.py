"""Two short runs of an image classifier, and the encoder they started from."""

from pathlib import Path

import cli_data

TUNED = "mmlight.tasks.classification.Classification"


def experiment(data: Path, runs: Path) -> dict:
    """A CNN with batch norms that learns four colours."""
    values = cli_data.experiment(data, runs)
    net = {"stem_width": 8, "channels": [8, 8, 8, 8]}
    encoder = {
        "class_path": "mmlight.encoders.timm_image.TimmImage",
        "init_args": {"name": "resnet10t", "kwargs": net},
    }
    values["model"] = {
        "class_path": TUNED,
        "init_args": {
            "towers": {"image": {"encoder": encoder}},
            "optimizer": {"lr": 3.0e-3},
            "schedule": {"warmup_steps": 0, "kind": "constant"},
        },
    }
    data_args = values["data"]["init_args"]
    data_args["members"] = {"image": "png", "label": "cls"}
    for key in ("audio", "text"):
        del data_args[key]
    return values


def train(values: dict, folder: Path, *changes: str) -> Path:
    """Run the experiment and return the run's folder."""
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    root = Path(values["run"]["root"]) / "tiny"
    before = set(root.iterdir()) if root.exists() else set()
    assert cli_data.run_in_process("fit", "-c", path, *changes) == 0
    (run,) = set(root.iterdir()) - before
    return run
