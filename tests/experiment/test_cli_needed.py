"""A model of two modalities on data of three: the third is neither decoded nor asked for."""

from cli_data import changed, experiment, run_in_process, write_data, write_shard, write_yaml


def test_a_data_file_of_several_tasks_serves_each(tmp_path, capsys):
    data = write_data(tmp_path / "data")
    write_shard(data / "val/0.tar", range(40, 50), without=("flac", "txt"))
    settings = {
        "model.class_path": "mmlight.tasks.classification.Classification",
        "model.init_args": {
            "towers": {"image": experiment(data, tmp_path)["model"]["init_args"]["towers"]["image"]}
        },
        "data.init_args.text": None,  # though the members name one
        "trainer.max_steps": 2,
    }
    config = write_yaml(tmp_path / "tiny.yaml", changed(experiment(data, tmp_path), settings))
    assert run_in_process("fit", "-c", config) == 0
    said = capsys.readouterr().err.splitlines()
    assert "mmlight: train 40: 40 images; val 10: 10 images" in said
