"""`stack`: one private local stack for the whole run of this folder."""

from collections.abc import Iterator

import pytest
from local_stack import Stack, private_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    with private_stack() as running:
        yield running


def pytest_addoption(parser):
    parser.addoption(
        "--drill-full",
        action="store_true",
        default=False,
        help="the restore drill with 300 payments, not with 30",
    )
