"""What the cloud would answer: unknown while planning, made up but repeatable once applied or read."""

import hashlib
import json
import re

from terraform_provider.wire import UNKNOWN, error, step_by_index, step_by_name

# of what only reads
READER_ADDRESS = "10.99.99.99"
PLACES = ("project", "project_id", "region", "zone", "location")


def refusals(block, value, path=b""):
    """Yield an error for each attribute that only the cloud may set, or that does not take its value."""
    if not isinstance(value, dict):
        return
    for name, attribute in block.get("attributes", {}).items():
        here = path + step_by_name(name)
        if value[name] is None:
            continue
        if not (attribute.get("optional") or attribute.get("required")):
            yield error("Value for unconfigurable attribute", f"{name} is decided by the cloud.", here)
        allowed = attribute.get("allowed")
        if allowed and isinstance(value[name], str) and value[name] not in ("", *allowed):
            yield error(
                f"Unexpected value of {name}", f'"{value[name]}" is none of {", ".join(allowed)}.', here
            )
    for name, nested in block.get("block_types", {}).items():
        here, inner = path + step_by_name(name), value[name]
        if isinstance(inner, dict):
            yield from refusals(nested["block"], inner, here)
        elif isinstance(inner, list):
            for index, element in enumerate(inner):
                # an element of a set has no path of its own
                step = step_by_index(index) if nested["nesting_mode"] == "list" else b""
                yield from refusals(nested["block"], element, here + step)


def transform(block, value, change):
    """Return an object with change(name, attribute, value) applied to all its attributes, blocks included."""
    if not isinstance(value, dict):
        return value  # null or unknown
    changed = {name: change(name, of, value[name]) for name, of in block.get("attributes", {}).items()}
    for name, nested in block.get("block_types", {}).items():
        inner = value[name]
        changed[name] = (
            [transform(nested["block"], element, change) for element in inner]
            if isinstance(inner, list)
            else transform(nested["block"], inner, change)
        )
    return changed


def planned(_name, attribute, value):
    """An attribute as a plan knows it."""
    if attribute.get("write_only"):
        return None
    return UNKNOWN if value is None and attribute.get("computed") else value


class Inventor:
    """Makes up what is computed of one object: the same each time for the same arguments."""

    def __init__(self, type_name, value, provider_settings, *, is_data_source=False):
        self._is_data_source = is_data_source
        known = {name: each for name, each in value.items() if isinstance(each, str)}
        self._project = known.get("project") or provider_settings.get("project") or "some-project"
        self._region = (
            known.get("region") or known.get("location") or provider_settings.get("region", "region-1")
        )
        noun = type_name.rpartition("_")[2]  # google_pubsub_topic: topics/NAME
        names = (known.get(key) for key in (f"{noun}_id", "account_id", "secret_id", "name", "display_name"))
        seed = json.dumps([type_name, value], sort_keys=True, default=repr)
        self._hash = hashlib.sha256(seed.encode()).hexdigest()
        name = next(filter(None, names), self._hash[:8])
        where = f"/locations/{self._region}" if {"location", "region"} & known.keys() else ""
        self._path = f"projects/{self._project}{where}/{noun}s/{name.rpartition('/')[2]}"
        self._email = f"{name}@{self._project}.iam.gserviceaccount.com"

    def __call__(self, name, attribute, value):
        # a data source also tells the place that it took from the provider's settings
        is_place = self._is_data_source and name in PLACES
        if value not in (None, UNKNOWN) or not (attribute.get("computed") or is_place):
            return value
        return self._invent(name, attribute["type"], is_always_there=not attribute.get("optional"))

    def _invent(self, name, kind, *, is_always_there):
        if kind == "string":
            return self._text(name)
        if isinstance(kind, str):
            return {"number": 1, "bool": False}[kind]
        if kind[0] == "map":
            return {}
        if kind[0] == "object":
            return {
                field: self._invent(field, of, is_always_there=is_always_there)
                for field, of in kind[1].items()
            }
        return self._list(name, kind[1]) if is_always_there else []

    def _list(self, name, kind):
        one = self._invent(name, kind, is_always_there=True)
        if isinstance(one, dict) and {"connection_type", "port"} <= one.keys():
            # Memorystore: the replica's endpoint and the primary's, in no promised order
            return [
                {**one, "connection_type": "CONNECTION_TYPE_READER", "ip_address": READER_ADDRESS},
                {**one, "connection_type": "CONNECTION_TYPE_PRIMARY", "port": 6379},
            ]
        return [one]

    def _text(self, name):
        number = str(int(self._hash[:10], 16) % 10**12).zfill(12)
        address = f"10.{int(self._hash[:2], 16)}.{int(self._hash[2:4], 16)}.2"
        for pattern, text in (
            ("project(_id)?", self._project),
            ("region|location", self._region),
            ("zone", f"{self._region}-a"),
            ("id|name|.*_name", self._path),
            ("(iam_)?member", f"serviceAccount:{self._email}"),
            (".*email|.*service_account|.*_identity", self._email),
            (".*(time|timestamp)", "2026-01-01T00:00:00Z"),
            ("(.*_)?number|unique_id|numeric_id|.*_id", number),
            (".*(hostname|domain|host)", f"{self._hash[:8]}.made-up.invalid"),
            (".*(uri|url|link|endpoint)s?", f"https://made-up.invalid/{self._path}"),
            ("(.*_)?(ip|ip_address|address)", address),
        ):
            if re.fullmatch(pattern, name):
                return text
        return f"{name}-{self._hash[:8]}"
