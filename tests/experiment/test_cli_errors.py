"""A user's mistake: one line on standard error, exit code 2, no traceback, nothing left behind."""

from pathlib import Path

import cli_data
import pytest

MODEL = "model.init_args."
DATA = "data.init_args."
IMAGE = f"{MODEL}towers.image.encoder.init_args."
AUDIO = f"{MODEL}towers.audio.encoder.init_args."


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = cli_data.write_data(tmp_path_factory.mktemp("data"))
    whole = cli_data.write_shard(folder / "cut/0.tar", range(20))
    whole.write_bytes(whole.read_bytes()[:9000])
    cli_data.write_shard(folder / "silent/0.tar", range(20), without=("flac",))
    (folder / "two_names.txt").write_text("red\ngreen\n")
    return folder


def complaints(said):
    """Return the lines on standard error; indexing and what is there are told there as well."""
    told = ("Indexing ", "mmlight: train ")
    return [line for line in said.splitlines() if line and not line.startswith(told)]


def fails(capsys, *arguments):
    """Run a command that must fail, and return the one line that it says."""
    capsys.readouterr()
    code = cli_data.run_in_process(*arguments)
    said = capsys.readouterr()
    lines = complaints(said.err)
    assert code == 2, said.err
    assert len(lines) == 1, said.err
    assert lines[0].startswith("mmlight: ")
    assert "train 1/" not in said.out
    return lines[0].removeprefix("mmlight: ")


