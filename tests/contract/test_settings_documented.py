"""Every variable that some process reads stands in the table of docs/settings.md, and nothing else does."""

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
PACKAGES = [
    *("bridge", "gateway", "dispatcher", "sap_adapter", "webhooks", "partners", "backoffice"),
    *("sap_mock", "devstack", "cli"),
]
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
# Given by the platform or the tools, not by whoever runs the bridge.
NOT_OURS = {"PATH", "HOME", "LC_ALL", "TZ", "K_SERVICE", "CLOUDSDK_ROOT_DIR", "JAVA_HOME"}


def variables_read():
    names = set()
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    names |= constants_beside_environ(node)
                if isinstance(node, ast.keyword) and node.arg == "envvar":
                    names |= texts([node.value])
    return names - NOT_OURS


def constants_beside_environ(function):
    """Names given to `environ[…]`, `environ.get(…)` or to a reader that is handed `environ`."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript) and mentions_environ(node.value):
            found |= texts([node.slice])
        elif isinstance(node, ast.Compare) and any(mentions_environ(other) for other in node.comparators):
            found |= texts([node.left])
        elif isinstance(node, ast.Call):
            is_get = isinstance(node.func, ast.Attribute) and mentions_environ(node.func.value)
            is_reader = any(isinstance(a, ast.Name) and mentions_environ(a) for a in node.args)
            if is_get or is_reader:
                found |= texts(node.args[:2])
    return found


def mentions_environ(node):
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).split(".")[-1] == "environ"


def texts(nodes):
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value)
    }


def test_the_settings_document_lists_exactly_the_variables_that_are_read():
    settings = (REPOSITORY / "docs" / "settings.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)`", settings, re.MULTILINE))
    assert documented == variables_read()


# Of a machine without Google (Cloud Run refuses them, or they mean nothing there), or of the platform.
NOT_FROM_TERRAFORM = {"DATABASE_URL", "PUSH_AUTHENTICATION", "OPERATOR_AUTHENTICATION", "TRACES_FILE"}
NOT_FROM_TERRAFORM |= {"WEBHOOK_ALLOW_HTTP_LOOPBACK", "HOST", "PORT", "PORT_OFFSET"}
# metrics go by OTLP there: nobody could reach the port
NOT_FROM_TERRAFORM |= {"OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"}


def test_terraform_gives_every_variable_of_a_service():
    """Which service gets which is checked where terraform is: tests/terraform."""
    configuration = "".join(
        path.read_text(encoding="utf-8") for path in (REPOSITORY / "terraform").glob("*.tf")
    )
    of_services = {
        name
        for name in variables_read()
        if not name.startswith("BRIDGE_") and not name.endswith("_EMULATOR_HOST")
    }
    given = set(re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*\b", configuration))
    assert sorted(of_services - NOT_FROM_TERRAFORM - given) == []
