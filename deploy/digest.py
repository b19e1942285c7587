"""`python3 deploy/digest.py FILE`: print the digest that buildx wrote into its metadata file."""

import json
import re
import sys
from pathlib import Path


def main(path: str) -> int:
    """Print it; status 1 if there is none, so that nothing is deployed by anything else."""
    digest = json.loads(Path(path).read_text(encoding="utf-8")).get("containerimage.digest", "")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        sys.stderr.write(f"{path} names no image by its digest\n")
        return 1
    sys.stdout.write(digest + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
