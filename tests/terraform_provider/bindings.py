"""The schema of a google provider, read out of the wheel of its prebuilt CDK Terrain bindings.

The wheel (cdktn-provider-google, cdktn-provider-google-beta) embeds a tarball of generated JavaScript. Above
each accessor stands what Terraform has to know of that attribute or block,

    // retry_policy - computed: false, optional: true, required: false

its getter gives the type, and what it is built with gives the nesting. The declarations beside it (`.d.ts`)
tell the values that an enumeration takes. The wheel is read as an archive and never imported.

`read_schema` returns the shape of `terraform providers schema -json`, for one provider, with its version.
"""

import re
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path

KINDS = {
    "TerraformResource": "resource_schemas",
    "TerraformDataSource": "data_source_schemas",
    "TerraformProvider": "provider",
}
# by the getter's call, by the class a value is built with, or by what it is stored in
TYPES = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
    "StringMap": ["map", "string"],
    "StringMapList": ["list", ["map", "string"]],
    "string": "string",
    "number": "number",
    "boolean": "bool",
    "stringList": ["list", "string"],
    "stringMap": ["map", "string"],
}

_CLASS = re.compile(r"^class (\w+) extends cdktn\.(\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_ACCESSOR = re.compile(
    r"^ +// (\w+) - computed: (\w+), optional: (\w+), required: (\w+)\n"
    r"(.*?)(?=^ +// (?:\w+ - computed|=====)|\Z)",
    re.MULTILINE | re.DOTALL,
)
_BUILT_WITH = re.compile(r" = new (?:\w+\.)?(\w+)\(this, \"\w+\"(?:, (true|false))?\);")
_GETTER = re.compile(r"get \w+\(\) \{\n +return (?:(cdktn\.Fn\.tolist)\()?this\.(\w+)")
_STORED = re.compile(
    r"^ +(\w+): \{\n.*\n +isBlock: \w+,\n +type: \"(\w+)\",\n +storageClassType: \"(\w+)\"", re.MULTILINE
)
_RESOURCE_TYPE = re.compile(r"terraformResourceType: '([\w-]+)'")
_PROVIDER_VERSION = re.compile(r"providerVersion: '([\d.]+)'")
_INTERFACE = re.compile(r"^export interface (\w+)[^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
# the comment above a member: the values, then the link that names the attribute
_ALLOWED = re.compile(r"Possible values: \[([^\]]+)\](?:(?!\*/).)*?#(\w+) ", re.DOTALL)
_QUOTED = re.compile(r'"([^"]+)"')


class Binding:
    """The generated source of one resource, data source or provider."""

    def __init__(self):
        self._classes = {}  # name: (base, body)
        self._nesting = {}  # storage class of a block: list, set or struct
        self._stored = {}  # attribute: storage class
        self._provider_source = ""
        self._allowed = {}  # (interface, attribute): the values it takes

    def add(self, source):
        self._classes.update({name: (base, body) for name, base, body in _CLASS.findall(source)})
        for name, kind, storage in _STORED.findall(source):
            self._nesting[storage] = kind
            self._stored[name] = storage
        if "extends cdktn.TerraformProvider {" in source:
            self._provider_source = source

    def add_declarations(self, source):
        for interface, body in _INTERFACE.findall(source):
            for values, name in _ALLOWED.findall(body):
                self._allowed[interface, name] = _QUOTED.findall(values)

    def schema(self):
        """Return (kind, type name, schema); None for a file of helpers."""
        for name, (base, body) in self._classes.items():
            if base in KINDS:
                schema = {"version": 0, "block": self._block(name)}
                return KINDS[base], _RESOURCE_TYPE.search(body)[1], schema
        return None

    def _block(self, name, outer=()):
        attributes, blocks = {}, {}
        base, body = self._classes[name]
        interface = name + "Config" if base in KINDS else name.removesuffix("OutputReference")
        accessors = _ACCESSOR.findall(body)
        unread = {found[0] for found in _STORED.findall(body)} - {found[0] for found in accessors}
        if unread:
            raise ValueError(
                f"{name}: nothing is said of {sorted(unread)}; bindings before 20.0 say too little"
            )
        for member, computed, optional, required, code in accessors:
            flags = {
                flag: True
                for flag, told in (("computed", computed), ("optional", optional), ("required", required))
                if told == "true"
            }
            if "Write-only" in code:
                flags["write_only"] = True
            if (interface, member) in self._allowed:
                flags["allowed"] = self._allowed[interface, member]
            self._member(member, flags, code, outer, attributes, blocks)
        return {"attributes": attributes, "block_types": blocks}

    def _member(self, member, flags, code, outer, attributes, blocks):
        built = _BUILT_WITH.search(code)
        if not built:
            self._plain(member, flags, code, attributes, blocks)
        elif built[1] in TYPES:
            attributes[member] = {"type": TYPES[built[1]], **flags}
        elif built[1] not in outer:  # a type that holds itself ends at its first repetition
            stem = re.fullmatch(r"(\w+?)(?:List|OutputReference)", built[1])[1]
            inner = self._block(stem + "OutputReference", (*outer, built[1]))
            if "computed" in flags:  # never in a configuration: an attribute that holds objects
                collection = "set" if built[2] == "true" else "list"
                attributes[member] = {"type": [collection, _object_type(inner)], **flags}
            elif self._nesting.get(stem) == "struct":
                blocks[member] = {"nesting_mode": "single", "block": inner}
            else:
                blocks[member] = {
                    "nesting_mode": self._nesting[stem + "List"],
                    "block": inner,
                    "min_items": int("required" in flags),
                    "max_items": int(built[1].endswith("OutputReference")),
                }

    def _plain(self, member, flags, code, attributes, blocks):
        getter = _GETTER.search(code)
        stored = getter[2] if getter[2] in TYPES else self._stored[member]
        if stored in TYPES:
            kind = TYPES[stored]
            attributes[member] = {"type": ["set", kind[1]] if getter[1] else kind, **flags}
        else:
            block = self._provider_block(stored)
            blocks[member] = {"nesting_mode": "list", "max_items": 1, "block": block}

    def _provider_block(self, storage):
        """A block of the provider's own configuration has no class, only a function that writes it."""
        writer = f"^function {storage.removesuffix('List')}ToHclTerraform\\(.*?^}}"
        body = re.search(writer, self._provider_source, re.MULTILINE | re.DOTALL | re.IGNORECASE)[0]
        attributes = {
            name: {"type": TYPES[kind], "optional": True} for name, _, kind in _STORED.findall(body)
        }
        return {"attributes": attributes, "block_types": {}}


def _object_type(block):
    fields = {name: attribute["type"] for name, attribute in block["attributes"].items()}
    for name, nested in block["block_types"].items():
        fields[name] = [nested["nesting_mode"], _object_type(nested["block"])]
    return ["object", fields]


def find_wheel(provider, folder):
    """Return the provider's wheel in `folder`; FileNotFoundError says how to get it."""
    package = "cdktn_provider_" + provider.replace("-", "_")
    wheels = sorted(Path(folder).glob(f"{package}-[0-9]*.whl"))
    if not wheels:
        raise FileNotFoundError(f"no schema of {provider} in {folder}: run `make terraform-fetch`")
    return wheels[-1]


def read_schema(wheel):
    """Return the schema in a wheel; it takes some 5 s."""
    bindings, version = defaultdict(Binding), None
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".jsii.tgz"))
        with archive.open(name) as stream, tarfile.open(fileobj=stream, mode="r|gz") as tar:
            for member in tar:
                parts = member.name.split("/")  # package/lib/<binding>/…/<name>.js
                if parts[1] != "lib" or len(parts) <= 3 or not member.name.endswith((".js", ".d.ts")):
                    continue
                source = tar.extractfile(member).read().decode().partition("//# sourceMappingURL")[0]
                if member.name.endswith(".d.ts"):
                    bindings[parts[2]].add_declarations(source)
                else:
                    version = version or _PROVIDER_VERSION.search(source)
                    bindings[parts[2]].add(source)
    schema = {"version": version[1], **{kind: {} for kind in KINDS.values()}}
    for kind, name, block in filter(None, (binding.schema() for binding in bindings.values())):
        if kind == "provider":
            schema[kind] = block
        else:
            schema[kind][name] = block
    return schema
