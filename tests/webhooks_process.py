"""The real process of the webhooks service."""

import base64
import os
import signal
import subprocess
import sys

import requests
from stand_ins import REPOSITORY, free_port
from waiting import DEADLINE_SECONDS, wait_until

from bridge.messages import EventMessage, encode


class WebhooksProcess:
    """`python -m webhooks`, started and stopped as the local stack does it."""

    def __init__(self, folder, variables):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._output = folder / "webhooks.log"
        self._environment = {
            "PATH": os.environ["PATH"],
            **variables,
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "TASK_TARGET_URL": f"{self.url}/tasks/deliveries",
        }
        self.process = None

    def start(self):
        with self._output.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "webhooks"],
                cwd=REPOSITORY,
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(self.is_ready, what="start of webhooks")
        return self

    def is_ready(self):
        assert self.process.poll() is None, self._output.read_text()
        try:
            return requests.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def kill(self):
        """Master and worker at once, as when the machine is gone."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            return self.process.wait(DEADLINE_SECONDS)
        return None

    def ring(self, partner_id):
        data, attributes = encode(EventMessage("evt_x", partner_id, 10**9))
        message = {"data": base64.b64encode(data).decode(), "attributes": attributes, "messageId": "1"}
        envelope = {"message": message, "subscription": "s"}
        return requests.post(f"{self.url}/pubsub/events", json=envelope, timeout=DEADLINE_SECONDS).status_code
