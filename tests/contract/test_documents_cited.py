"""A document that code, configuration or docs cite is in the repository."""

import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
CITATION = re.compile(r"(?<![\w./:-])((?:\.{0,2}/)?[A-Za-z0-9_./-]*[A-Za-z0-9_-]\.md)\b")
# names in a text that stand for any document, or for one that is written elsewhere
PLACEHOLDERS = frozenset({"docs/decisions/NNNN-title.md"})
SUFFIXES = frozenset({".py", ".sql", ".tf", ".tfvars", ".yaml", ".json", ".toml", ".md", ".sh", ""})


def tracked_files():
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    return [name for name in listing.split("\0") if name]


def citations(name):
    """Yield each document that the file cites, as written."""
    text = (REPOSITORY / name).read_text(encoding="utf-8", errors="replace")
    without_urls = re.sub(r"https?://\S+", "", text)
    yield from CITATION.findall(without_urls)


def test_every_cited_document_is_in_the_repository():
    files = tracked_files()
    documents = {name for name in files if name.endswith(".md")}
    by_base_name = {Path(name).name for name in documents}
    dangling = [
        f"{name} cites {cited}"
        for name in files
        if Path(name).suffix in SUFFIXES and (REPOSITORY / name).is_file()
        for cited in citations(name)
        if cited not in PLACEHOLDERS
        and not _exists(name, cited, documents)
        # Python, SQL and Terraform name a document without its folder
        and not ("/" not in cited and cited in by_base_name)
    ]
    assert not dangling, "\n".join(dangling)


def _exists(name, cited, documents):
    from_root = cited.removeprefix("./").removeprefix("/")
    relative = (REPOSITORY / name).parent.joinpath(cited).resolve()
    return from_root in documents or (
        relative.is_relative_to(REPOSITORY) and str(relative.relative_to(REPOSITORY)) in documents
    )


def test_each_decision_has_a_number_of_its_own_and_says_it():
    decisions = sorted((REPOSITORY / "docs" / "decisions").glob("*.md"))
    numbers = [int(path.name[:4]) for path in decisions]
    assert numbers == list(range(1, len(decisions) + 1))
    for path, number in zip(decisions, numbers, strict=True):
        assert path.read_text(encoding="utf-8").startswith(f"# {number}. "), path.name
