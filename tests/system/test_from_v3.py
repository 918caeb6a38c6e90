"""docs/from-v3.md, typed line by line where an older version runs that was deployed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

import guide
from fleet_processes import program, wait_for
from machines import Lab, Machine
from typist import follow

pytestmark = pytest.mark.system
PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-v3.md"
BLOCKS = guide.read(PAGE)
ADDRESSES = {"master": "192.168.1.10", "worker-1": "192.168.1.11", "laptop": "192.168.1.20"}
# A stand-in for the old version: it holds the port and reads its .env.
OLD = """\
import http.server, sys
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"version 3")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("0.0.0.0", port), Health).serve_forever()
"""
UNIT = """\
[Unit]
Description=PiBot, deployed by hand

[Service]
User=pi
WorkingDirectory=/home/pi/pibot
EnvironmentFile=/home/pi/pibot/.env
ExecStart=/usr/bin/python3 /home/pi/pibot/pibot.pyz --role {role} {name}--port {port}
Restart=always

[Install]
WantedBy=default.target
"""
ENV = """\
VOLC_API_KEY=the-key-of-version-3
VOLC_BASE_URL=https://ark.cn-beijing.volces.com/api/coding/v3
MODEL_NAME=your_model_name
WORKER_1_IP=192.168.1.11
FLASK_ENV=production
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("lab"), ADDRESSES) as machines:
        machines["laptop"].give(program())
        deploy_by_hand(machines["master"], "master", "", 5001)
        deploy_by_hand(machines["worker-1"], "worker", "--worker-id worker-1 ", 5000)
        yield machines


def deploy_by_hand(machine: Machine, role: str, name: str, port: int) -> None:
    machine.write("/home/pi/pibot/pibot.pyz", OLD)
    machine.write("/home/pi/pibot/.env", ENV)
    unit = UNIT.format(role=role, name=name, port=port)
    machine.write(f"/etc/systemd/system/pibot-{role}.service", unit)
    machine.run(f"sudo chown -R pi: pibot; sudo systemctl enable --now pibot-{role}")
    ask = f"curl -s http://127.0.0.1:{port}/health"
    wait_for(lambda: machine.run(ask, check=None).out == "version 3", why=machine.journal)


def test_each_step_does_what_the_page_says(lab: Lab) -> None:
    for block in BLOCKS:
        follow(lab, block)
        if "setup --role" in block.script:
            machine, role = lab[block.place], block.script.split()[-1]
            settings = machine.run(f"sudo cat /etc/pibot/{role}.env").out
            assert "VOLC_API_KEY=the-key-of-version-3" in settings
            assert "MODEL_NAME" not in settings and "FLASK_ENV" not in settings
            links = machine.run("find /etc/systemd/system -name 'pibot-*' -type l").out
            assert "default.target" not in links
    worker = lab["worker-1"]
    assert worker.run("cat pibot/.env").out == ENV
    worker.write("/home/pi/pibot/pibot.pyz", OLD)
    worker.run("sudo systemctl enable --now pibot-worker")
    ask = "curl -s http://127.0.0.1:5000/health"
    wait_for(lambda: worker.run(ask, check=None).out == "version 3", why=worker.journal)
