"""Terraform's plugin protocol 5 on the wire: protobuf by field number, values in MessagePack.

Messages are few and flat, so neither protobuf nor generated code is needed. Numbers are those of
https://github.com/hashicorp/terraform/blob/main/docs/plugin-protocol/tfplugin5.proto
"""

import json

import msgpack

UNKNOWN = msgpack.ExtType(0, b"\0")
NESTING = {"single": 1, "list": 2, "set": 3, "map": 4, "group": 5}
LENGTH_DELIMITED = 2


def message(*fields):
    """Encode (number, value) pairs: text and bytes by length, whole numbers and booleans as varints."""
    encoded = bytearray()
    for number, value in fields:
        if isinstance(value, str | bytes):
            content = value.encode() if isinstance(value, str) else value
            encoded += _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(content)) + content
        elif value:
            encoded += _varint(number << 3) + _varint(int(value))
    return bytes(encoded)


def fields_of(data):
    """Decode to {number: value}; of a repeated field the last (none of those read here is)."""
    position, found = 0, {}
    while position < len(data):
        tag, position = _read_varint(data, position)
        value, position = _read_varint(data, position)
        if tag & 7 == LENGTH_DELIMITED:
            value, position = data[position : position + value], position + value
        found[tag >> 3] = value
    return found


def pack(value):
    """Encode a DynamicValue."""
    return message((1, msgpack.packb(value)))


def unpack(dynamic_value):
    return msgpack.unpackb(fields_of(dynamic_value)[1], strict_map_key=False)


def error(summary, detail, path=b""):
    """A Diagnostic of severity error, at an AttributePath."""
    return message((1, 1), (2, summary), (3, detail), (4, path))


def step_by_name(name):
    """One step of an AttributePath."""
    return message((1, message((1, name))))


def step_by_index(index):
    return message((1, b"\x18" + _varint(index)))


def provider_message(schema):
    """Encode GetProviderSchema.Response."""
    meta = {"block": {"attributes": {"module_name": {"type": "string", "optional": True}}}}
    kinds = ((2, "resource_schemas"), (3, "data_source_schemas"))
    return message(
        (1, _schema_message(schema["provider"])),
        (5, _schema_message(meta)),
        (6, message((2, True))),  # ServerCapabilities: not every process has to fetch the schema anew
        *(
            (number, message((1, name), (2, _schema_message(one))))
            for number, kind in kinds
            for name, one in schema[kind].items()
        ),
    )


def _schema_message(schema):
    return message((1, schema.get("version")), (2, _block_message(schema["block"])))


def _block_message(block):
    attributes = (
        (
            2,
            message(
                (1, name),
                (2, json.dumps(attribute["type"])),
                (4, attribute.get("required")),
                (5, attribute.get("optional")),
                (6, attribute.get("computed")),
                (10, attribute.get("write_only")),
            ),
        )
        for name, attribute in block.get("attributes", {}).items()
    )
    blocks = (
        (
            3,
            message(
                (1, name),
                (2, _block_message(nested["block"])),
                (3, NESTING[nested["nesting_mode"]]),
                (4, nested.get("min_items")),
                (5, nested.get("max_items")),
            ),
        )
        for name, nested in block.get("block_types", {}).items()
    )
    return message(*attributes, *blocks)


def _varint(number):
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


def _read_varint(data, position):
    number = shift = 0
    while True:
        byte = data[position]
        number |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return number, position
