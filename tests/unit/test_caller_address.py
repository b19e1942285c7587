"""The caller's address is what our own proxies saw, whatever a caller writes.

Chains as Google documents them: behind API Gateway the caller and then a front end of Google's
(GoogleCloudPlatform/esp-v2#140); a load balancer before it adds the caller and its own address
(cloud.google.com/load-balancing/docs/https#x-forwarded-for_header).
"""

import pytest
import structlog.testing

from bridge.errors import RejectedError
from gateway.caller_address import CallerAddress

pytestmark = pytest.mark.unit

PEER = "169.254.169.126"
CALLER, FORGED, FRONT_END, BALANCER = "198.51.100.7", "203.0.113.9", "2600:1900:2000:91::1", "203.0.113.200"
KEY = b"0123456789abcdef0123456789abcdef"

API_GATEWAY = CallerAddress(2)
LOAD_BALANCER = CallerAddress(2, KEY)


def edge(key="0123456789abcdef0123456789abcdef", address=CALLER):
    return {"X-Edge-Key": key, "X-Edge-Client-Address": address}


@pytest.mark.parametrize(
    ("where", "chain", "headers", "expected"),
    [
        # API Gateway alone
        (API_GATEWAY, f"{CALLER},{FRONT_END}", {}, CALLER),
        (API_GATEWAY, f"{FORGED}, {CALLER}, {FRONT_END}", {}, CALLER),
        (API_GATEWAY, ",".join([FORGED] * 50 + [CALLER, FRONT_END]), {}, CALLER),
        (API_GATEWAY, f"junk,{CALLER},{FRONT_END}", {}, CALLER),
        (API_GATEWAY, f"2001:db8:1:2:3::4,{FRONT_END}", {}, "2001:db8:1:2::/64"),
        (API_GATEWAY, f"{CALLER},{FRONT_END}", edge(address=FORGED), CALLER),
        # ESPv2 sometimes sends none (GoogleCloudPlatform/esp-v2#943)
        (API_GATEWAY, None, {}, PEER),
        (API_GATEWAY, FRONT_END, {}, PEER),
        (API_GATEWAY, "x" * 9000, {}, PEER),
        # the load balancer before it
        (LOAD_BALANCER, f"{CALLER},{BALANCER},{FRONT_END}", edge(), CALLER),
        (LOAD_BALANCER, f"{FORGED},{CALLER},{BALANCER},{FRONT_END}", edge(), CALLER),
        (LOAD_BALANCER, None, edge(address="2001:db8:1:2:3::4"), "2001:db8:1:2::/64"),
        (LOAD_BALANCER, None, edge(address=""), PEER),
        # past it, through the API Gateway's own address
        (LOAD_BALANCER, f"{CALLER},{FRONT_END}", {}, None),
        (LOAD_BALANCER, f"{FORGED},{CALLER},{BALANCER},{FRONT_END}", {}, None),
        (LOAD_BALANCER, f"{CALLER},{FRONT_END}", edge(key="guess"), None),
        (LOAD_BALANCER, f"{CALLER},{FRONT_END}", edge(key="é"), None),
        (LOAD_BALANCER, f"{CALLER},{FRONT_END}", {"X-Edge-Client-Address": FORGED}, None),
        # the local edge, and nothing before the gateway
        (CallerAddress(1), f"{FORGED},{CALLER}", {}, CALLER),
        (CallerAddress(0), FORGED, {}, PEER),
    ],
)
def test_a_chain_gives_the_callers_address_or_is_refused(where, chain, headers, expected):
    given = headers | ({"X-Forwarded-For": chain} if chain is not None else {})
    if expected is None:
        with pytest.raises(RejectedError) as refused:
            where.of(given, PEER)
        assert refused.value.status == 404
    else:
        assert where.of(given, PEER) == expected


def test_without_any_address_all_are_one_caller():
    assert CallerAddress(1).of({}, None) == "unknown"


@pytest.mark.parametrize("chain", [f"{CALLER},{FRONT_END}", f"{CALLER},35.191.3.4", None])
def test_a_number_of_hops_that_names_a_proxy_is_told(chain):
    headers = {"X-Forwarded-For": chain} if chain else {}
    with structlog.testing.capture_logs() as lines:
        CallerAddress(1).of(headers, PEER)
    assert [line["event"] for line in lines] == ["caller address is a proxy's"]
    assert lines[0]["log_level"] == "warning"


def test_a_caller_of_our_own_is_no_proxy():
    with structlog.testing.capture_logs() as lines:
        CallerAddress(1).of({"X-Forwarded-For": "127.0.0.1"}, "127.0.0.1")
    assert lines == []