MISTAKES = {
    "no shard": ({f"{DATA}train.shards": "{data}/trains/*.tar"}, ["no shard", "mean 'train'?"]),
    "cut shard": ({f"{DATA}train.shards": "{data}/cut"}, ["cut/0.tar", "cut short"]),
    "cut val shard": ({f"{DATA}val.shards": "{data}/cut"}, ["cut/0.tar", "cut short"]),
    "repeated shard": (
        {f"{DATA}train.shards": ["{data}/train", "{data}/train/0.tar"]},
        ["0.tar is named twice"],
    ),
    "member of no sample": (
        {f"{DATA}train.shards": "{data}/silent"},
        ["members.audio", "'flac'", "it has cls, json, png, txt"],
    ),
    "misnamed member": ({f"{DATA}members.image": "pngg"}, ["members.image", "mean 'png'?"]),
    "json key of no sample": (
        {f"{DATA}members.text": "json:caption"},
        ["json:caption", "mean 'captions'?"],
    ),
    "too few samples": (
        {f"{DATA}global_batch_size": 64},
        ["40 samples are fewer than one global batch of 64"],
    ),
    "too few class names": ({f"{DATA}class_names": "{data}/two_names.txt"}, ["label 3", "only 2"]),
    "zero-shot without labels": (
        {f"{DATA}members.label": None, "zero_shot": {}},
        ["zero_shot needs labels", "data.members.label"],
    ),
    "zero-shot of no tower": (
        {"zero_shot": {"modalities": ["audio"]}, f"{MODEL}towers.audio": None},
        ["zero_shot.modalities names audio", "towers for image"],
    ),
    "no class names": ({f"{DATA}class_names": "{data}/none.txt"}, ["none.txt cannot be read"]),
    "unknown timm model": ({f"{IMAGE}name": "resnet19"}, ["no model 'resnet19'", "mean 're"]),
    "other image size": ({f"{DATA}image.size": 32}, ["16 x 16 pixels, but the images are 32"]),
    "other sampling rate": (
        {f"{DATA}audio.sample_rate_hz": 8000},
        ["data.audio.sample_rate_hz is 8000", "wants 4000"],
    ),
    "one tower": (
        {f"{MODEL}towers.text": None, f"{MODEL}towers.audio": None},
        ["model.towers names ['image']", "at least two"],
    ),
    "value out of range": ({f"{MODEL}optimizer.lr": -1}, ["optimizer.lr: -1.0 must be positive"]),
    "callback's value": ({"ema": {"decay": 2}}, ["ema decay 2.0 must lie between 0 and 1"]),
    "no such strategy": ({"trainer.strategy": "dpp"}, ["trainer:", "dpp"]),
    "rounded inputs": ({"trainer.precision": "bf16-true"}, ["bf16-true", "use bf16-mixed"]),
    "negative steps": ({"trainer.max_steps": -5}, ["max_steps", "-5"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_line_and_leaves_no_run(mistake, made, tmp_path, capsys):
    changes, said = MISTAKES[mistake]
    values = cli_data.changed(
        cli_data.experiment(made, tmp_path / "runs"), _filled(changes, data=str(made))
    )
    line = fails(capsys, "fit", "-c", cli_data.write_yaml(tmp_path / "tiny.yaml", values))
    assert [part for part in said if part not in line] == [], line
    assert list((tmp_path / "runs").rglob("*")) == []


def _filled(value, **names):
    if isinstance(value, str):
        return value.format(**names)
    if isinstance(value, dict):
        return {key: _filled(item, **names) for key, item in value.items()}
    return [_filled(item, **names) for item in value] if isinstance(value, list) else value


# What parsing alone refuses: quick, because nothing is built.
KEYS = {
    "top": ({"trainr": {"max_steps": 3}}, "unknown key `trainr` (did you mean 'trainer'?)"),
    "top, empty": ({"pictrues": {}}, "unknown key `pictrues` (did you mean 'pictures'?)"),
    "trainer": (
        {"trainer.max_step": 3},
        "unknown key `trainer.max_step` (did you mean 'trainer.max_steps'?)",
    ),
    "model": (
        {f"{MODEL}embed_dims": 3},
        "unknown key `model.embed_dims` (did you mean 'embed_dim'?)",
    ),
    "model, beside init_args": (
        {"model.init_arg": {"embed_dim": 3}},
        "unknown key `model.init_arg` (did you mean 'init_args'?)",
    ),
    "towers": (
        {f"{MODEL}towers.images": {"locked": True}},
        "unknown key `model.towers.images` (did you mean 'image'?)",
    ),
    "tower": (
        {f"{MODEL}towers.image.lockd": True},
        "unknown key `model.towers.image.lockd` (did you mean 'locked'?)",
    ),
    "encoder": (
        {f"{IMAGE}naem": "resnet18"},
        "unknown key `model.towers.image.encoder.naem` (did you mean 'name'?)",
    ),
    "settings of an encoder": (
        {f"{AUDIO}mel.n_mel": 3},
        "unknown key `model.towers.audio.encoder.mel.n_mel` (did you mean 'n_mels'?)",
    ),
    "objective": (
        {f"{MODEL}objective.init_args": {"positive": "caption"}},
        "unknown key `model.objective.positive` (did you mean 'positives'?)",
    ),
    "optimizer": (
        {f"{MODEL}optimizer.lrr": 1},
        "unknown key `model.optimizer.lrr` (did you mean 'lr'?)",
    ),
    "data": (
        {f"{DATA}global_batchsize": 3},
        "unknown key `data.global_batchsize` (did you mean 'global_batch_size'?)",
    ),
    "members": (
        {f"{DATA}members.imag": "png"},
        "unknown key `data.members.imag` (did you mean 'image'?)",
    ),
    "run": ({"run.wandbb": "off"}, "unknown key `run.wandbb` (did you mean 'run.wandb'?)"),
    "ema": ({"ema": {"deca": 0.9}}, "unknown key `ema.deca` (did you mean 'decay'?)"),
    "whole number": (
        {f"{MODEL}embed_dim": "wide"},
        "model.embed_dim: must be a whole number, not wide",
    ),
    "number": (
        {f"{MODEL}optimizer.lr": "big"},
        "model.optimizer.lr: must be a number, not big",
    ),
    "optional number": (
        {f"{IMAGE}img_size": "big"},
        "model.towers.image.encoder.img_size: must be a whole number, not big",
    ),
    "choice": (
        {f"{MODEL}schedule.kind": "cosin"},
        "model.schedule.kind: must be one of cosine, constant, rsqrt, linear, not cosin",
    ),
    "class of the model": (
        {"model.class_path": "mmlight.tasks.contrastive.Contrstive"},
        "model: there is no class or module mmlight.tasks.contrastive.Contrstive "
        "(did you mean 'Contrastive'?)",
    ),
    "module of an encoder": (
        {f"{MODEL}towers.image.encoder.class_path": "mmlight.encoders.timm_imag.TimmImage"},
        "model.towers.image.encoder: there is no class or module mmlight.encoders.timm_imag "
        "(did you mean 'timm_image'?)",
    ),
    "class of a tokenizer": (
        {f"{DATA}text.tokenizer.class_path": "mmlight.text.tokenizer.ByteTokenize"},
        "data.text.tokenizer: there is no class or module mmlight.text.tokenizer.ByteTokenize "
        "(did you mean 'ByteTokenizer'?)",
    ),
    "required": (
        {f"{IMAGE}name": None},
        "model.towers.image.encoder: name is not set, but required",
    ),
    "no model": (
        {"model": None},
        "`model` is not set; give a config file: -c experiments/pretrain/NAME.yaml",
    ),
}


@pytest.mark.parametrize("mistake", KEYS)
def test_yaml_that_does_not_parse_names_key_and_remedy(mistake, made, tmp_path, capsys):
    changes, said = KEYS[mistake]
    values = cli_data.changed(cli_data.experiment(made, tmp_path / "runs"), changes)
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    line = fails(capsys, "fit", "-c", path)
    assert line.removeprefix(f"config file {path}: ") == said
    assert not (tmp_path / "runs").exists()


def test_unknown_option_on_the_command_line(made, tmp_path, capsys):
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", cli_data.experiment(made, tmp_path / "runs"))
    line = fails(capsys, "fit", "-c", path, "--trainer.max_stpes", "3")
    assert line == "unknown key `trainer.max_stpes` (did you mean 'trainer.max_steps'?)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fti"], "unknown verb 'fti' (did you mean 'fit'?); see mmlight --help"),
        (["fit", "-c", "none.yaml"], "config file none.yaml: no such file"),
        (["fit", "-c"], "-c needs the path of a config file"),
    ],
)
def test_command_that_names_nothing(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert fails(capsys, *arguments) == said


@pytest.fixture(scope="module")
def trained(made, tmp_path_factory):
    """A run of two steps, its YAML, and the folder of runs."""
    folder = tmp_path_factory.mktemp("trained")
    values = cli_data.changed(
        cli_data.experiment(made, folder / "runs"),
        {"trainer.max_steps": 2, f"{DATA}val": None, "trainer.check_val_every_n_epoch": None},
    )
    path = cli_data.write_yaml(folder / "tiny.yaml", values)
    assert cli_data.run_in_process("fit", "-c", path) == 0
    return path, values, cli_data.only_run(folder / "runs")


@pytest.mark.parametrize("verb", ["test", "robustness"])
def test_a_runs_folder_is_a_checkpoint_for_every_verb(trained, tmp_path, verb):
    path, _, run = trained
    given = ("-c", path, "--ckpt_path", run, "--run.root", tmp_path / "runs")
    few = ("--corruptions", "image:noise", "--severities", "1", "--metric")
    few = (*few, "audio_to_image/recall_at_1") if verb == "robustness" else ()
    assert cli_data.run_in_process(verb, *given, *few) == 0


def test_checkpoint_of_another_model_is_refused(trained, tmp_path, capsys):
    _, values, run = trained
    checkpoint = next((run / "checkpoints").glob("*.ckpt"))
    other = cli_data.changed(
        values, {f"{MODEL}embed_dim": 4, "run.root": str(tmp_path / "runs"), "trainer.max_steps": 4}
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", other)
    line = fails(capsys, "fit", "-c", path, "--ckpt_path", checkpoint)
    assert "checkpoint is of another model" in line
    assert "towers.image.projection.weight is (8, 16), not (4, 16)" in line
    assert list((tmp_path / "runs").rglob("*")) == []


def test_checkpoint_of_other_data_is_refused(trained, tmp_path, capsys):
    path, _, run = trained
    checkpoint = next((run / "checkpoints").glob("*.ckpt"))
    before = sorted(path.parent.rglob("*"))
    line = fails(
        capsys,
        *("fit", "-c", path, "--ckpt_path", checkpoint),
        *("--data.init_args.global_batch_size", "4", "--trainer.max_steps", "4"),
    )
    assert "data.global_batch_size was 8 and is 4" in line
    assert sorted(path.parent.rglob("*")) == before


def test_broken_checkpoints_are_refused(trained, tmp_path, capsys):
    path, _, run = trained
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(next((run / "checkpoints").glob("*.ckpt")).read_bytes()[:5000])
    assert "is cut short or damaged" in fails(capsys, "test", "-c", path, "--ckpt_path", cut)
    none = tmp_path / "none.ckpt"
    assert "none.ckpt: no such file or run folder" in fails(
        capsys, "fit", "-c", path, "--ckpt_path", none
    )


def test_evaluation_without_checkpoint_is_refused(trained, tmp_path, capsys):
    path, _, _ = trained
    assert fails(capsys, "validate", "-c", path) == (
        "validate needs trained weights: --ckpt_path FILE or RUN_FOLDER, or --ckpt_path last or "
        "best"
    )


def test_failed_evaluation_keeps_the_run_as_it_was(trained, capsys):
    path, _, run = trained
    before = sorted(run.rglob("*"))
    line = fails(capsys, "validate", "-c", path, "--ckpt_path", "last")
    assert "validate needs data.val.shards" in line
    assert sorted(run.rglob("*")) == before


def test_last_without_any_run_is_refused(made, tmp_path, capsys):
    values = cli_data.experiment(made, tmp_path / "runs")
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    line = fails(capsys, "fit", "-c", path, "--ckpt_path", "last")
    assert "no run to continue" in line and "leave out '--ckpt_path last'" in line
    assert not (tmp_path / "runs").exists()


def test_unknown_metric_to_monitor_names_the_nearest(made, tmp_path, capsys):
    values = cli_data.changed(
        cli_data.experiment(made, tmp_path / "runs"),
        {"checkpoint": {"monitor": "val/image_to_txt/recall_at_1"}, "trainer.max_steps": 5},
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    capsys.readouterr()
    assert cli_data.run_in_process("fit", "-c", path) == 2
    assert complaints(capsys.readouterr().err) == [
        "mmlight: checkpoint.monitor: there is no metric 'val/image_to_txt/recall_at_1' "
        "(did you mean 'val/image_to_text/recall_at_1'?)"
    ]


def test_too_many_bad_samples_stop_the_run_and_are_named(made, tmp_path, capsys):
    shard = cli_data.write_shard(tmp_path / "bad/0.tar", range(16))
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b"\x89PNG", b"\x89PGN"))
    values = cli_data.changed(
        cli_data.experiment(made, tmp_path / "runs"),
        {f"{DATA}train.shards": str(shard.parent), f"{DATA}max_bad_fraction": 0.1},
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    line = fails(capsys, "fit", "-c", path)
    assert "cannot be decoded" in line


@pytest.mark.slow  # it imports torch anew
def test_process_prints_one_line_and_no_traceback(made, tmp_path):
    values = cli_data.changed(
        cli_data.experiment(made, tmp_path / "runs"), {f"{MODEL}optimizer.lr": -1}
    )
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", values)
    process = cli_data.start("fit", "-c", path, cwd=tmp_path)
    said, error = process.communicate(timeout=120)
    assert process.returncode == 2
    assert error == "mmlight: optimizer.lr: -1.0 must be positive (usual is 5e-4)\n"
    assert said == ""
    assert [p for p in Path(tmp_path).rglob("*") if p.name != "tiny.yaml"] == []
