"""How many payments are accepted, and how long that takes."""

import time

from flask import Flask, Response, g, request

from bridge.metrics import Metrics
from gateway.limits import BATCH_ENDPOINT, accepted_payments


def register_acceptance_metrics(app: Flask, metrics: Metrics) -> None:
    """Count what each request has accepted; register_request_metrics has taken the time at its start."""
    accepted = metrics.counter("bridge.payment.accepted")
    durations = metrics.histogram("bridge.payment.accept.duration")
    # a rate can only be told of what was there before
    accepted.add(0)

    @app.after_request
    def count(answer: Response) -> Response:
        # PartnerRequests, which comes before, has counted them for the partner's quota
        number = g.newly_accepted if "newly_accepted" in g else accepted_payments(answer)
        if number == 0:
            return answer
        accepted.add(number)
        if number == 1 and request.endpoint != BATCH_ENDPOINT and "measured_from" in g:
            durations.record(time.perf_counter() - g.measured_from)
        return answer
