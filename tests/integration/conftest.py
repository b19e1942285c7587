"""The real Envoy before a gateway that records what arrives; once for each module that asks for it."""

import pytest
from edge_stage import Edge, RecordingGateway, token_by


@pytest.fixture(scope="module")
def recording_gateway():
    running = RecordingGateway().start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def edge(recording_gateway, tmp_path_factory):
    running = Edge(tmp_path_factory.mktemp("edge"), recording_gateway.port)
    try:
        yield running.start()
    finally:
        running.kill()


@pytest.fixture
def gateway(recording_gateway):
    """What is behind the edge; nothing has arrived there yet."""
    recording_gateway.arrived.clear()
    return recording_gateway


@pytest.fixture
def token(gateway):
    return token_by(gateway.keys[0])
