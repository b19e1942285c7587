"""Envoy's static configuration, made of the API's description. No admin interface, nothing but loopback."""

from typing import Any

from devstack.edge.description import Address, Description, Provider
from devstack.edge.routes import BUFFER_FILTER, JWT_FILTER, cluster_name, routes_of

LISTEN_ADDRESS = "127.0.0.1"
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_CONNECTIONS = 4096
# From here to the gateway, which keeps idle connections for 75 s: who closes first is never the gateway.
UPSTREAM_IDLE_SECONDS = 60
CONNECT_TIMEOUT_SECONDS = 5
JWKS_TIMEOUT_SECONDS = 5
HEADERS_TIMEOUT_SECONDS = 10
# to receive a whole request; a longer one is answered 408
REQUEST_TIMEOUT_SECONDS = 60
CLIENT_IDLE_SECONDS = 600
USERINFO_HEADER = "X-Apigateway-Api-Userinfo"
# What only the edge may say. The gateway verifies the token in any case.
RESERVED_HEADERS = (USERINFO_HEADER, "X-Forwarded-Authorization")
# the same as the gateway takes
VALID_REQUEST_ID = "[!-~]{1,128}"
MAX_REGEX_PROGRAM_SIZE = 300

_TYPES = "type.googleapis.com/envoy.extensions"


def configuration(description: Description, port: int, *, jwks_cache_seconds: float) -> dict[str, Any]:
    """Return the bootstrap configuration (https://www.envoyproxy.io/docs/envoy/latest/api-v3/bootstrap)."""
    addresses = {
        *(operation.backend for operation in description.operations),
        *(provider.jwks for provider in description.providers.values()),
    }
    clusters = {cluster_name(address): address for address in addresses}
    return {
        # Envoy's own bound is 100; VALID_REQUEST_ID needs more, as every bounded repetition does
        "layered_runtime": {
            "layers": [
                {
                    "name": "limits",
                    "static_layer": {"re2.max_program_size.error_level": MAX_REGEX_PROGRAM_SIZE},
                }
            ]
        },
        "overload_manager": {"resource_monitors": [_connection_limit()]},
        "static_resources": {
            "listeners": [_listener(description, port, jwks_cache_seconds)],
            "clusters": [_cluster(name, clusters[name]) for name in sorted(clusters)],
        },
    }


def _connection_limit() -> dict[str, Any]:
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"{_TYPES}.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": MAX_CONNECTIONS,
        },
    }


def _listener(description: Description, port: int, jwks_cache_seconds: float) -> dict[str, Any]:
    return {
        "name": "edge",
        "address": {"socket_address": {"address": LISTEN_ADDRESS, "port_value": port}},
        # with it, a second Envoy would silently share the port
        "enable_reuse_port": False,
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _connection_manager(description, jwks_cache_seconds),
                    }
                ]
            }
        ],
    }


def _connection_manager(description: Description, jwks_cache_seconds: float) -> dict[str, Any]:
    return {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "edge",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "common_http_protocol_options": {
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": f"{CLIENT_IDLE_SECONDS}s",
        },
        "request_headers_timeout": f"{HEADERS_TIMEOUT_SECONDS}s",
        "request_timeout": f"{REQUEST_TIMEOUT_SECONDS}s",
        # The connection's address is the client's. Instead of a loopback address Envoy would write another
        # one of this machine, so the routes write it.
        "use_remote_address": True,
        "skip_xff_append": True,
        "generate_request_id": True,
        "preserve_external_request_id": True,
        "request_id_extension": {
            "typed_config": {
                "@type": f"{_TYPES}.request_id.uuid.v3.UuidRequestIdConfig",
                "pack_trace_reason": False,  # it would change a digit of the client's id
            }
        },
        "local_reply_config": _own_answers(),
        "access_log": [
            _access_log({"request_id": "%REQ(X-REQUEST-ID)%"}, _request_id_is_valid()),
            _access_log({}, _request_id_is_valid(invert_match=True, treat_missing_header_as_empty=True)),
        ],
        "http_filters": _filters(description, jwks_cache_seconds),
        "route_config": {
            "name": "api",
            "virtual_hosts": [{"name": "api", "domains": ["*"], "routes": routes_of(description)}],
        },
    }


