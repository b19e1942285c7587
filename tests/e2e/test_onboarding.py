"""A new partner, from nothing to a verified webhook, by the README's lines as they stand there."""

import os
import re
import signal
import subprocess

import pytest
from stand_ins import free_port

from devstack.layout import REPOSITORY

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

LINES_SECONDS = 120
ARRIVES_SECONDS = 30


def test_the_readmes_lines_lead_to_a_verified_webhook(stack):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### Bring a partner in")[2].partition("\n### ")[0]
    (lines,) = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    # what a reader of the README does in the same shell: wait for the line, then end the listener
    script = (
        "set -e\n"
        + lines.replace("9000", str(free_port())).replace("listen", "listen > listened.txt")
        + f"for _ in $(seq {ARRIVES_SECONDS * 2}); do\n"
        + "grep -q verified listened.txt && break; sleep 0.5; done\n"
        + "kill $!; cat listened.txt\n"
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
        (REPOSITORY / "listened.txt").unlink(missing_ok=True)
    assert shell.returncode == 0, errors
    assert re.search(r"^evt_\S+ #0 webhook\.test: verified$", output, re.MULTILINE), output + errors
