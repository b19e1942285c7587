"""One function says what a caller is told about an error."""

import pytest
from flask import Flask
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from structlog.testing import capture_logs
from werkzeug.exceptions import ImATeapot, RequestEntityTooLarge

from bridge.errors import FieldError, PermanentError, RecoveryDueError, RejectedError, TransientError
from bridge.web.problems import problem_of, register_problems
from bridge.web.request_id import current_traceparent, register_request_id

pytestmark = pytest.mark.unit
SECRET = "Erika Mustermann"


class InterfaceError(Exception):
    """What pg8000 calls a failure on the way to the server."""


def database_error(*arguments, kind=DBAPIError, error=Exception):
    return kind("SELECT 1", {}, error(*arguments))


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (TransientError(SECRET), 503, "unavailable"),
        (PoolTimeoutError(SECRET), 503, "unavailable"),
        (database_error("network error", error=InterfaceError), 503, "unavailable"),
        (database_error({"C": "57P01", "M": SECRET}), 503, "unavailable"),
        (database_error({"C": "57014", "M": SECRET}), 503, "unavailable"),
        (database_error({"C": "53300", "M": SECRET}), 503, "unavailable"),
        (database_error({"C": "55P03", "M": SECRET}), 503, "unavailable"),
        (database_error({"C": "40001", "M": SECRET}), 503, "unavailable"),
        (database_error({"C": "23505", "M": SECRET}, kind=IntegrityError), 500, "internal-error"),
        (database_error({"C": "42501", "M": SECRET}), 500, "internal-error"),
        (database_error(SECRET), 500, "internal-error"),
        (PermanentError(SECRET), 500, "internal-error"),
        (ValueError(SECRET), 500, "internal-error"),
        (RequestEntityTooLarge(SECRET), 413, "payload-too-large"),
        (ImATeapot(SECRET), 418, "malformed-request"),
    ],
    ids=repr,
)
def test_each_error_is_told_without_its_text(error, status, slug):
    problem = problem_of(error)
    assert (problem.status, problem.slug) == (status, slug)
    assert SECRET not in problem.detail
    assert ("Retry-After" in problem.headers) == (status == 503)


@pytest.mark.parametrize(
    ("error", "has_traceback"), [(RecoveryDueError(), False), (TransientError("x"), True)]
)
def test_every_decision_refused_during_a_recovery_logged_a_traceback(error, has_traceback):
    app = Flask("test")
    register_problems(app)

    @app.get("/")
    def fail():
        raise error

    with capture_logs() as lines:
        assert app.test_client().get("/").status_code == 503
    (line,) = lines
    assert (line["log_level"], line["event"], "exc_info" in line) == ("warning", "unavailable", has_traceback)


@pytest.mark.parametrize(("wished", "told"), [(None, "5"), (0.2, "1"), (17, "17"), (1e9, "3600")])
def test_the_other_sides_wish_when_to_come_back_is_passed_on_within_bounds(wished, told):
    assert problem_of(TransientError("away", retry_after_seconds=wished)).headers["Retry-After"] == told


def test_a_rejection_is_a_problem_document_with_its_errors_and_members():
    app = Flask("test")
    register_problems(app, "https://issuer.example")

    @app.get("/")
    def refuse():
        raise RejectedError(
            "invalid-request", 422, "No.", errors=(FieldError("/a", "is required"),), members={"more": "x"}
        )

    answer = app.test_client().get("/")
    assert answer.content_type == "application/problem+json"
    assert answer.json == {
        "type": "https://issuer.example/problems/invalid-request",
        "title": "Invalid request",
        "status": 422,
        "detail": "No.",
        "more": "x",
        "errors": [{"pointer": "/a", "detail": "is required"}],
    }


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", True),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", False),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", False),
        ("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", False),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", False),
        ("", False),
    ],
)
def test_only_a_valid_traceparent_is_continued(sent, taken):
    app = Flask("test")
    register_request_id(app)
    app.add_url_rule("/", view_func=lambda: current_traceparent() or "none")
    assert app.test_client().get("/", headers={"traceparent": sent}).text == (sent if taken else "none")
