"""Writes docs/terraform-resources.md anew from both environments: `make terraform-resources`."""

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from terraform_provider.mirror import install
from terraform_stage import ENVIRONMENTS, OFFLINE, REPOSITORY, Terraform, copy_configuration

HEAD = """# What Terraform makes

Counted by type in what an offline apply of each environment makes, written by `make terraform-resources`; a
test keeps it true. terraform/README.md says what stands where.

| type | staging | production |
| --- | --- | --- |
"""


def main():
    counted = []
    for environment in ENVIRONMENTS:
        with tempfile.TemporaryDirectory() as folder:
            terraform = Terraform(
                copy_configuration(Path(folder)), {**os.environ, **install(OFFLINE, OFFLINE / "wheels")}
            )
            terraform.run("init", "-input=false")
            counted.append(Counter(resource.type for resource in terraform.apply(environment)))
    staging, production = counted
    rows = [f"| `{kind}` | {staging[kind]} | {production[kind]} |" for kind in sorted(staging | production)]
    totals = f"| all | {staging.total()} | {production.total()} |"
    document = HEAD + "\n".join([*rows, totals]) + "\n"
    (REPOSITORY / "docs/terraform-resources.md").write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
