"""Runs in the form that wandb's API gives them (the service itself is not here)."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from mmlight.errors import UserError
from mmlight.runs.show.compare.settings import group
from mmlight.runs.wandb.api import compared, fetch

VIEWER = {"id": "x", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}


def api_run(seed):
    """Return what `wandb.Api().runs` gives for a run that `WandbRun` logged."""
    history = [
        {
            "_step": row,
            "trainer/global_step": step,
            "samples": 8 * step,
            "wall_s": 2.0 * step,
            "epoch": 0,
            **values,
        }
        for row, (step, values) in enumerate(
            [
                (1, {"train/loss": 2.0}),
                (2, {"train/loss": "NaN"}),
                (2, {"val/accuracy": 0.5 + 0.1 * seed, "pictures/curves": {"_type": "images"}}),
            ]
        )
    ]
    return SimpleNamespace(
        id=f"s{seed}",
        name=f"tiny/s{seed}",
        group="tiny",
        state="crashed" if seed == 2 else "finished",
        config={
            "seed_everything": seed,
            "model": {"width": 8},
            "provenance": {"git": {"commit": "a" * 40}, "devices": ["H200"], "num_devices": 4},
        },
        scan_history=lambda: iter([*history, {"_step": 9, "system": 1}]),
    )


def test_runs_of_w_and_b_are_compared_like_folders():
    runs = [compared(api_run(seed)) for seed in range(3)]
    (setting,) = group(runs)
    assert [run.label for run in runs] == ["tiny/s0", "tiny/s1", "tiny/s2"]
    assert [run.state for run in runs] == ["finished", "finished", "failed"]
    found = setting.spread(lambda run: run.final("val/accuracy"))
    assert found.mean == pytest.approx(0.55) and found.sd == pytest.approx(0.005**0.5)
    assert runs[0].metrics == ["train/loss", "val/accuracy"]
    assert runs[0].samples == 16 and runs[0].device_hours == pytest.approx(4 * 4 / 3600)
    assert runs[0].config == {"seed_everything": 0, "model.width": 8}
    assert runs[0].best("train/loss") == 2.0


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (200, "<html>a proxy's page</html>", "looking for beginning of value"),
        (400, "bad\nrequest " + "x" * 1000, "bad"),
        (200, json.dumps({"data": {"project": None}}), "project"),
    ],
)
def test_what_a_server_answers_wrongly_is_one_line(monkeypatch, status, answer, said):
    class Server(BaseHTTPRequestHandler):
        """Knows the user, and then answers like a server that has an error."""

        def do_POST(self):
            query = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asks_who = "iewer" in query or "erverInfo" in query
            known = {"viewer": VIEWER, "serverInfo": {"cliVersionInfo": {}, "features": []}}
            body = (json.dumps({"data": known}) if asks_who else answer).encode()
            self.send_response(200 if asks_who else status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        with pytest.raises(UserError, match=said) as raised:
            fetch("me/project", ["run"])
        server.shutdown()
    text = str(raised.value)
    assert text.startswith("--wandb me/project: W&B does not answer as it should")
    assert "\n" not in text and len(text) < 400
