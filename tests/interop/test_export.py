"""What `mmlight export` writes, compared with the task it was made of."""

import json
import shutil
import stat

import every_task
import pytest
import torch
from safetensors import safe_open
from torch import nn

from mmlight.__main__ import main
from mmlight.errors import UserError
from mmlight.interop.export_command import export
from mmlight.interop.export_formats import Traced, compare, know, trace, write_torch
from mmlight.interop.export_inputs import Sizes, make_inputs
from mmlight.interop.scan_gru import ScanGru
from mmlight.saved.checkpoint import read_export, read_saved
from mmlight.tasks.load import load_task


@pytest.fixture
def run(tmp_path):
    """The folder of a run, as training leaves it."""
    folder = tmp_path / "runs/flowers/20260101-000000-abcd"
    (folder / "checkpoints").mkdir(parents=True)
    every_task.save(every_task.make("image_classes"), folder / "checkpoints/step-00000007.ckpt")
    summary = {
        "name": "flowers",
        "id": folder.name,
        "command": "mmlight fit -c flowers.yaml",
        "final": {"val/accuracy": 0.5, "train/loss": 1.0},
        "steps": 7,
        "seed": 0,
        "data": {"fingerprint": {"train": "f" * 64}},
        "packages": {"torch": "2.11"},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "test").mkdir()
    (folder / "test/summary.json").write_text(json.dumps({"final": {"test/accuracy": 0.75}}))
    (folder / "config.yaml").write_text(
        "trainer: {max_epochs: 3, devices: 1}\nmodel: {init_args: {optimizer: {lr: 0.01}}}\n"
    )
    return folder


def test_folder_holds_the_task_as_plain_files_and_a_card(run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out), "--format", "none"]) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "model.safetensors", "task.json", "preprocessing.json", "checksums.json", "export.json",
        "README.md",
    }  # fmt: skip
    assert stat.S_IMODE((out / "model.safetensors").stat().st_mode) & 0o044
    with safe_open(out / "model.safetensors", framework="pt") as file:
        assert "towers.image.encoder.model.pos_embed" in file.keys()
    task, again = load_task(next((run / "checkpoints").iterdir())), load_task(out)
    for name, tensor in task.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    assert again.preprocessing["class_names"] == every_task.NAMES
    card = (out / "README.md").read_text()
    wanted = ["# flowers / 20260101", "`Classification` model", "cat, dog, owl", "f" * 64]
    wanted += ["| test/accuracy | 0.75 |", "mmlight fit -c flowers.yaml", "lr: 0.01", "torch 2.11"]
    for told in [*wanted, "max_epochs: 3"]:
        assert told in card
    assert "devices: 1" not in card and "val/accuracy" not in card
    assert f"export: {out}" in capsys.readouterr().out


def test_adapters_are_merged_and_compilation_is_left_out(tmp_path):
    pytest.importorskip("peft")
    path = every_task.save(every_task.make("adapted"), tmp_path / "a.ckpt")
    (tmp_path / "out").mkdir()
    export(path, tmp_path / "out", formats=())
    saved = read_export(tmp_path / "out")
    assert not any("lora" in name for name in saved.tensors)
    assert saved.description["init_args"]["compile"] == "none"
    assert json.loads((tmp_path / "out/export.json").read_text())["num_merged_adapters"] == 12
    assert "12 low-rank adapters were merged" in (tmp_path / "out/README.md").read_text()


