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
ENVIRONMENT = re.compile(r"^export E=\S+ PROJECT=\S+ REGION=\S+$", re.MULTILINE)
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


def script(environment: str | None, project: str | None, region: str) -> str:
    """Return everything as one script of a shell; with a project, one that asks before each section."""
    lines = ["set -euo pipefail"]
    for number, section in enumerate(sections(), 1):
        heading = f"{number}. {section.title}"
        lines.append(f"\n# {heading}\n")
        if project:
            question = shlex.quote(f"{heading}: go on? Return, or Ctrl-C ")
            lines.append(f"read -r -p {question} < /dev/tty")
        lines += section.blocks
    text = "\n".join(lines) + "\n"
    if project:
        names = f"E={shlex.quote(environment or 'staging')} PROJECT={shlex.quote(project)} REGION={region}"
        text, replaced = ENVIRONMENT.subn(f"export {names}", text)
        if replaced != 1:
            raise ValueError("terraform/README.md no longer says where the environment is named")
    return text


def main(arguments: list[str]) -> int:
    """Print, or run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--project", help="an empty project; without one the commands are printed")
    parser.add_argument("--environment", default="staging", choices=("staging", "prod"))
    parser.add_argument("--region", default="europe-west3")
    given = parser.parse_args(arguments)
    text = script(given.environment, given.project, given.region)
    if not given.project:
        sys.stdout.write(text)
        return 0
    return subprocess.run(["bash", "-xc", text], cwd=REPOSITORY, check=False).returncode  # noqa: S603, S607


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
