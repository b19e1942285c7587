"""Every command line that Terraform starts, with `--check`, from the packages as the image has them."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor

import pytest
from terraform_stage import REPOSITORY
from test_agrees_with_the_code import processes
from waiting import DEADLINE_SECONDS

from devstack.keys import load_or_create

pytestmark = pytest.mark.terraform

AT_ONCE = 2
ENTRY_POINTS = {
    *(
        "gateway",
        "sap_adapter",
        "webhooks",
        "partners",
        "backoffice",
        "dispatcher",
        "dispatcher.dead_letters",
    ),
    *("bridge.storage.migrate", "bridge.storage.erase", "sap_adapter.recover", "sap_mock"),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Target of the Dockerfile: a folder with what it copies there, and nothing else of the repository."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
    folders = {}
    for target, stage in (("services", "build-services"), ("sap_mock", "build-sap-mock")):
        instructions = dockerfile.partition(f"FROM build AS {stage}\n")[2].partition("\nFROM ")[0]
        packages = re.findall(r"^COPY (\w+) \1$", instructions, re.MULTILINE)
        assert packages, f"{stage} copies nothing"
        installed = re.search(r"cp -r ([\w ]+) ", instructions)[1].split()
        assert installed == packages
        folder = tmp_path_factory.mktemp(target)
        for package in packages:
            shutil.copytree(
                REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        folders[target] = folder
    return folders


@pytest.fixture(scope="module")
def mounted(tmp_path_factory):
    """Variable: a file as Secret Manager would mount it."""
    folder = tmp_path_factory.mktemp("secrets")
    keys = load_or_create(folder)
    connections = folder / "sap-connections.json"
    connections.write_text(
        json.dumps({"s4-main": {"base_url": "https://sap.invalid", "user": "u", "password": "p"}})
    )
    return {
        "EDGE_KEY": keys.fingerprint,
        "FINGERPRINT_KEY": keys.fingerprint,
        "PARTY_KEY_RING": keys.party_data,
        "RECEIPT_SIGNING_KEY": keys.receipt_signing,
        "SAP_CONNECTIONS_FILE": connections,
        "TOKEN_SIGNING_KEYS_DIR": keys.token_signing_folder,
        "WEBHOOK_KEY_RING": keys.webhook_secrets,
    }


def start(module, environment, image, folder):
    # No K_SERVICE: it forbids a key ring that Cloud KMS has not wrapped.
    # -S: no .pth file, so the repository's own packages are not found by the back door
    dependencies = sysconfig.get_path("purelib")
    return subprocess.run(
        [sys.executable, "-S", "-m", module, "--check"],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{image}:{dependencies}",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )


def test_every_entry_point_starts(applied_environments, images, mounted, tmp_path):
    def check(process):
        module, environment = process
        files = {name: str(path) for name, path in mounted.items() if name in environment}
        image = images["sap_mock" if module == "sap_mock" else "services"]
        return module, start(module, {**environment, **files}, image, tmp_path)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = dict(pool.map(check, processes(applied_environments["staging"])))
    for module, ended in done.items():
        assert (ended.returncode, ended.stdout + ended.stderr) == (0, ""), module
    assert done.keys() >= ENTRY_POINTS


def test_a_wrong_setting_is_told_and_nothing_is_served(images, tmp_path):
    done = start("gateway", {}, images["services"], tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "gateway: set DATABASE_URL, or CLOUD_SQL_INSTANCE with DATABASE_USER and DATABASE_NAME\n"
    )