def _own_answers() -> dict[str, Any]:
    echo = {
        "header": {"key": "x-request-id", "value": "%REQ(x-request-id)%"},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }
    return {
        "body_format": {"json_format": {"code": "%RESPONSE_CODE%", "message": "%LOCAL_REPLY_BODY%"}},
        "mappers": [{"filter": _request_id_is_valid(), "headers_to_add": [echo]}],
    }


def _request_id_is_valid(**options: bool) -> dict[str, Any]:
    valid = {"safe_regex": {"regex": VALID_REQUEST_ID}}
    return {"header_filter": {"header": {"name": "x-request-id", "string_match": valid, **options}}}


def _access_log(fields: dict[str, str], log_filter: dict[str, Any]) -> dict[str, Any]:
    """One line per request on stdout, in the field names of the services' logs: no path, query or body."""
    return {
        "name": "stdout",
        "filter": log_filter,
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {
                "json_format": {
                    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%3fZ)%",
                    "severity": "INFO",
                    "service": "envoy",
                    "message": "request",
                    "method": "%REQ(:METHOD):10%",
                    "route": "%ROUTE_NAME%",
                    "status": "%RESPONSE_CODE%",
                    "why": "%RESPONSE_CODE_DETAILS%",
                    "duration_ms": "%DURATION%",
                    **fields,
                }
            },
        },
    }


def _filters(description: Description, jwks_cache_seconds: float) -> list[dict[str, Any]]:
    providers = description.providers.values()
    return [
        _filter(
            "header_mutation",
            "HeaderMutation",
            mutations={
                "request_mutations": [
                    *({"remove": name} for name in RESERVED_HEADERS),
                    # with these a client could change timeouts and retries
                    {"remove_on_match": {"key_matcher": {"prefix": "x-envoy-"}}},
                ]
            },
        ),
        _filter(
            JWT_FILTER.rpartition(".")[2],
            "JwtAuthentication",
            providers={provider.name: _provider(provider, jwks_cache_seconds) for provider in providers},
            requirement_map={provider.name: {"provider_name": provider.name} for provider in providers},
        ),
        _filter(BUFFER_FILTER.rpartition(".")[2], "Buffer", max_request_bytes=MAX_BODY_BYTES),
        _filter("router", "Router", suppress_envoy_headers=True),
    ]


def _filter(name: str, message: str, **settings: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": {"@type": f"{_TYPES}.filters.http.{name}.v3.{message}", **settings},
    }


def _provider(provider: Provider, jwks_cache_seconds: float) -> dict[str, Any]:
    jwks = provider.jwks
    return {
        "issuer": provider.issuer,
        "audiences": list(provider.audiences),
        "forward": True,
        "forward_payload_header": USERINFO_HEADER,
        "from_headers": [{"name": provider.header, "value_prefix": provider.value_prefix}],
        "remote_jwks": {
            "http_uri": {
                "uri": f"http://{cluster_name(jwks)}{jwks.path}",
                "cluster": cluster_name(jwks),
                "timeout": f"{JWKS_TIMEOUT_SECONDS}s",
            },
            "cache_duration": f"{jwks_cache_seconds:g}s",
            # Fetched in the background: keys that are known stay in use while the gateway is away.
            "async_fetch": {"failed_refetch_duration": "1s"},
        },
    }


def _cluster(name: str, address: Address) -> dict[str, Any]:
    endpoint = {"address": {"socket_address": {"address": address.host, "port_value": address.port}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_TIMEOUT_SECONDS}s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "common_http_protocol_options": {"idle_timeout": f"{UPSTREAM_IDLE_SECONDS}s"},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }
