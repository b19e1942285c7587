"""`stack.json`: what others need to use the running stack (docs/api.md). It exists while the stack runs."""

import json
import os
from collections.abc import Mapping
from typing import Any

from devstack.keys import DemoPartner, Keys
from devstack.layout import Layout
from devstack.postgres import DATABASE, OWNER


def document(layout: Layout, keys: Keys, pids: Mapping[str, int], reaper: int) -> dict[str, Any]:
    """The contents. `database_url` is libpq's form and logs in as the owner."""
    first, second = keys.partners
    return {
        "api": layout.api,
        "database_url": f"postgresql://{OWNER}@{layout.address('postgres')}/{DATABASE}",
        "pubsub_emulator": layout.address("pubsub"),
        "firestore_emulator": layout.address("firestore"),
        "cloud_tasks": layout.address("cloud_tasks"),
        "sap_mock": layout.url("sap_mock"),
        "receiver": layout.url("receiver"),
        "processes": dict(pids),
        # no part of the bridge, so not among its processes
        "reaper": reaper,
        "ports": layout.ports,
        "logs": str(layout.logs_folder),
        "partner": _partner(first),
        "second_partner": _partner(second),
    }


def _partner(partner: DemoPartner) -> dict[str, str]:
    return {
        "id": partner.partner_id,
        "client_id": partner.client_id,
        "client_secret": partner.client_secret,
        "webhook_secret": partner.webhook_secret,
    }


def write(layout: Layout, keys: Keys, pids: Mapping[str, int], reaper: int) -> None:
    """Replace the file in one step; it holds credentials, so only its owner may read it."""
    partial = layout.stack_file.with_name(layout.stack_file.name + ".new")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document(layout, keys, pids, reaper), file, indent=2)
        file.write("\n")
    partial.rename(layout.stack_file)
