"""Whatever address a command is given, it ends with one line."""

import pytest

from cli.http import NoAnswerError, call, is_local

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("address", ["http://[::1", "ftp://127.0.0.1", "127.0.0.1:8089", "http://", ""])
def test_half_an_address_ended_in_a_traceback(address):
    with pytest.raises(NoAnswerError, match="is not an http or https address"):
        call("GET", address, "/livez")
    assert not is_local(address)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8089", "http://[::1]:8089", "http://localhost"])
def test_this_machine_is_known_by_its_names(address):
    assert is_local(address)
