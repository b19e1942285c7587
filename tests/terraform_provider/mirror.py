"""Lays out the stand-ins where Terraform looks for providers, and tells it to look nowhere else."""

import gzip
import hashlib
import json
import platform
import shlex
import sys
import tempfile
from pathlib import Path

from terraform_provider.bindings import find_wheel, read_schema
from terraform_provider.wire import provider_message

PROVIDERS = ("google", "google-beta")
HERE = Path(__file__).parent
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def install(folder, wheels):
    """Make a provider mirror in `folder` from the wheels in `wheels`; return the environment that uses it.

    The schemas are worked out once (some 10 s) for each pair of wheels and state of this code, then kept.
    """
    folder = Path(folder).resolve()
    mirror = folder / "mirror"
    system = f"{platform.system().lower()}_{MACHINES.get(platform.machine(), platform.machine())}"
    for provider in PROVIDERS:
        schema, version = _kept_schema(provider, find_wheel(provider, wheels), folder / "schemas")
        command = shlex.join([sys.executable, "-m", "terraform_provider.plugin", str(schema)])
        program = (
            mirror / "registry.terraform.io/hashicorp" / provider / version / system
        ) / f"terraform-provider-{provider}_v{version}"
        path = shlex.quote(str(HERE.parent))
        _write(program, f"#!/bin/sh\nPYTHONPATH={path} exec {command}\n".encode(), mode=0o755)
    configuration = folder / "terraform.rc"
    # no `direct` beside it: what is not in the mirror is refused, not fetched
    source = (
        f"provider_installation {{\n  filesystem_mirror {{\n    path = {json.dumps(str(mirror))}\n  }}\n}}\n"
    )
    _write(configuration, source.encode())
    return {
        "TF_CLI_CONFIG_FILE": str(configuration),
        "TF_DISABLE_PLUGIN_TLS": "1",
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
    }


def _kept_schema(provider, wheel, folder):
    """Return the file of the provider's schema, and its version."""
    path = folder / f"{provider}.json.gz"
    stamp = path.with_suffix(".stamp")
    code = b"".join((HERE / name).read_bytes() for name in ("bindings.py", "wire.py"))
    key = f"{wheel.name} {hashlib.sha256(code).hexdigest()}"
    made_from, _, version = stamp.read_text().partition("\n") if stamp.exists() else ("", "", "")
    if made_from != key:
        schema = read_schema(wheel)
        version = schema["version"]
        _write(path, gzip.compress(json.dumps(schema).encode()))
        _write(path.with_suffix(".pb"), provider_message(schema))
        _write(stamp, f"{key}\n{version}".encode())
    return path, version


def _write(path, content, mode=0o644):
    """Write a file whole or not at all: several test processes may be at it."""
    if path.exists() and path.read_bytes() == content:
        return  # a program that runs cannot be replaced by itself, and need not be
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    Path(file.name).chmod(mode)
    Path(file.name).replace(path)
