"""`python -m terraform_provider.plugin SCHEMA.json.gz`: the provider's process, which Terraform starts.

It answers the calls of tfplugin5.Provider over gRPC on a socket of its own. Nothing leaves the machine.
"""
# ruff: noqa: N802 - methods have the names of the calls

import gzip
import json
import os
import signal
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import grpc

from terraform_provider.answers import Inventor, planned, refusals, transform
from terraform_provider.wire import fields_of, message, pack, unpack

# what Terraform says to its plugins, so that nobody starts one by hand
MAGIC_COOKIE = "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2"
THREADS = 16
ORPHAN_POLL_SECONDS = 1
STOP_SECONDS = 0.1


class Provider(grpc.GenericRpcHandler):
    """Methods are named as the calls are; the others are answered «unimplemented», which go-plugin takes."""

    def __init__(self, schema_file):
        self._schema_file = Path(schema_file)
        self._settings = {}
        self._lock = threading.Lock()
        self.stopped = threading.Event()

    def service(self, details):
        method = getattr(self, details.method.rpartition("/")[2], None)
        if method is None:
            return None
        return grpc.unary_unary_rpc_method_handler(lambda request, _context: method(fields_of(request)))

    @cached_property
    def _schema(self):
        return json.loads(gzip.decompress(self._schema_file.read_bytes()))

    def _block(self, request, kind="resource_schemas"):
        name = request[1].decode()
        with self._lock:  # the first call reads the schema
            return name, self._schema[kind][name]["block"]

    def _invent(self, name, block, value, *, is_data_source=False):
        if value is None:
            return None
        inventor = Inventor(name, value, self._settings, is_data_source=is_data_source)
        return transform(block, value, inventor)

    def GetSchema(self, _request):
        return self._schema_file.with_suffix(".pb").read_bytes()

    def ValidateResourceTypeConfig(self, request, kind="resource_schemas"):
        return message(*((1, each) for each in refusals(self._block(request, kind)[1], unpack(request[2]))))

    def ValidateDataSourceConfig(self, request):
        return self.ValidateResourceTypeConfig(request, "data_source_schemas")

    def PrepareProviderConfig(self, request):
        return message((1, request[1]))

    def Configure(self, request):
        settings = unpack(request[2]) or {}
        self._settings = {name: each for name, each in settings.items() if isinstance(each, str)}
        return b""

    def UpgradeResourceState(self, request):
        return message((1, message((2, fields_of(request[3])[1]))))  # the stored JSON as it is

    def ReadResource(self, request):
        return message((1, request[2]), (3, request.get(3, b"")))

    def PlanResourceChange(self, request):
        _, block = self._block(request)
        prior, proposed = unpack(request[2]), unpack(request[3])
        after = proposed if proposed == prior else transform(block, proposed, planned)
        # legacy_type_system, as the real providers say too: the schema read here may differ in a detail
        return message((1, pack(after)), (5, True))

    def ApplyResourceChange(self, request):
        name, block = self._block(request)
        return message((1, pack(self._invent(name, block, unpack(request[3])))), (4, True))

    def ReadDataSource(self, request):
        name, block = self._block(request, "data_source_schemas")
        return message((1, pack(self._invent(name, block, unpack(request[2]), is_data_source=True))))

    def Stop(self, _request):
        return b""

    def Shutdown(self, _request):  # go-plugin's controller; without it each command waits 2 s for the process
        self.stopped.set()
        return b""


def main(schema_file):
    """Serve until Terraform is done, or gone."""
    if os.environ.get("TF_PLUGIN_MAGIC_COOKIE") != MAGIC_COOKIE:
        raise SystemExit("this is a Terraform provider: Terraform starts it")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Terraform takes it, and then stops its plugins
    parent, provider = os.getppid(), Provider(schema_file)
    options = [("grpc.max_receive_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(THREADS), handlers=[provider], options=options)
    with tempfile.TemporaryDirectory(prefix="terraform-provider-") as folder:
        address = f"{folder}/socket"
        server.add_insecure_port(f"unix:{address}")
        server.start()
        # go-plugin's handshake: its version, the protocol's, then where and how
        sys.stdout.write(f"1|5|unix|{address}|grpc|\n")
        sys.stdout.flush()
        while not provider.stopped.wait(ORPHAN_POLL_SECONDS) and os.getppid() == parent:
            pass
        server.stop(STOP_SECONDS).wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
