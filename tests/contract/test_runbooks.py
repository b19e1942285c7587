"""Runbooks can be followed: each says the same five things, and every command in it exists."""

import ast
import os
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_lines import in_build, in_markdown

from cli.main import main
from devstack.emulators import sdk_folders

pytestmark = pytest.mark.contract

REPOSITORY = Path(__file__).parents[2]
RUNBOOKS = sorted(set((REPOSITORY / "docs/runbooks").glob("*.md")) - {REPOSITORY / "docs/runbooks/README.md"})
WITH_COMMANDS = [
    *RUNBOOKS,
    *(
        REPOSITORY / name
        for name in ("docs/operators.md", "docs/key-rings.md", "docs/rehearsal.md", "terraform/README.md")
    ),
]
BUILDS = sorted(REPOSITORY.glob("*cloudbuild.yaml"))
ASKED_FOR = {
    *("sap-down", "lane-will-not-open", "outbox-grows", "dead-letters", "parked-payments"),
    *("webhook-endpoint-failing", "key-rotation", "restore", "region-loss"),
}


def test_what_was_asked_for_is_written():
    assert {path.stem for path in RUNBOOKS} >= ASKED_FOR


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_it_says_what_one_sees_what_it_means_what_to_do_when_it_is_over_and_what_not_to_do(path):
    text = path.read_text(encoding="utf-8")
    for part in (
        r"^\*\*(Alerts?\*\* `|You see\*\*|When\.\*\*)",
        r"^\*\*What it means\.?\*\*",
        r"^(\*\*Do\.?\*\*|## Do\b)",
        r"^\*\*Over\*\* when ",
        r"^\*\*Do not\*\* ",
    ):
        assert re.search(part, text, re.MULTILINE), part


def exists(words):
    """Whether it is a command, with these options."""
    command, context = main, click.Context(main)
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-"):
            break
        command = command.get_command(context, words.pop(0))
        if command is None:
            return False
    options = {name for parameter in command.get_params(context) for name in parameter.opts}
    return all(word.partition("=")[0] in options for word in words if word.startswith("--"))


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_command_of_bridge_exists(path):
    for words in in_markdown(path, "bridge"):
        assert exists(list(words)), " ".join(words)


def test_a_command_that_is_none_is_noticed():
    assert exists(["keys", "ring", "use", "--file", "x", "KEY"])
    assert not exists(["keys", "turn"])
    assert not exists(["recover", "--from=x"])
    assert CliRunner().invoke(main, ["recover", "--help"]).exit_code == 0


@pytest.fixture(scope="module")
def gcloud():
    """Every command and flag that the installed Cloud SDK completes."""
    found = [folder / "data/cli/gcloud_completions.py" for folder in sdk_folders(os.environ)]
    path = next(filter(Path.exists, found), None)
    if path is None:
        pytest.skip("no Cloud SDK here lists its commands")
    return ast.literal_eval(path.read_text(encoding="utf-8").partition("STATIC_COMPLETION_CLI_TREE = ")[2])


def unknown(tree, words):
    """What the SDK does not know of a command line: the command's words, or the flags."""
    node, rest = tree, list(words)
    while rest and rest[0] in node["commands"]:
        node = node["commands"][rest.pop(0)]
    if node["commands"]:
        return words
    flags = node["flags"].keys() | tree["flags"].keys()
    # data behind a positional `--` is another program's
    return [word for word in rest if word.startswith("--") and word.partition("=")[0] not in flags]


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_command_of_gcloud_exists(gcloud, path):
    for words in in_markdown(path, "gcloud"):
        assert unknown(gcloud, words) == [], path.name


@pytest.mark.parametrize("path", BUILDS, ids=lambda path: path.stem)
def test_every_command_of_the_pipeline_exists(gcloud, path):
    commands = list(in_build(path, "gcloud"))
    assert commands
    for words in commands:
        assert unknown(gcloud, words) == [], path.name


def test_a_command_of_gcloud_that_is_none_is_noticed(gcloud):
    assert unknown(gcloud, ["sql", "backups", "restore", "1", "--restore-instance=bridge"]) == []
    assert unknown(gcloud, ["sql", "backup", "restore", "1"])
    assert unknown(gcloud, ["sql", "backups", "restore", "1", "--to-instance=bridge"])


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.stem)
def test_every_target_of_make_exists(path):
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for words in in_markdown(path, "make"):
        assert words[0] in targets
