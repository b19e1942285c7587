"""The composition root of the webhooks service."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from random import SystemRandom

from flask import Flask
from sqlalchemy import Engine

from bridge.clock import Clock, certain_moment
from bridge.gcp.identity import make_authenticator
from bridge.keyring import KeyRing
from bridge.metrics import UNMEASURED, Metrics
from bridge.ports import PartnerDirectory, TaskQueue
from bridge.storage.engine import ping
from bridge.storage.wake import WEBHOOKS_CHANNEL, WakeListener
from bridge.tracing import UNTRACED, Tracer
from bridge.web.health import register_health
from bridge.web.logs import register_request_log
from bridge.web.metrics import register_request_metrics
from bridge.web.problems import register_problems
from bridge.web.request_id import register_request_id
from bridge.web.strict import register_strict_requests
from webhooks.deliver import Deliver
from webhooks.fan_out import FanOut
from webhooks.record import RecordAttempt
from webhooks.retries import RetrySchedule
from webhooks.routes import register_doorbell, register_tasks
from webhooks.sender import Sender
from webhooks.settings import Settings
from webhooks.shares import Shares
from webhooks.sweeper import Sweeper
from webhooks.tasks import DeliveryTasks
from webhooks.turns import Turns


@dataclass(frozen=True, slots=True)
class UseCases:
    """What the service does, without HTTP in front of it."""

    fan_out: FanOut
    deliver: Deliver
    sweeper: Sweeper


def make_use_cases(
    settings: Settings,
    key_ring: KeyRing,
    engine: Engine,
    directory: PartnerDirectory,
    queue: TaskQueue,
    clock: Clock,
    spread: Callable[[], float] | None = None,
    tracer: Tracer = UNTRACED,
    metrics: Metrics = UNMEASURED,
    task_calls_at_once: int = 1,
) -> UseCases:
    """Wire the use cases. `spread` gives the jitter: a number between -1 and 1, at random by default.

    With one call of the queue at a time, tasks are made in the order of the feed.
    """
    random = SystemRandom()
    tasks = DeliveryTasks(queue, settings.tasks.target_url, calls_at_once=task_calls_at_once)
    shares = Shares(clock, settings.threads)
    turns = Turns(engine, tasks, shares, clock, lost_after_seconds=settings.sweep_grace_seconds)
    fan_out = FanOut(engine, directory, tasks, turns, clock)
    sender = Sender(
        clock,
        timeout_seconds=settings.timeout_seconds,
        allow_http_loopback=settings.allow_http_loopback,
        max_connections=settings.threads,
    )
    record = RecordAttempt(
        engine,
        tasks,
        RetrySchedule(settings.delays_seconds, spread or (lambda: random.uniform(-1.0, 1.0))),
        clock,
        disable_after=timedelta(seconds=settings.disable_after_seconds),
        metrics=metrics,
    )
    deliver = Deliver(
        engine,
        directory,
        key_ring,
        sender,
        tasks,
        turns,
        record,
        fan_out,
        shares,
        clock,
        tracer,
        timeout_seconds=settings.timeout_seconds,
    )
    sweeper = Sweeper(
        engine,
        fan_out,
        tasks,
        turns,
        clock,
        interval_seconds=settings.sweep_seconds,
        grace_seconds=settings.sweep_grace_seconds,
        listener=WakeListener(engine, WEBHOOKS_CHANNEL),
    )
    return UseCases(fan_out, deliver, sweeper)


def create_app(
    settings: Settings,
    engine: Engine,
    use_cases: UseCases,
    clock: Clock,
    tracer: Tracer = UNTRACED,
    metrics: Metrics = UNMEASURED,
) -> Flask:
    """Put the routes before the use cases; the sweeper's thread is started by whoever serves."""
    callers = settings.callers
    # Tasks come with the token of the account that they were made for, pushes with Pub/Sub's.
    task_callers = replace(callers, callers=frozenset(filter(None, [settings.tasks.service_account_email])))
    app = Flask("webhooks")
    register_request_metrics(app, metrics)
    register_request_id(app)
    register_request_log(app)
    register_problems(app)
    register_strict_requests(app)
    after = use_cases.sweeper.sweep_if_due
    register_doorbell(app, use_cases.fan_out.fan_out, after, make_authenticator(callers, clock), tracer)
    deliver = use_cases.deliver
    register_tasks(app, deliver.attempt, deliver.probe, after, make_authenticator(task_callers, clock))
    register_health(app, {"database": lambda: ping(engine), "clock": lambda: certain_moment(clock)})
    return app
