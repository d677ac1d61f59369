"""What a training costs in which more and more of the model is trained."""

import json

import cli_data
import pytest
import weights_data
import yaml


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    data = cli_data.write_data(folder / "data")
    values = weights_data.experiment(data, folder / "runs")
    return cli_data.write_yaml(folder / "tiny.yaml", values)


def cost(capsys, path, *more: str) -> dict:
    given = ("--device", "h200", "--json", "--trainer.max_steps", "8", *more)
    assert cli_data.run_in_process("cost", "-c", path, *given) == 0
    said = capsys.readouterr()
    assert len(said.err.splitlines()) < 4, said.err
    return json.loads(said.out.splitlines()[-1])


def test_the_mean_goes_by_the_unfreezing_schedule_and_memory_by_its_end(path, capsys):
    def unfreeze(text: str) -> dict:
        return cost(capsys, path, "--model.tuning.unfreeze", text)

    everything, head = cost(capsys, path), unfreeze("{0: head, 100: all}")
    some = unfreeze("{0: head, 6: all}")
    assert head["flops_per_sample"] < 0.6 * everything["flops_per_sample"]
    mean = (6 * head["flops_per_sample"] + 2 * everything["flops_per_sample"]) / 8
    assert some["flops_per_sample"] == pytest.approx(mean, rel=1e-6)
    assert some["memory_ddp"] == pytest.approx(everything["memory_ddp"])
    assert any("from step 6" in note for note in some["notes"])


def test_weights_of_another_run_are_not_warned_about_one_by_one(path, capsys, recwarn):
    values = yaml.safe_load(path.read_text())
    run = weights_data.train(values, path.parent, "--trainer.max_steps", "1")
    tower = values["model"]["init_args"]["towers"]["image"]
    tower |= {"from_run": str(run), "encoder": None}
    capsys.readouterr()
    recwarn.clear()
    cost(capsys, cli_data.write_yaml(path.parent / "tuned.yaml", values))
    assert not [w for w in recwarn if "meta" in str(w.message)]
