"""The environment, read once; what is wrong in it is one clear line."""

import pytest
from webhook_stage import environment

from bridge.errors import SettingsError
from webhooks.retries import DEFAULT_DELAYS_SECONDS
from webhooks.settings import Settings

pytestmark = pytest.mark.unit


def read(tmp_path, **changes):
    variables = environment(tmp_path, **changes)
    return Settings.from_environment({name: value for name, value in variables.items() if value is not None})


def test_the_defaults_are_those_of_the_public_contract(tmp_path):
    settings = read(tmp_path, WEBHOOK_ALLOW_HTTP_LOOPBACK=None)
    assert settings.delays_seconds == DEFAULT_DELAYS_SECONDS
    assert settings.timeout_seconds == 15.0
    assert settings.allow_http_loopback is False


def test_a_schedule_is_a_list_of_seconds(tmp_path):
    assert read(tmp_path, WEBHOOK_SCHEDULE_SECONDS="1, 2.5,60").delays_seconds == (1.0, 2.5, 60.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK_SCHEDULE_SECONDS", ""),
        ("WEBHOOK_SCHEDULE_SECONDS", "5,x"),
        ("WEBHOOK_SCHEDULE_SECONDS", "5,0"),
        ("WEBHOOK_SCHEDULE_SECONDS", "5,nan"),
        ("WEBHOOK_SCHEDULE_SECONDS", "5,-1"),
        ("WEBHOOK_SCHEDULE_SECONDS", "9999999"),
        ("WEBHOOK_SCHEDULE_SECONDS", ",".join(["1"] * 51)),
        ("WEBHOOK_ALLOW_HTTP_LOOPBACK", "yes"),
        ("WEBHOOK_TIMEOUT_SECONDS", "60"),
        ("WEBHOOK_KEY_RING", None),
        ("TASK_TARGET_URL", None),
        ("TASK_TARGET_URL", "127.0.0.1:8083"),
        ("SWEEP_SECONDS", "0"),
        ("SWEEP_GRACE_SECONDS", "often"),
        ("PORT", "80808"),
        ("THREADS", "0"),
        ("DATABASE_URL", None),
        ("GOOGLE_CLOUD_PROJECT", None),
        ("PUSH_AUTHENTICATION", "none"),
    ],
)
def test_a_variable_that_is_wrong_is_named(tmp_path, name, value):
    with pytest.raises(SettingsError, match=name):
        read(tmp_path, **{name: value})


PRODUCTION = {
    "K_SERVICE": "webhooks",
    "FIRESTORE_EMULATOR_HOST": None,
    "CLOUD_TASKS_EMULATOR_HOST": None,
    "WEBHOOK_ALLOW_HTTP_LOOPBACK": None,
    "PUSH_AUTHENTICATION": "oidc",
    "PUSH_AUDIENCE": "https://webhooks.example",
    "PUSH_CALLERS": "pubsub@project.iam.gserviceaccount.com",
    "TASK_SERVICE_ACCOUNT": "tasks@project.iam.gserviceaccount.com",
    "TASK_TARGET_URL": "https://webhooks.example/tasks/deliveries",
}


def test_on_cloud_run_it_starts_with_googles_own(tmp_path):
    settings = read(tmp_path, **PRODUCTION)
    assert settings.tasks.service_account_email == "tasks@project.iam.gserviceaccount.com"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WEBHOOK_ALLOW_HTTP_LOOPBACK", "true"),
        ("PUSH_AUTHENTICATION", "emulator"),
        ("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:8088"),
        ("FIRESTORE_EMULATOR_HOST", "127.0.0.1:8086"),
        ("TASK_SERVICE_ACCOUNT", None),
    ],
)
def test_on_cloud_run_nothing_local_is_accepted(tmp_path, name, value):
    with pytest.raises(SettingsError, match=name):
        read(tmp_path, **PRODUCTION | {name: value})


def test_tokens_of_tasks_need_an_account_even_beside_the_stand_in(tmp_path):
    oidc = {name: PRODUCTION[name] for name in ("PUSH_AUTHENTICATION", "PUSH_AUDIENCE", "PUSH_CALLERS")}
    with pytest.raises(SettingsError, match="TASK_SERVICE_ACCOUNT"):
        read(tmp_path, **oidc)
