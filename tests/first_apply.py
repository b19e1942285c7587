"""terraform/README.md's first apply, run as it stands: real Terraform and `bridge`, stand-ins for the rest.

The stand-ins of gcloud and docker refuse what would fail in the cloud at that moment: a secret, bucket,
repository or job that no step has made yet.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from kms_server import KmsServer
from terraform_stage import REPOSITORY, copy_configuration

README = REPOSITORY / "terraform/README.md"
# half a minute on a quiet machine; the bound is for one with ten times the load
SHELL_SECONDS = 900
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TERRAFORM = f"""#!{sys.executable}
import os, sys
words = [word for word in sys.argv[1:] if not word.startswith("-backend-config")]
if words[0] in ("init", "apply"):
    words.append("-input=false")
if words[0] == "apply":
    words += ["-auto-approve", "-no-color"]
program = {shutil.which("terraform")!r}
os.execv(program, [program, *words])
"""
IN_THE_STATE = """
import json, pathlib, sys
def made(kind):
    state = json.loads((pathlib.Path(FOLDER) / "terraform.tfstate").read_text())
    resources = [one for one in state["resources"] if one["mode"] == "managed" and one["type"] == kind]
    return [each["attributes"] for one in resources for each in one["instances"]]
"""
GCLOUD = (
    f"#!{sys.executable}\nFOLDER = {{folder!r}}\n"
    + IN_THE_STATE
    + """
words = [word for word in sys.argv[1:] if not word.startswith("--")]
options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
with open(FOLDER + "/gcloud.log", "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
def refuse(why):
    sys.exit("ERROR: " + " ".join(sys.argv[1:]) + ": " + why)
if words[:3] == ["secrets", "versions", "add"]:
    if words[3] not in [each["secret_id"] for each in made("google_secret_manager_secret")]:
        refuse("there is no such secret")
    if not pathlib.Path(options["data-file"]).read_bytes().strip():
        refuse("it is empty")
elif words[:2] == ["storage", "cp"]:
    bucket = words[-1].removeprefix("gs://").partition("/")[0]
    if bucket not in [each["name"] for each in made("google_storage_bucket")]:
        refuse("there is no such bucket")
    if not (pathlib.Path(words[-2]) / "jwks.json").is_file():
        refuse("there are no keys")
elif words[:3] == ["run", "jobs", "execute"]:
    if words[3] not in [each["name"] for each in made("google_cloud_run_v2_job")]:
        refuse("there is no such job")
elif words[:2] not in (["services", "enable"], ["storage", "buckets"], ["auth", "configure-docker"]):
    refuse("the stand-in does not know this")
"""
)
DOCKER = (
    f"#!{sys.executable}\nFOLDER = {{folder!r}}\n"
    + IN_THE_STATE
    + """
options = dict(word[2:].partition("=")[::2] for word in sys.argv[1:] if word.startswith("--"))
host, project, repository, image = options["tag"].rpartition(":")[0].split("/")
known = [each["repository_id"] for each in made("google_artifact_registry_repository")]
if repository not in known:
    sys.exit("there is no such repository: " + options["tag"])
digest = "sha256:" + "b2" * 32
pathlib.Path(options["metadata-file"]).write_text(json.dumps({"containerimage.digest": digest}))
"""
)


def blocks():
    """The shell blocks of the first apply, in their order."""
    text = README.read_text(encoding="utf-8")
    return BLOCK.findall(text.partition("## The first apply")[2].partition("\n## ")[0])


def replay(environment, folder, terraform_environment):
    """Run every block for `environment`; return the addresses of what there is in the end."""
    terraform = copy_configuration(folder)
    for name in ("deploy", "docs"):
        (folder / name).symlink_to(REPOSITORY / name)
    programs = folder / "bin"
    programs.mkdir()
    for name, content in (
        ("terraform", TERRAFORM),
        ("gcloud", GCLOUD.replace("{folder!r}", repr(str(terraform)))),
        ("docker", DOCKER.replace("{folder!r}", repr(str(terraform)))),
    ):
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    # what a person has written before the start
    secrets = terraform / "keys/secrets"
    secrets.mkdir(parents=True)
    (secrets / "sap-connections").write_text(
        '{"s4-main": {"base_url": "https://sap.invalid", "user": "u", "password": "p"}}'
    )
    (secrets / "sap-mock-password").write_text("p")
    lines = "".join(blocks()).replace("export E=staging\n", f"export E={environment}\n")
    key = f"projects/example-bridge-{environment}/locations/europe/keyRings/bridge/cryptoKeys/"
    with KmsServer(f"{key}party-data", f"{key}webhook-secrets") as kms:
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{lines}"],
            cwd=folder,
            env={
                **terraform_environment,
                "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
                "KMS_EMULATOR_HOST": kms.host,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=SHELL_SECONDS,
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    state = json.loads((terraform / "terraform.tfstate").read_text(encoding="utf-8"))
    return {
        (each["type"], each.get("module", ""), each["name"], str(instance.get("index_key", "")))
        for each in state["resources"]
        if each["mode"] == "managed"
        for instance in each["instances"]
    }
