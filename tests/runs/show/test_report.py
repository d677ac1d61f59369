import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mmlight.files import write_json
from mmlight.runs.run.folder import Run
from mmlight.runs.run.metrics_log import final_values
from mmlight.runs.run.stage_rows import write_stage_rows
from mmlight.runs.run.summary import best_values
from mmlight.runs.show.final_scores import format_table
from mmlight.runs.show.report import write_report
from mmlight.terminal import Terminal


def summary(**changes):
    return {
        "name": "scenes",
        "id": "one",
        "verb": "fit",
        "status": "finished",
        "error": None,
        "final": {
            "train/loss": 0.5,
            "val/loss": "nan",
            "val/image_to_text/recall_at_1": 0.5,
            "val/image_to_text/recall_at_5": 0.75,
            "val/image_to_text/median_rank": 2.0,
            "val/image_to_text/chance_recall_at_1": 0.01,
            "test/zero_shot/image_accuracy_at_1": 0.975,
        },
        "best": {"val/loss": {"value": 0.4, "step": 1200}},
        "steps": 1500,
        "samples_seen": 96000,
        "samples_per_s": 512.3,
        "wall_s": 187.0,
        "ended": "2026-01-01T00:00:00+00:00",
        "peak_memory_mb": {"process": 812.0},
        "seed": 0,
        "data": {"fingerprint": {"train": "ab" * 32}},
        "checkpoints": {"best": None, "last": "checkpoints/last.ckpt"},
        "git": {"commit": "c" * 40, "branch": "main", "dirty": True, "untracked": 0},
        "packages": {"torch": "2.11.0"},
        "command": "mmlight fit --name '<b>bold</b>'",
        "devices": ["cpu"],
        **changes,
    }


@pytest.fixture
def run(tmp_path):
    folder = Run(tmp_path / "scenes" / "one")
    write_json(folder.summary_json, summary())
    folder.config_yaml.write_text("model:\n  name: a & b\n")
    folder.plots.mkdir()
    for name in ("val_similarity_image_text", "curves", "val_retrieval_image_to_text"):
        Image.fromarray(np.full((20, 40, 3), 200, np.uint8)).save(folder.plots / f"{name}.png")
    return folder


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.open, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img", "br", "!doctype"):
            self.open.append(tag)
        self.links += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(path):
    page = Page()
    page.feed(path.read_text())
    assert page.open == []
    return page


def test_report_holds_everything_and_points_nowhere(run):
    page = parse(write_report(run))
    text = " ".join(page.text)
    for part in ("val: image → text", "R@1 %", "50.0", "1.00", "50 x", "97.5 %", "nan", "c" * 40):
        assert part in text, part
    assert "a & b" in text and "<b>bold</b>" in text and "b" not in page.tags
    assert "uncommitted changes" in text and "torch==2.11.0" in text
    assert len(page.links) == 3 and all(s.startswith("data:image/png;base64,") for s in page.links)
    assert "script" not in page.tags and "link" not in page.tags
    assert not re.search(r"url\(|@import|https?:", run.report.read_text())


def test_report_tells_notes_and_the_address_at_wandb(run):
    run.summary_json.write_text(json.dumps(summary(notes="why <b>it was run")))
    (run.path / "wandb-url").write_text("https://w.example/me/p/runs/1\n")
    page = write_report(run).read_text()
    assert "https://w.example/me/p/runs/1" in page and "why &lt;b&gt;it was run" in page


def test_explanations_have_a_table_of_their_own(run):
    final = {
        "test/explain/image_grad_cam_deletion_auc": 0.1234,
        "test/explain/image_grad_cam_insertion_auc": 0.75,
        "test/explain/image_random_deletion_auc": 0.5,
        "test/explain/image_random_insertion_auc": 0.5,
        "test/explain/text_integrated_gradients_deletion_auc": 0.2,
        "test/explain/text_integrated_gradients_insertion_auc": 0.6,
        "test/explain/text_integrated_gradients_gap": 0.004,
        "test/accuracy": 0.9,
    }
    write_json(run.summary_json, summary(final=final))
    page = parse(write_report(run))
    text = " ".join(page.text)
    for part in ("test: image, grad cam", "0.123", "test: image, random", "0.40 %", "90.0 %"):
        assert part in text, part
    assert "explain/" not in text
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(format_table(json.loads(run.summary_json.read_text())))
    printed = console.export_text()
    assert "test: text, integrated gradients" in printed and "explain/" not in printed


def test_mistakes_are_shown_with_their_samples(run):
    for name in ("a.png", "a.flac"):
        (run.mistakes / name).parent.mkdir(exist_ok=True)
        (run.mistakes / name).write_bytes(b"content")
    row = {
        **dict(number=3, key="s/3", label="cat", prediction="<dog>", confidence=0.987),
        **dict(label_probability=0.01, loss="inf", loss_rank=1, confidence_rank=2),
        **dict(image="mistakes/a.png", spectrogram=None, sound="mistakes/a.flac", text="a & b"),
    }
    write_stage_rows(run.mistakes_jsonl, [row, {**row, "sound": None}], stage="test")
    write_stage_rows(run.mistakes_jsonl, [{**row, "key": "v/1"}], stage="val")
    write_stage_rows(run.mistakes_jsonl, [{**row, "key": "v/2"}], stage="val")
    page = parse(write_report(run))
    text = " ".join(page.text)
    assert "<dog>" in text and "0.987" in text and "a & b" in text and "inf" in text
    assert "val: v/2" in text and "v/1" not in text and "spectrogram" not in text
    assert sum(link.startswith("data:audio/flac;base64,") for link in page.links) == 2