def test_damaged_or_foreign_folders_are_refused(tmp_path):
    path = every_task.save(every_task.make("image_classes"), tmp_path / "a.ckpt")
    out = tmp_path / "out"
    out.mkdir()
    export(path, out, formats=())
    (out / "model.safetensors").write_bytes(b"12345678901")
    with pytest.raises(UserError, match=r"out: model\.safetensors is cut short, or has grown"):
        read_saved(out)
    (out / "checksums.json").unlink()  # as earlier versions left it
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        read_saved(out)
    (out / "task.json").write_text('{"format": "mmlight-export", "version": 9}')
    with pytest.raises(UserError, match="version 9 of the format; this mmlight reads version 1"):
        read_saved(out)
    (out / "task.json").write_text("[]")
    with pytest.raises(UserError, match="was not written by mmlight export"):
        read_saved(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "tflite"], "tflite: use onnx, torch, open_clip, transformers or none"),
        (["--out", "{tmp}"], "is there already, and is no export; name another folder"),
        (["--samples", "nowhere.png", "--format", "torch"], "no file or folder 'nowhere.png'"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(run, tmp_path, capsys, arguments, message):
    filled = [a.format(tmp=tmp_path) for a in arguments]
    if "--out" not in filled:
        filled += ["--out", str(tmp_path / "out")]
    assert main(["export", str(run), *filled]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_earlier_export_is_replaced_only_when_asked(run, tmp_path):
    given = ["export", str(run), "--out", str(tmp_path / "out"), "--format", "none"]
    assert main(given) == 0
    (tmp_path / "out/model.onnx").write_text("old")
    assert main(given) == 2
    assert (tmp_path / "out/model.onnx").exists()
    assert main([*given, "--overwrite"]) == 0
    assert not (tmp_path / "out/model.onnx").exists()


def test_program_that_answers_otherwise_is_found_out(tmp_path):
    task = every_task.make("image_classes")
    (graph,) = task.graphs()
    graph.requires_grad_(False)
    inputs = [
        make_inputs(graph, task.preprocessing, sizes=Sizes(n, 1.0), look="smooth", seed=n)
        for n in (1, 3)
    ]
    known = know(graph, inputs)
    traced = trace(graph, inputs[1])
    assert traced.axes == {"pixels": ["batch", 3, 16, 16]}
    found = compare(graph, traced, write_torch(traced, tmp_path / "m.pt2"), known)
    assert found.num_inputs == 2 and found.largest < 1e-6
    with pytest.raises(UserError, match=r"logits differs from PyTorch by 0\.5"):
        compare(graph, traced, lambda given: [graph(*given)[0] + 0.5], known)
    with pytest.raises(UserError, match=r"logits has shape \(1, 2\), not \(1, 3\)"):
        compare(graph, traced, lambda given: [graph(*given)[0][:, 1:]], known)
    static = Traced(traced.program, {"pixels": [7, 3, 16, 16]}, {})
    with pytest.raises(UserError, match="nothing was compared"):
        compare(graph, static, lambda given: [], known)


def test_scan_is_the_recurrent_layer_with_any_number_of_frames():
    torch.manual_seed(0)
    layer = nn.GRU(6, 5, batch_first=True)
    scan = ScanGru(layer)
    with torch.no_grad():
        for shape in ((1, 1, 6), (3, 11, 6)):
            frames = torch.randn(shape)
            torch.testing.assert_close(scan(frames)[0], layer(frames)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in every_task.EVERY if name not in every_task.WITHOUT_GRAPH]
)
def test_every_task_runs_in_onnxruntime_and_as_a_program(name, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = every_task.save(every_task.make(name), tmp_path / "a.ckpt")
    files = every_task.write_files(tmp_path / "files")
    (tmp_path / "out").mkdir()
    written = export(path, tmp_path / "out", formats=("onnx", "torch"), samples=[str(files)])
    assert written
    for one in written:
        assert one.problem == "", one
        assert one.difference.relative < 5e-4 and one.difference.num_inputs >= 4
        assert (tmp_path / "out" / one.file).is_file()
        for name_of, axes in one.inputs.items():
            assert axes[0] == "batch", name_of
    named = {axis for one in written for axes in one.inputs.values() for axis in axes}
    if "token_ids" in {name_of for one in written for name_of in one.inputs}:
        assert "tokens" in named
    card = (tmp_path / "out/README.md").read_text()
    assert all(one.file in card for one in written)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", "{"),
        ("summary.json", '{"name": 1}'),
        ("summary.json", '{"name": "a", "id": "b", "devices": [1], "git": 3}'),
        ("test/summary.json", '{"final": {"test/accuracy": [0.5]}}'),
        ("config.yaml", "model: {"),
        ("config.yaml", "model: [1]"),
    ],
)
def test_damaged_files_of_the_run_are_named_in_one_line(run, tmp_path, capsys, file, content):
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    (folder / file).write_text(content)
    given = ["export", str(folder), "--out", str(tmp_path / "out"), "--format", "none"]
    assert main(given) == 2
    said = capsys.readouterr().err
    assert said.startswith("mmlight: the run's summary.json or config.yaml is damaged")
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()
