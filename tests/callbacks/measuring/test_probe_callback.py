"""Linear probe and nearest neighbours on frozen features."""

import cli_data
import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from mmlight.callbacks.measuring.probe import Probe
from mmlight.errors import UserError
from mmlight.metrics.neighbours import knn_logits, label_figures, linear_labels


def blobs(count, seed):
    draws = np.random.default_rng(seed)
    label = draws.integers(0, 3, count)
    centre = np.random.default_rng(0).standard_normal((3, 5))
    return (centre[label] + 0.7 * draws.standard_normal((count, 5))).astype(np.float32), label


def test_neighbours_agree_with_scikit_learn():
    (train, label), (query, _) = blobs(90, 1), blobs(40, 2)
    votes = knn_logits(
        torch.from_numpy(train),
        torch.from_numpy(label),
        torch.from_numpy(query),
        num_classes=3,
        k=7,
        chunk=9,
    )

    def weight(distance):
        return np.exp((1 - distance) / 0.07)

    slow = KNeighborsClassifier(7, metric="cosine", weights=weight).fit(train, label)
    np.testing.assert_allclose(
        (votes / votes.sum(1, keepdim=True)).numpy(), slow.predict_proba(query), atol=1e-4
    )


def test_linear_probe_separates_what_is_separable():
    (train, label), (query, query_label) = blobs(300, 1), blobs(200, 2)
    found = label_figures(linear_labels(train, label, query), query_label)
    assert found["accuracy"] > 0.7 and found["macro_f1"] > 0.7
    blind = label_figures(linear_labels(train, label, query * 0), query_label)
    assert blind["accuracy"] < 0.6 and blind["macro_f1"] < 0.3


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    return cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")


def test_one_class_in_training_is_what_is_said_of_all():
    found_Q = linear_labels(np.eye(3), np.full(3, 7), np.ones((2, 3)))
    assert found_Q.tolist() == [7, 7]


def test_towers_are_probed_when_the_test_set_is_scored(values, tmp_path):
    path = cli_data.write_yaml(
        tmp_path / "tiny.yaml",
        cli_data.changed(
            values, {"trainer.max_steps": 2, "run.test": True, "probe": {"k": 3, "max_train": 20}}
        ),
    )
    assert cli_data.run_in_process("fit", "-c", path, "--run.root", tmp_path / "runs") == 0
    run = cli_data.only_run(tmp_path / "runs")
    rows = cli_data.read_rows(run / "metrics.jsonl")
    scores = {k: v for row in rows for k, v in row.items() if "/knn/" in k or "/linear/" in k}
    assert set(scores) == {
        f"test/{method}/{name}_{figure}"
        for method in ("knn", "linear")
        for name in ("image", "text", "audio")
        for figure in ("accuracy", "macro_f1")
    }
    # Four colours: even random encoders tell their images apart.
    assert scores["test/knn/image_accuracy"] > 0.4


@pytest.mark.parametrize(
    ("settings", "message"),
    [(dict(k=0), "probe.k: 0"), (dict(methods=[]), "is empty"), (dict(inverse_l2=0), "above 0")],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Probe(**settings)
