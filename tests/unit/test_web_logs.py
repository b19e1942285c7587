"""Logs are JSON lines with Cloud Logging's names, and never repeat what an exception quotes."""

import io
import json
import logging

import pytest
import structlog
from plain_logs import log_plainly

from bridge.web.logs import configure_logs

pytestmark = pytest.mark.unit


@pytest.fixture
def lines():
    structlog.contextvars.clear_contextvars()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logs("test", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers, root.level = before, level
    log_plainly()
    structlog.contextvars.clear_contextvars()


def test_a_line_has_the_fields_that_cloud_logging_reads(lines):
    structlog.contextvars.bind_contextvars(request_id="r-1")
    structlog.get_logger("any").warning("lane closed", lane="s4-main")
    (line,) = lines()
    assert line.pop("time").endswith("Z")
    assert line == {
        "severity": "WARNING",
        "message": "lane closed",
        "lane": "s4-main",
        "request_id": "r-1",
        "service": "test",
    }


def test_other_libraries_records_are_lines_of_the_same_kind(lines):
    logging.getLogger("gunicorn.error").error("Worker (pid:%s) died", 7)
    (line,) = lines()
    assert (line["severity"], line["message"]) == ("ERROR", "Worker (pid:7) died")


def test_a_line_break_does_not_make_a_second_record(lines):
    structlog.get_logger("any").info('one\n{"severity": "CRITICAL"}')
    assert len(lines()) == 1


def fail():
    raise ValueError("Erika Mustermann")


@pytest.mark.parametrize("library", [True, False])
def test_an_exception_is_its_class_and_its_place(lines, library):
    try:
        fail()
    except ValueError as error:
        if library:
            logging.getLogger("library").exception("failed")
        else:
            structlog.get_logger("ours").error("failed", exc_info=error)
    (line,) = lines()
    assert (line["severity"], line["error"]) == ("ERROR", "ValueError")
    assert line["where"][-1].endswith(" fail")
    assert "Mustermann" not in json.dumps(line)
