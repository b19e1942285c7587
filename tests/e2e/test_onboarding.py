"""A new partner, from nothing to a verified webhook, by the README's lines as they stand there."""

import os
import re
import signal
import subprocess
import sys

import pytest
from stand_ins import free_port

from devstack.layout import REPOSITORY

pytestmark = pytest.mark.e2e

LINES_SECONDS = 600
ARRIVES_SECONDS = 120
# a test is attempted once, and met a closed port where Python started slowly
SLOW_START_SECONDS = 8


@pytest.mark.parametrize("start_seconds", [0, SLOW_START_SECONDS])
def test_the_readmes_lines_lead_to_a_verified_webhook(stack, start_seconds, tmp_path):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### Bring a partner in")[2].partition("\n### ")[0]
    (lines,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    listened = tmp_path / "listened.txt"
    # what a reader of the README does in the same shell: wait for the line, then end the listener
    script = (
        "set -e\n"
        + lines.replace("bridge webhooks listen", f"sleep {start_seconds} && exec bridge webhooks listen")
        .replace("--port 9000 &", f"--port 9000 > {listened} &")
        .replace("9000", str(free_port()))
        + f"for _ in $(seq {ARRIVES_SECONDS * 2}); do\n"
        + f"grep -q verified {listened} && break; sleep 0.5; done\n"
        + f"kill $!; cat {listened}\n"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "USER": "olga",
        "PYTHONUNBUFFERED": "1",
        "BRIDGE_PARTNERS_URL": stack.layout.url("partners"),
        "BRIDGE_API_URL": stack.layout.api,
    }
    shell = subprocess.Popen(
        ["bash", "-c", script],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = shell.communicate(timeout=LINES_SECONDS)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()
    assert shell.returncode == 0, errors
    assert re.search(r"^evt_\S+ #0 webhook\.test: verified$", output, re.MULTILINE), output + errors
    assert re.search(r"^dlv_\S+: taken, 200 after \d+ ms$", output, re.MULTILINE), output + errors
    if start_seconds:
        assert re.search(r"^dlv_\S+: not taken, connection-failed after \d+ ms$", output, re.MULTILINE), (
            output
        )


def test_the_test_of_an_endpoint_that_refuses_it_says_so_and_fails(stack):
    endpoint = stack.request(
        "POST",
        "/v1/webhook-endpoints",
        stack.token(),
        json={"url": f"http://127.0.0.1:{free_port()}/", "event_types": ["payment.cancelled"]},
    ).json()["id"]
    partner = stack.document["partner"]
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "partners", "endpoints", "test", endpoint],
        cwd=REPOSITORY,
        env={
            "BRIDGE_API_URL": stack.layout.api,
            "BRIDGE_CLIENT_ID": partner["client_id"],
            "BRIDGE_CLIENT_SECRET": partner["client_secret"],
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=LINES_SECONDS,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.fullmatch(r"dlv_\S+: not taken, connection-failed after \d+ ms\n", done.stdout), done.stderr
