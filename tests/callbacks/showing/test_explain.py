import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from cli_data import changed, experiment, only_run, run_in_process, write_data, write_yaml
from PIL import Image

from mmlight.callbacks.showing.explain import Explain
from mmlight.errors import UserError
from mmlight.runs.run.metrics_log import read_rows
from mmlight.runs.run.stage_rows import read_stage_rows

QUICK = {
    "num_samples": 3,
    "num_drawn": 2,
    "gradient_steps": 16,
    "curve_steps": 4,
    "random_orders": 2,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def classifier(data, runs, **changes):
    values = experiment(data, runs)
    values["model"]["class_path"] = "mmlight.tasks.classification.Classification"
    for key in ("objective", "embed_dim"):
        del values["model"]["init_args"][key]
    return changed(values, {"trainer.max_steps": 3, **changes})


def test_answers_are_explained_from_a_trained_run(data, tmp_path):
    """Training as always, then `mmlight test -c config.yaml --ckpt_path last --explain ...`."""
    file = write_yaml(tmp_path / "tiny.yaml", classifier(data, tmp_path / "runs"))
    run_in_process("fit", "-c", file)
    trained = only_run(tmp_path / "runs")
    assert not (trained / "explanations.jsonl").exists()
    run_in_process(
        *("test", "-c", trained / "config.yaml", "--ckpt_path", "last"),
        *("--explain", json.dumps(QUICK), "--mistakes", '{"num_samples": 2}'),
    )
    run = trained / "test"
    rows = read_stage_rows(run / "explanations.jsonl")
    methods = ["attention", "rollout", "grad_cam", "integrated_gradients"]
    of_text = [m for m in methods if m != "grad_cam"]
    assert [(r["modality"], r["number"], r["method"]) for r in rows] == [
        (modality, number, method)
        for modality, asked in (("image", methods), ("text", of_text), ("audio", methods))
        for number in (0, 3, 7)
        for method in asked
    ]
    by_metric = {k: v for row in read_rows(run / "metrics.jsonl") for k, v in row.items()}
    for modality, asked in (("image", methods), ("text", of_text), ("audio", methods)):
        for method in [*asked, "random"]:
            for kind in ("deletion", "insertion"):
                assert 0 <= by_metric[f"test/explain/{modality}_{method}_{kind}_auc"] <= 1
        assert by_metric[f"test/explain/{modality}_integrated_gradients_gap"] < 0.05
    names = {p.stem for p in (run / "plots").glob("*.png")}
    assert names == {"test_mistakes"} | {
        f"test_explain_{modality}{kind}"
        for modality in ("image", "text", "audio")
        for kind in ("", "_faithfulness", "_heads")
    }
    for name in names:
        assert Image.open(run / "plots" / f"{name}.png").size[0] > 250
    heard = [p.name for p in sorted((run / "plots" / "sounds").glob("*.flac"))]
    assert heard == ["test_explain_audio_00.flac", "test_explain_audio_01.flac"]
    page = (run / "report.html").read_text()
    kept = [row for row in read_stage_rows(run / "mistakes.jsonl") if row["sound"]]
    assert page.count("<audio controls") == 2 + len(kept)
    assert "test: image, integrated gradients" in page and "Worst mistakes" in page
    text = next(r for r in rows if r["modality"] == "text")
    assert "".join(text["units"]) == "blue1"  # sample 50, byte by byte


def test_a_contrastive_models_similarity_is_explained(data, tmp_path):
    values = changed(
        experiment(data, tmp_path / "runs"),
        {"trainer.max_steps": 2, "explain": {**QUICK, "methods": ["rollout"]}},
    )
    run_in_process("fit", "-c", write_yaml(tmp_path / "tiny.yaml", values))
    run = only_run(tmp_path / "runs")
    rows = read_stage_rows(run / "explanations.jsonl")
    assert {r["stage"] for r in rows} == {"val"}
    assert [r["answer"] for r in rows] == ["its text"] * 3 + ["its image"] * 3 + ["its text"] * 3
    assert rows[0]["truth"] == "red 5"  # the caption of sample 40


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"methods": ["rolout"]}, "no 'rolout' .did you mean 'rollout'"),
        ({"methods": []}, "explain.methods is empty"),
        ({"num_samples": 0}, "explain.num_samples is 0"),
        ({"image_blank": "white"}, "explain.image_blank: use one of mean, black, blurred"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Explain(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": "true"}, "explain.target has no effect on a Contrastive"),
        ({"modalities": ["audio"], "image_blank": "black"}, "explain.image_blank has no effect"),
    ],
)
def test_settings_without_effect_are_refused(data, tmp_path, settings, said, capsys):
    values = changed(experiment(data, tmp_path / "runs"), {"explain": settings})
    assert run_in_process("fit", "-c", write_yaml(tmp_path / "tiny.yaml", values)) == 2
    assert said in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(UserError, match=r"pip install 'mmlight\[explain\]'"):
        Explain()
    Explain(methods=["rollout", "grad_cam"])
