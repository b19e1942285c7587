"""What a revision has answered, as Cloud Monitoring has it.

Cloud Run's metrics are sampled each minute and visible up to four minutes later
(cloud.google.com/monitoring/api/v3/latency-n-retention).
"""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

URL = "https://monitoring.googleapis.com"
HTTP_TIMEOUT_SECONDS = 30
ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 2.0
PASSING = frozenset({408, 429, 500, 502, 503, 504})


class MonitoringError(Exception):
    """Cloud Monitoring did not answer, however often it was asked."""


@dataclass(frozen=True)
class Monitoring:
    """One project's. `token`: an access token; `pause`: waits so many seconds."""

    project: str
    token: Callable[[], str]
    url: str = URL
    pause: Callable[[float], object] = time.sleep

    def answered(self, revision: str, began: datetime) -> tuple[int, int]:
        """Return how many requests a revision has answered since `began`, and how many of them with 5xx."""
        points = list(self._points("request_count", revision, began))
        counts = [(labels, int(point["value"]["int64Value"])) for labels, point in points]
        bad = sum(count for labels, count in counts if labels.get("response_code_class") == "5xx")
        return sum(count for _, count in counts), bad

    def slow(self, revision: str, began: datetime, above_ms: float) -> tuple[int, int]:
        """Return how many requests a revision has answered since `began`, and how many took longer."""
        total = slow = 0
        for _, point in self._points("request_latencies", revision, began):
            distribution = point["value"]["distributionValue"]
            total += int(distribution.get("count", 0))
            slow += count_above(distribution, above_ms)
        return total, slow

    def _points(
        self, metric: str, revision: str, began: datetime
    ) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
        kind = f'metric.type = "run.googleapis.com/{metric}" AND resource.type = "cloud_run_revision"'
        query = {
            "filter": f'{kind} AND resource.labels.revision_name = "{revision}"',
            # a window of no width is refused
            "interval.startTime": (began - timedelta(seconds=1)).isoformat(),
            "interval.endTime": datetime.now(UTC).isoformat(),
        }
        page = ""
        while True:
            document = self._get(urllib.parse.urlencode(query | ({"pageToken": page} if page else {})))
            for series in document.get("timeSeries", []):
                for point in series["points"]:
                    yield series.get("metric", {}).get("labels", {}), point
            page = document.get("nextPageToken", "")
            if not page:
                return

    def _get(self, query: str) -> dict[str, Any]:
        """GET; one answer of 429 or 5xx, or a broken connection, is no reason to end a deployment."""
        problem: Exception | None = None
        for attempt in range(ATTEMPTS):
            if attempt:
                self.pause(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                body = fetch(f"{self.url}/v3/projects/{self.project}/timeSeries?{query}", self.token())
                return dict(json.loads(body))
            except urllib.error.HTTPError as error:
                problem = error
                if error.code not in PASSING:
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = error
        raise MonitoringError(f"Cloud Monitoring does not answer: {problem}") from problem


def count_above(distribution: dict[str, Any], above: float) -> int:
    """Count a Distribution's values in the buckets that lie wholly above."""
    counts = [int(count) for count in distribution.get("bucketCounts", [])]
    lower = lower_bounds(distribution.get("bucketOptions", {}), len(counts))
    return sum(count for count, bound in zip(counts, lower, strict=True) if bound >= above)


def lower_bounds(options: dict[str, Any], buckets: int) -> list[float]:
    """Return where each bucket begins (BucketOptions of google.api.Distribution)."""
    below = float("-inf")
    if "exponentialBuckets" in options:
        each = options["exponentialBuckets"]
        scale, growth = float(each["scale"]), float(each["growthFactor"])
        return [below, *(scale * growth**number for number in range(buckets))][:buckets]
    if "linearBuckets" in options:
        each = options["linearBuckets"]
        offset, width = float(each.get("offset", 0)), float(each["width"])
        return [below, *(offset + width * number for number in range(buckets))][:buckets]
    bounds = [float(bound) for bound in options.get("explicitBuckets", {}).get("bounds", [])]
    return [below, *bounds][:buckets]


def fetch(url: str, token: str) -> bytes:
    """GET with a bearer token; OSError for no answer or one that is not 2xx."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - https
    with urllib.request.urlopen(request, timeout=HTTP_TIMEOUT_SECONDS) as answer:  # noqa: S310
        return bytes(answer.read())
