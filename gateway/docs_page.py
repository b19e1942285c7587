"""The OpenAPI document as one HTML page: no script, nothing fetched from anywhere."""

import base64
import hashlib
from typing import Any

from jinja2 import Environment

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-bottom: 1px solid; margin-top: 3rem; }
h3 { margin: 2rem 0 .2rem; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0; border-top: 1px solid #8884; }
pre { white-space: pre-wrap; }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

_TEMPLATE = """\
{% macro kind(schema) -%}
{%- if "$ref" in schema -%}
{%- set name = schema["$ref"].split("/")[-1] -%}<a href="#{{ name }}">{{ name }}</a>
{%- elif "anyOf" in schema -%}
{%- for one in schema["anyOf"] %}{{ " or " if not loop.first }}{{ kind(one) }}{% endfor -%}
{%- elif "allOf" in schema -%}{{ kind(schema["allOf"][0]) }}
{%- elif "const" in schema -%}<code>{{ schema["const"] }}</code>
{%- elif "enum" in schema -%}
{%- for one in schema["enum"] %}{{ ", " if not loop.first }}<code>{{ one }}</code>{% endfor -%}
{%- elif schema.get("type") == "array" -%}array of {{ kind(schema["items"]) }}
{%- else -%}{{ schema.get("type", "any") }}{{ " (" ~ schema["format"] ~ ")" if "format" in schema }}
{%- for limit in ("minLength", "maxLength", "minimum", "maximum", "maxProperties") if limit in schema -%}
, {{ limit }} {{ schema[limit] }}
{%- endfor -%}
{%- if "pattern" in schema %}, <code>{{ schema["pattern"] }}</code>{% endif -%}
{%- endif -%}
{%- endmacro -%}
{% macro members(schema) -%}
<table><tr><th>member</th><th>what it is</th><th></th></tr>
{% for name, member in schema.get("properties", {}).items() -%}
<tr><td><code>{{ name }}</code>{{ "" if name in schema.get("required", []) else " (optional)" }}</td>
<td>{{ kind(member) }}</td><td>{{ member.get("description", "") }}</td></tr>
{% endfor -%}
</table>
{%- endmacro -%}
<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{{ info.title }}</title><style>{{ style }}</style></head>
<body>
<h1>{{ info.title }}</h1>
<pre>{{ info.description }}</pre>
<p><a href="openapi.json">openapi.json</a> is this page for programs.</p>
{% for tag, group in operations|groupby("tag") %}
<h2>{{ tag }}</h2>
{% for method, path, operation in group|map(attribute="parts") %}
<h3 id="{{ operation.operationId }}">{{ operation.summary }}</h3>
<p><code>{{ method|upper }} {{ path }}</code>
{%- for need in operation.security if need.access_token %}, with the scope
<code>{{ need.access_token|join(" ") }}</code>{% endfor %}</p>
{% if operation.description %}<p>{{ operation.description }}</p>{% endif %}
{% if operation.parameters %}
<table><tr><th>parameter</th><th>what it is</th><th></th></tr>
{% for parameter in operation.parameters %}
<tr><td><code>{{ parameter.name }}</code> in {{ parameter["in"] }}
{{- "" if parameter.required else " (optional)" }}</td>
<td>{{ kind(parameter.schema) }}</td><td>{{ parameter.description }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if operation.requestBody %}
{% for media_type, body in operation.requestBody.content.items() %}
<p>Body, <code>{{ media_type }}</code>:
{% if "$ref" in body["schema"] %}{{ kind(body["schema"]) }}</p>
{% else %}</p>{{ members(body["schema"]) }}{% endif %}
{% endfor %}
{% endif %}
<table><tr><th>answer</th><th>body</th><th>when</th></tr>
{% for status, given in operation.responses.items() %}
{% set response = components.responses[given["$ref"].split("/")[-1]] if "$ref" in given else given %}
<tr><td><code>{{ status }}</code></td>
<td>{% for media_type, body in (response.content or {}).items() -%}
{{ ", " if not loop.first }}{{ kind(body["schema"]) if body["schema"] else media_type }}{% endfor %}</td>
<td>{{ response.description }}</td></tr>
{% endfor %}
</table>
{% endfor %}
{% endfor %}
<h2>Shapes</h2>
{% for name, schema in components.schemas.items() %}
<h3 id="{{ name }}">{{ name }}</h3>
{% if schema.description %}<p>{{ schema.description }}</p>{% endif %}
{% if schema.enum %}<p>{{ kind(schema) }}</p>{% else %}{{ members(schema) }}{% endif %}
{% endfor %}
</body>
</html>
"""


def render(document: dict[str, Any]) -> str:
    """Return the page. Everything from the document is escaped."""
    operations = [
        {"tag": operation["tags"][0], "parts": (method, path, operation)}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    template = Environment(autoescape=True, trim_blocks=True).from_string(_TEMPLATE)
    return template.render(
        info=document["info"], components=document["components"], operations=operations, style=STYLE
    )
