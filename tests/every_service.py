"""The app of every HTTP service with nothing behind it, and a server that runs one as production does.

`python tests/every_service.py NAME PORT FOLDER`
"""

import base64
import json
import sys
from pathlib import Path

import webhook_stage
from fakes.partner_store import InMemoryPartnerStore
from fakes.task_queue import InMemoryTaskQueue
from gateway_stage import NOW, GatewayStage

import backoffice.app
import backoffice.settings
import dispatcher.dead_letters.app
import dispatcher.dead_letters.settings
import partners.app
import partners.settings
import sap_adapter.app
import sap_adapter.settings
import webhooks.app
import webhooks.settings
from bridge.clock import ManualClock
from bridge.keyring import KeyRing
from bridge.partner_directory import PartnerDirectorySettings, make_directory
from bridge.storage.engine import make_engine
from bridge.tracing import UNTRACED
from bridge.web.logs import configure_logs
from bridge.web.serve import serve

THREADS = 2
NAMES = ("gateway", "partners", "backoffice", "webhooks", "sap_adapter", "dead_letters")
_MODULES = {
    "partners": (partners.app, partners.settings),
    "backoffice": (backoffice.app, backoffice.settings),
    "webhooks": (webhooks.app, webhooks.settings),
    "sap_adapter": (sap_adapter.app, sap_adapter.settings),
    "dead_letters": (dispatcher.dead_letters.app, dispatcher.dead_letters.settings),
}


def app_of(name, folder):
    """Return the service's app; its database, Firestore and SAP are nowhere."""
    if name == "gateway":
        return GatewayStage().app
    clock = ManualClock(NOW)
    connections = folder / "sap.json"
    sap = {"s4-main": {"base_url": "http://127.0.0.1:1", "user": "u", "password": "p"}}
    connections.write_text(json.dumps(sap))
    environ = webhook_stage.environment(folder) | {
        "OPERATOR_AUTHENTICATION": "emulator",
        "SAP_CONNECTIONS_FILE": str(connections),
        "PARTY_KEY_RING": str(folder / "webhook-secrets.json"),
    }
    module, settings_module = _MODULES[name]
    settings = settings_module.Settings.from_environment(environ)
    if name == "dead_letters":
        return module.create_app(settings, clock)
    engine = make_engine(settings.database, pool_size=THREADS, application_name=name)
    store = InMemoryPartnerStore()
    if name == "partners":
        return module.create_app(settings, store, engine, clock)
    if name == "backoffice":
        return module.create_app(settings, engine, clock)
    directory = make_directory(store, engine, clock, PartnerDirectorySettings())
    ring = KeyRing("k1", {"k1": base64.b64decode(webhook_stage.RING_KEY)})
    if name == "webhooks":
        queue = InMemoryTaskQueue(clock)
        use_cases = module.make_use_cases(settings, ring, engine, directory, queue, clock)
        return module.create_app(settings, engine, use_cases, clock)
    return module.create_app(settings, ring, directory, engine, clock, UNTRACED)


def main(name, port, folder):
    configure_logs(name)
    return serve(
        lambda: app_of(name, Path(folder)), host="127.0.0.1", port=int(port), threads=THREADS, name=name
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
