"""Build and push the first images by hand, and write down their digests for Terraform.

`python3 deploy/first_images.py --registry=REGION-docker.pkg.dev/PROJECT/bridge --tfvars=FILE --to=FILE`.
Later images come from Cloud Build. It needs the standard library and docker with buildx.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
WITH_MOCK = re.compile(r"^sap_mock *= *true", re.MULTILINE)


def build(registry: str, target: str, tag: str) -> str:
    """Build one target of the Dockerfile, push it, and return it by its digest."""
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder) / "metadata.json"
        subprocess.run(  # noqa: S603 - a list, and no shell
            [
                *("docker", "buildx", "build", "--platform=linux/amd64", "--push"),
                # an index with attestations is nothing that Cloud Run needs, and not every builder makes one
                "--provenance=false",
                *(f"--target={target}", f"--tag={registry}/{target}:{tag}", f"--metadata-file={metadata}"),
                str(REPOSITORY),
            ],
            check=True,
        )
        digest = json.loads(metadata.read_text(encoding="utf-8"))["containerimage.digest"]
    if not DIGEST.fullmatch(digest):
        raise ValueError(f"buildx names no image by its digest: {digest}")
    return f"{registry}/{target}@{digest}"


def main(arguments: list[str]) -> int:
    """Build what the environment runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--registry", required=True)
    parser.add_argument("--tfvars", required=True, type=Path, help="tells whether the SAP mock runs")
    parser.add_argument("--to", required=True, type=Path)
    given = parser.parse_args(arguments)
    # tags are immutable: a second try needs another one
    tag = f"first-{datetime.now(UTC):%Y%m%d%H%M%S}"
    images = {"services_image": build(given.registry, "services", tag)}
    if WITH_MOCK.search(given.tfvars.read_text(encoding="utf-8")):
        images["sap_mock_image"] = build(given.registry, "sap_mock", tag)
    given.to.write_text(json.dumps(images, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"wrote {given.to}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
