"""Topics, dead-letter topics and push subscriptions on the Pub/Sub emulator, over its REST API.

REST, because importing Google's client takes longer than all the calls, and the emulator forgets everything
when it restarts: pushing has to go on within a second or two.
"""

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bridge.messages import EVENTS_TOPIC, dead_letter_topic, operations_topic, push_subscription
from devstack.layout import PROJECT_ID, SAP_SYSTEMS, Layout
from devstack.preflight import StartError

CALL_TIMEOUT_SECONDS = 30.0
# as in Terraform: the ack deadline is the push's own timeout and stays above the slowest SAP call
ACK_DEADLINE_SECONDS = 120
MIN_BACKOFF_SECONDS = 10
MAX_BACKOFF_SECONDS = 600
MAX_DELIVERY_ATTEMPTS = 100


@dataclass(frozen=True)
class Push:
    """A topic whose messages are pushed to an endpoint; with `dead_letters`, poison goes to that topic."""

    topic: str
    endpoint: str
    dead_letters: str | None


def pushes(layout: Layout) -> Iterator[Push]:
    """All the carriers of the local stack; each dead-letter topic is pushed to the dead-letter service."""
    targets = {
        operations_topic(system): layout.url("sap_adapter") + "/pubsub/operations" for system in SAP_SYSTEMS
    }
    targets[EVENTS_TOPIC] = layout.url("webhooks") + "/pubsub/events"
    for topic, endpoint in targets.items():
        dead = dead_letter_topic(topic)
        yield Push(dead, layout.url("dead_letters") + "/pubsub/dead-letters", None)
        yield Push(topic, endpoint, dead)


def create_topics(layout: Layout) -> None:
    """Create what is missing. What exists is as it was made here: the emulator keeps nothing between runs."""
    connection = http.client.HTTPConnection(layout.address("pubsub"), timeout=CALL_TIMEOUT_SECONDS)
    try:
        for push in pushes(layout):
            _put(connection, f"topics/{push.topic}", {})
            _put(connection, f"subscriptions/{push_subscription(push.topic)}", subscription(push))
    except (OSError, http.client.HTTPException) as error:
        raise StartError(
            f"the Pub/Sub emulator did not answer within {CALL_TIMEOUT_SECONDS:.0f} s: {error!r}"
        ) from error
    finally:
        connection.close()


def subscription(push: Push) -> dict[str, Any]:
    """The subscription as google.pubsub.v1 describes it."""
    document: dict[str, Any] = {
        "topic": f"projects/{PROJECT_ID}/topics/{push.topic}",
        "pushConfig": {"pushEndpoint": push.endpoint},
        "ackDeadlineSeconds": ACK_DEADLINE_SECONDS,
        "retryPolicy": {
            "minimumBackoff": f"{MIN_BACKOFF_SECONDS}s",
            "maximumBackoff": f"{MAX_BACKOFF_SECONDS}s",
        },
    }
    if push.dead_letters:
        document["deadLetterPolicy"] = {
            "deadLetterTopic": f"projects/{PROJECT_ID}/topics/{push.dead_letters}",
            "maxDeliveryAttempts": MAX_DELIVERY_ATTEMPTS,
        }
    return document


def _put(connection: http.client.HTTPConnection, resource: str, document: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    connection.request("PUT", f"/v1/projects/{PROJECT_ID}/{resource}", json.dumps(document), headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status not in (200, 409):
        raise StartError(f"the Pub/Sub emulator refused {resource}: {answer.status} {body[:300]!r}")
