"""`mmlight generate` of a trained run: texts that grow, batches, JSONL, mistakes in one line."""

import json

import cli_data
import pytest

from mmlight.__main__ import USER_MISTAKE


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    values = cli_data.experiment(cli_data.write_data(folder / "data"), folder / "runs")
    encoder = {
        "class_path": "mmlight.decoders.transformer_decoder.TransformerDecoder",
        "init_args": {"vocab_size": 260, "dim": 16, "num_layers": 1, "num_heads": 2},
    }
    model = {
        "class_path": "mmlight.tasks.causal_language.CausalLanguage",
        "init_args": {"towers": {"text": {"encoder": encoder}}, "optimizer": {"lr": 0.01}},
    }
    data = {"members": {"text": "txt"}, "image": None, "audio": None, "class_names": None}
    changes = {f"data.init_args.{name}": value for name, value in data.items()}
    changes |= {"model": model, "trainer.max_steps": 60, "trainer.check_val_every_n_epoch": 12}
    path = cli_data.write_yaml(folder / "tiny.yaml", cli_data.changed(values, changes))
    assert cli_data.run_in_process("fit", "-c", path, "--run.id", "one") == 0
    return folder / "runs/tiny/one"


def said(capsys, run, *arguments):
    capsys.readouterr()
    assert cli_data.run_in_process("generate", "--model", run, *arguments) == 0
    return capsys.readouterr().out


def test_one_answer_is_shown_as_it_grows_and_is_the_same_by_seed(run, capsys):
    given = ("--prompt", "red", "--max_new_tokens", "8", "--temperature", "1", "--seed", "5")
    plain = said(capsys, run, *given)
    assert plain.startswith("red")
    assert said(capsys, run, *given, "--stream") == plain
    assert said(capsys, run, *given) == plain
    others = {said(capsys, run, *given[:-1], str(seed)) for seed in range(4)}
    assert len(others) > 1


def test_prompts_of_a_file_are_answered_in_batches_and_keep_what_they_hold(run, tmp_path, capsys):
    words = ["red ", "green ", "blue ", "grey ", "r"]
    rows_in = [{"prompt": word, "number": n, "num_tokens": "mine"} for n, word in enumerate(words)]
    lines = [json.dumps(row) for row in rows_in]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n\n")
    given = ("--in", tmp_path / "in.jsonl", "--max_new_tokens", "6", "--stop", "\\n")
    rows = {}
    for size in (1, 2, 16):
        out = tmp_path / f"out{size}.jsonl"
        said(capsys, run, *given, "--out", out, "--batch-size", str(size))
        rows[size] = [json.loads(line) for line in out.read_text().splitlines()]
        assert [(row["prompt"], row["number"]) for row in rows[size]] == [
            (word, n) for n, word in enumerate(words)
        ]
        assert all(row["num_tokens"] == "mine" for row in rows[size])
        assert all(row["generated_num_tokens"] <= 6 for row in rows[size])
    answers = [[row["answer"] for row in rows[size]] for size in rows]
    assert answers[0] == answers[1] == answers[2]
    printed = said(capsys, run, *given)
    assert all(row["prompt"] + row["answer"] in printed for row in rows[1])
    drawn = ("--temperature", "1", "--prompt", "red ", "--prompt", "red ", "--batch-size", "1")
    assert len(set(said(capsys, run, *drawn).split("\n\n")[:2])) == 2


def test_beams_say_what_is_likelier(run, tmp_path, capsys):
    found = {}
    for name, more in {"greedy": (), "beams": ("--beams", "4", "--length_penalty", "0")}.items():
        out = tmp_path / f"{name}.jsonl"
        said(capsys, run, "--prompt", "gre", "--max_new_tokens", "6", "--out", out, *more)
        (found[name],) = [json.loads(line) for line in out.read_text().splitlines()]
    assert found["beams"]["log_probability"] >= found["greedy"]["log_probability"] - 1e-5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ((), "give prompts by --prompt TEXT or by --in FILE, one of the two"),
        (("--in", "no.jsonl"), "--in no.jsonl: "),
        (("--prompt", "a", "--temperature", "nan"), "temperature must be 0 or more, not nan"),
        (("--prompt", "a", "--top_k", "3"), "top_k and top_p have an effect only with"),
        (("--prompt", "a", "--prompt", "b", "--stream"), "give one --prompt, and no --out"),
        (("--prompt", "a", "--batch-size", "0"), "--batch-size 0: at least 1"),
    ],
)
def test_mistakes_are_told_in_one_line(run, arguments, line, capsys):
    given = ("generate", "--model", run, *arguments)
    assert cli_data.run_in_process(*given) == USER_MISTAKE
    assert line in capsys.readouterr().err


def test_a_line_that_is_no_prompt_is_named(run, tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n{"text": "b"}\n')
    assert cli_data.run_in_process("generate", "--model", run, "--in", path) == USER_MISTAKE
    assert "line 2: is no object with a text `prompt`" in capsys.readouterr().err
    path.write_text("no json\n")
    assert cli_data.run_in_process("generate", "--model", run, "--in", path) == USER_MISTAKE
    assert "line 1: is no JSON" in capsys.readouterr().err
