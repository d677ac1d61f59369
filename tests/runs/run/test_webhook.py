"""The post when a run has finished or was given up."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import cli_data
import pytest

from mmlight import yaml_text
from mmlight.runs.run.attempts import append_event
from mmlight.runs.run.folder import Run
from mmlight.runs.run.webhook import post
from mmlight.runs.slurm.after_srun import main


@pytest.fixture
def server():
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(404 if "bad" in self.path else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", got
    httpd.shutdown()


@pytest.fixture
def run(tmp_path):
    def made(webhook):
        run = Run(tmp_path / "tiny/one")
        run.path.mkdir(parents=True, exist_ok=True)
        (run.path / "submitted.yaml").write_text(yaml_text.dump({"run": {"webhook": webhook}}))
        return run

    return made


def test_the_job_script_tells_of_the_end_and_of_giving_up(server, run):
    address, got = server
    folder = run(address)
    append_event(folder.path, "end", step=1, reason="failed: ValueError", mistake=True)
    assert main([str(folder.path), "2"], {}) == 2
    append_event(folder.path, "start", step=1)
    append_event(folder.path, "end", step=2, reason="finished", hand_on=False)
    assert main([str(folder.path), "0"], {}) == 0
    assert [(told["state"], told["text"]) for told in got] == [
        ("given up", "tiny/one given up: failed: ValueError"),
        ("finished", "tiny/one finished"),
    ]


def test_what_goes_wrong_is_noted_without_the_address(server, run, capsys):
    address, got = server
    for webhook, said in (
        (f"{address}/bad/KEY", "HTTPError 404"),
        ("http://127.0.0.1:9/KEY", "URLError"),
        ("ftp://KEY", "no address that begins with http"),
        ("$NOSUCH", "NOSUCH is not set here"),
    ):
        post(run(webhook).path, "finished", environ={})
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line and "KEY" not in line
    post(run("${HOOK}").path, "finished", environ={"HOOK": address})
    assert len(got) == 2 and capsys.readouterr().err == ""
    post(run(None).path, "finished")
    assert len(got) == 2


def test_a_training_without_a_job_script_tells_by_itself(server, tmp_path):
    address, got = server
    values = cli_data.experiment(cli_data.write_data(tmp_path / "data"), tmp_path / "runs")
    changes = {"trainer.max_steps": 3, "model.init_args.towers.audio": None}
    path = cli_data.write_yaml(tmp_path / "tiny.yaml", cli_data.changed(values, changes))
    assert cli_data.run_in_process("fit", "-c", path, "--run.webhook", address) == 0
    assert [told["state"] for told in got] == ["finished"]
    shards = ("--data.init_args.train.shards", "nowhere")
    assert cli_data.run_in_process("fit", "-c", path, "--run.webhook", address, *shards) == 2
    assert [told["state"] for told in got] == ["finished", "failed"]
    assert "nowhere" in got[1]["reason"]
