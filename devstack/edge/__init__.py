"""The API Gateway of the local stack: Envoy, configured from the file that configures Google's.

Google's API Gateway is ESPv2, which is Envoy with a generated configuration
(https://github.com/GoogleCloudPlatform/esp-v2). Here `terraform/api-gateway.yaml` is read, its variables are
filled in for the stack, and the same kind of configuration comes out. What a partner and the gateway see is
the same as far as ESPv2's source and documentation tell:

- Only listed paths and methods pass: 404 and 405 otherwise. A parameter is one segment, a path without one
  wins, `/path/` is matched like `/path` (and passed on as it is), HEAD is not GET, 405 comes without Allow.
- A token is checked for signature, issuer, audience and time (60 s of tolerance), not for scopes. `Bearer` is
  taken in this spelling only. Another audience is 403, any other fault 401.
- `Authorization` arrives as `X-Forwarded-Authorization`, on routes without a token too, and in its place
  stands the identity token of the API Gateway's account. The claims arrive in `X-Apigateway-Api-Userinfo`, in
  base64url without padding.
- Its own answers are `{"code", "message"}` in JSON. A body of more than 32 MiB is 413, a missed deadline 504,
  a gateway that can't be reached 503.
- Paths are normalized (`.`, `..`, `//`, backslashes) before they are matched; escaped slashes stay escaped. A
  header with an underscore in its name is 400. A request whose connection breaks before the answer is sent
  once more, POST included.

It differs from Google's in this:

- Keys come from the gateway and are kept for `JWKS_CACHE_SECONDS`; Google's fetches them from a bucket and
  keeps them for five minutes. A new key has to be public for that long before it signs.
- The identity token is the constant `BACKEND_TOKEN` and signed by nobody.
- A client's own `X-Forwarded-Authorization` and `X-Apigateway-Api-Userinfo` are removed from every request;
  ESPv2 overwrites them where it has something to put there.
- `X-HTTP-Method-Override` is passed on and means nothing; ESPv2 obeys it.
- The edge's own answers repeat a valid `X-Request-ID`; Google's carry none.
- A body is read to its end before the gateway gets the request; a chunked one arrives with its length.
- Plain HTTP on the loopback interface only. `X-Forwarded-For` ends with the client's address; Google's front
  end adds its own after it.
- No quotas, API keys, CORS, WebSocket, gRPC or service control; no limits and errors of Google's front end.
"""

from devstack.edge.program import EdgeAddress, command, find_envoy, is_installed, is_ready, why_missing

__all__ = ["EdgeAddress", "command", "find_envoy", "is_installed", "is_ready", "why_missing"]
