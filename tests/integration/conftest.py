"""What several modules of this tier stand on; one with needs of its own has fixtures of the same name."""

import pytest
from accepted import add_lanes
from edge_stage import Edge, RecordingGateway, token_by
from restore_stage import bridge, restorable  # noqa: F401 - fixtures for the tier


def pytest_addoption(parser):
    parser.addoption("--drill-seed", type=int, default=1, help="the first seed of the restore drill")
    parser.addoption("--drill-seeds", type=int, default=3, help="how many seeds the restore drill plays")


def pytest_generate_tests(metafunc):
    if "drill_seed" in metafunc.fixturenames:
        first = metafunc.config.getoption("drill_seed", default=1)
        count = metafunc.config.getoption("drill_seeds", default=3)
        metafunc.parametrize("drill_seed", range(first, first + count))


@pytest.fixture
def owner(database):
    """The owner's engine, where one lane is known."""
    add_lanes(database.engine, s4_main=4)
    return database.engine


@pytest.fixture
def engine(database, request):
    """The engine of the role that the module names as ROLE, with its rights and no others."""
    engine = database.engine_for(request.module.ROLE)
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def recording_gateway():
    """What is behind the real Envoy, and records what arrives; once for each module that asks for it."""
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
