"""A rehearsal on a real project, from the first apply to a payment, a rollout, a take-back and a restore.

`python3 deploy/rehearsal.py` prints every command; with `--project=PROJECT` it runs them, one section after
another, and asks before each. The commands are those of the documents, read out of them as they stand.
"""

import argparse
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# where the first block of the README says which environment it is
ENVIRONMENT = re.compile(r"^export E=\S+$", re.MULTILINE)
PROJECT = re.compile(r'^project_id *= *"(.*)"', re.MULTILINE)
SECTIONS = (
    ("terraform/README.md", "The first apply"),
    ("terraform/README.md", "A way in, and the first payment"),
    ("docs/rehearsal.md", "One rollout"),
    ("docs/rehearsal.md", "One take-back"),
    ("docs/rehearsal.md", "One restore"),
    ("docs/rehearsal.md", "The end"),
)


@dataclass(frozen=True)
class Section:
    """A document's section: its heading and the shell blocks below it."""

    title: str
    blocks: tuple[str, ...]


def sections() -> list[Section]:
    """Read all of them; ValueError if a document has lost one."""
    found = []
    for file, title in SECTIONS:
        text = (REPOSITORY / file).read_text(encoding="utf-8")
        _, heading, rest = text.partition(f"## {title}\n")
        blocks = tuple(BLOCK.findall(rest.partition("\n## ")[0]))
        if not heading or not blocks:
            raise ValueError(f"{file} has no section with commands called {title}")
        found.append(Section(title, blocks))
    return found


def project_of(environment: str) -> str:
    """Return the project that the environment's settings name, which every command takes it from."""
    file = REPOSITORY / f"terraform/environments/{environment}.tfvars"
    found = PROJECT.search(file.read_text(encoding="utf-8"))
    return found[1] if found else ""


def script(environment: str, *, asks: bool) -> str:
    """Return everything as one script of a shell, which asks before each section or not."""
    lines = ["set -euo pipefail"]
    for number, section in enumerate(sections(), 1):
        heading = f"{number}. {section.title}"
        lines.append(f"\n# {heading}\n")
        if asks:
            question = shlex.quote(f"{heading}: go on? Return, or Ctrl-C ")
            lines.append(f"read -r -p {question} < /dev/tty")
        lines += section.blocks
    text, replaced = ENVIRONMENT.subn(f"export E={environment}", "\n".join(lines) + "\n")
    if replaced != 1:
        raise ValueError("terraform/README.md no longer says where the environment is named")
    return text


def main(arguments: list[str]) -> int:
    """Print, or run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument(
        "--project", help="the empty project that the settings name; without it the commands are printed"
    )
    parser.add_argument("--environment", default="staging", choices=("staging", "prod"))
    given = parser.parse_args(arguments)
    if not given.project:
        sys.stdout.write(script(given.environment, asks=False))
        return 0
    named = project_of(given.environment)
    if named != given.project:
        parser.error(
            f"terraform/environments/{given.environment}.tfvars has project_id = {named}, "
            f"and not {given.project}: edit that file first (terraform/README.md, Before you start)"
        )
    text = script(given.environment, asks=True)
    return subprocess.run(["bash", "-xc", text], cwd=REPOSITORY, check=False).returncode  # noqa: S603, S607


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
