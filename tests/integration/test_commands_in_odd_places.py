"""`bridge` where texts, terminals, users and proxies are unusual: it works, or says why not in a line."""

import getpass
import os
import threading

import pytest
from backoffice_stage import make_backoffice
from stand_ins import free_port
from test_partner_commands import run_bridge
from werkzeug.serving import make_server

from cli.api import Api

pytestmark = pytest.mark.integration

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def stage(database):
    yield from make_backoffice(database)


@pytest.fixture
def url(stage):
    """The address of the backoffice."""
    server = make_server("127.0.0.1", 0, stage.client.application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def bridge(url):
    def run(*arguments, fails=False, **environment):
        environment = {"BRIDGE_BACKOFFICE_URL": url, "USER": "olga"} | environment
        done = run_bridge(*arguments, **environment)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if fails else done.stdout

    return run


@pytest.mark.parametrize(
    "reason",
    [
        "Vertrag \N{EN DASH} 2. Mahnung",
        "50 €",
        "100 % sicher, wirklich",
        "first line\nsecond line",
        " \t blank",
        "日本語 😀",
    ],
)
def test_a_reason_is_any_text(stage, bridge, reason):
    """They were tracebacks, or "does not answer (InvalidHeader)"."""
    bridge("sap", "hold", "s4-main", "--reason", reason)
    assert stage.audit() == [("olga", "lane.hold", "s4-main", reason.strip())]


@pytest.mark.parametrize("reason", [" ", "x" * 501, "bell \a", "\udcff"])
def test_what_is_no_reason_is_one_line(stage, bridge, reason):
    assert "--reason" in bridge("sap", "hold", "s4-main", "--reason", reason, fails=True)
    assert stage.audit() == []


def test_a_user_without_a_name_is_called_by_its_number(monkeypatch):
    """In a container the process's user need not be in /etc/passwd."""

    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert Api("http://127.0.0.1:1")._operator() == {"X-Operator": f"uid-{os.getuid()}"}


def test_a_user_with_an_unusual_name_is_still_named(stage, bridge):
    bridge("sap", "hold", "s4-main", "--reason", "why", USER="DOMAIN\\jörg")
    assert [actor for actor, *_ in stage.audit()] == ["DOMAIN-j-rg"]


def test_a_proxy_is_not_asked_for_a_service_of_this_machine(bridge):
    nowhere = f"http://127.0.0.1:{free_port()}"
    bridge("status", http_proxy=nowhere, HTTP_PROXY=nowhere, https_proxy=nowhere, all_proxy=nowhere)


def test_an_ascii_terminal_shows_what_it_can_not_write_as_an_escape(stage, bridge):
    operation_id = stage.parked_refused()
    bridge("payments", "redrive", operation_id, "--reason", "Müller 😀")
    ascii_only = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    assert "M\\xfcller" in bridge("payments", "show", operation_id, **ascii_only)


def test_a_token_with_a_line_end_is_used_and_one_with_odd_characters_is_one_line(bridge):
    # the service believes names only: what matters is that it was asked
    assert "X-Operator has to name" in bridge("status", BRIDGE_OPERATOR_TOKEN="abc.def\n", fails=True)
    assert "BRIDGE_OPERATOR_TOKEN" in bridge("status", BRIDGE_OPERATOR_TOKEN="tökén", fails=True)


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("whsec_", "has 0 bytes"),
        (f"v1,{SECRET}", "without the v1"),
        (SECRET.removeprefix("whsec_"), "does not begin with whsec_"),
        ("whsec_Zm9v", "has 3 bytes"),
        ("whsec_not base64", "base64"),
        (SECRET[:-1], "base64"),
    ],
)
@pytest.mark.parametrize("command", [("check", "http://127.0.0.1:1/"), ("listen",)])
def test_what_is_wrong_with_a_secret_is_said_before_anything_is_sent(bridge, command, secret, says):
    said = bridge("webhooks", *command, BRIDGE_WEBHOOK_SECRET=secret, fails=True)
    assert says in said
    assert SECRET not in said