EVIL = "<script>alert(1)</script><img src=x onerror=y>\"'&"


def evil(value):
    """Return a record all of whose texts a stranger wrote."""
    if isinstance(value, dict):
        return {f"{key}": evil(v) for key, v in value.items()}
    return f"{value}{EVIL}" if isinstance(value, str) and value != "nan" else value


def test_nothing_that_strangers_wrote_is_a_part_of_the_page(run):
    told = evil(summary()) | {"status": "failed", "error": EVIL, "devices": [EVIL], "host": EVIL}
    told["ended"] = summary()["ended"]
    told["final"] = {f"val/{EVIL}": 0.5, f"val/image{EVIL}_to_text/recall_at_1": 0.5}
    told["final"] |= {f"val/explain/image/{EVIL}/deletion_auc": 0.5}
    write_json(run.summary_json, told)
    run.config_yaml.write_text(EVIL)
    row = {"image": None, "spectrogram": None, "sound": None, "text": EVIL, "label": EVIL}
    row |= {"prediction": EVIL, "key": EVIL, "confidence": 0.5, "label_probability": 0.5}
    write_stage_rows(run.mistakes_jsonl, [row | {"loss": 1.0, "confidence_rank": 1}], stage="val")
    page = parse(write_report(run))
    assert "script" not in page.tags and page.tags.count("img") == 3
    assert all(link.startswith("data:") for link in page.links)
    assert " ".join(page.text).count("alert(1)") >= 10


def test_curves_come_first(run):
    html = write_report(run).read_text()
    places = [html.index(f">{n}<") for n in ("curves", "val retrieval image to text",
                                             "val similarity image text")]  # fmt: skip
    assert places == sorted(places)


def test_failed_run_says_why(run):
    write_json(run.summary_json, summary(status="failed", error="ArithmeticError: <nan>", final={}))
    text = " ".join(parse(write_report(run)).text)
    assert "failed" in text and "ArithmeticError: <nan>" in text


def test_classes_have_no_line_each_in_the_table_of_a_terminal():
    scores = {f"val/class/{name}/ap": 0.5 for name in "abc"} | {"val/map": 0.25}
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(format_table({"name": "x", "id": "y", "final": scores}))
    text = console.export_text()
    assert "val/map" in text and "class/" not in text and "scores of 3 classes" in text


def test_each_set_of_several_has_its_directions():
    scores = {f"{stage}/image_to_text/recall_at_1": 0.5 for stage in ("val", "val/web", "train")}
    console = Terminal(width=80, record=True)
    console.print(format_table({"name": "x", "id": "y", "final": scores}))
    text = console.export_text()
    assert "val: image → text" in text and "val/web: image → text" in text and "train" not in text


def test_table_fits_a_narrow_terminal(run):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    console.print(format_table(json.loads(run.summary_json.read_text())))
    text = console.export_text()
    for part in ("val: image → text", "R@1 %", " 50.0 ", " 75.0 ", " 1.00 ", " 50 x",
                 "test/zero_shot/image_accuracy_at_1"):  # fmt: skip
        assert part in text, text
    assert "…" not in text


def test_what_is_neither_better_small_nor_large_has_no_best():
    costs = ("train/loss_ms", "train/encode_ms", "train/peak_memory_mb", "train/flop_share")
    others = ("val/num_samples", "val/logit_scale", "val/psnr", "train/accuracy", "val/loss_ms")
    scores = {"val/loss": 1, "val/macro_f1": 0.5, "test/wer": 0.2, "val/ap50": 0.3}
    scores |= {"train/loss": 2, "train/caption_loss": 3, "val/zero_shot/image_accuracy_at_1": 0.4}
    row = {"step": 1, "samples": 8, "wall_s": 1.0, **dict.fromkeys((*costs, *others), 1.0)}
    assert best_values([row | scores]).keys() == scores.keys()
    known = best_values([row, {"step": 2, "val/psnr": 0.5}], known={"val/psnr": "min"})
    assert known["val/psnr"]["step"] == 2 and set(known) == {"val/psnr"}


def test_best_is_the_first_best_and_never_nan():
    rows = [
        {"step": 1, "val/loss": "nan", "val/x_to_y/recall_at_1": 0.2, "lr": 1},
        {"step": 2, "val/loss": 0.5, "val/x_to_y/recall_at_1": 0.4, "train/samples_per_s": 9},
        {"step": 3, "val/loss": 0.5, "val/x_to_y/chance_recall_at_1": 0.1, "train/loss": 2},
        {"step": 4, "val/loss": 0.9, "val/x_to_y/recall_at_1": 0.3, "train/loss": 3},
    ]
    best = best_values(rows)
    assert {n: (b["value"], b["step"]) for n, b in best.items()} == {
        "val/loss": (0.5, 2),
        "val/x_to_y/recall_at_1": (0.4, 2),
        "train/loss": (2, 3),
    }
    assert final_values(rows)["val/loss"] == 0.9


def test_scores_of_classes_are_one_line_in_the_terminal(capsys):
    final = {"val/map": 0.5, "val/class/cat/ap50": 0.5, "val/class/dog/ap50": 0.25}
    Terminal(soft_wrap=True).print(format_table({"name": "a", "id": "1", "final": final}))
    said = capsys.readouterr().out
    (line,) = (line for line in said.splitlines() if "classes" in line)
    assert line.rstrip() == "scores of 2 classes: in the report"
