"""Command lines as documents and the pipeline have them, split as a shell would split them."""

import re
import shlex

import yaml

# in a list too; a fence may have no language, and only those of `sh` are commands
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
# innermost first
SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
ASSIGNMENT = re.compile(r"\w+=")
KEYWORDS = {"if", "then", "else", "do", "while", "for", "!", "exec", "eval"}
SEPARATORS = set(";|&()")


def in_markdown(path, program):
    """The words behind `program` of each command in code, in blocks and in the text."""
    text = path.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language == "sh":
            yield from in_script(block, program)
    for span in SPAN.findall(FENCE.sub("", text)):
        yield from in_script(" ".join(span.split()), program)


def in_build(path, program):
    """The same of the steps of a Cloud Build configuration."""
    for step in yaml.safe_load(path.read_text(encoding="utf-8"))["steps"]:
        yield from in_script(step["args"][-1], program)


def in_script(script, program):
    """The same of a shell script."""
    pending = [re.sub(r" *\\\n *", " ", script).replace("…", "X").replace("$$", "$")]
    while pending:
        text = pending.pop()
        found = SUBSTITUTION.search(text)
        if found:
            pending += [found[1], text[: found.start()] + "X" + text[found.end() :]]
            continue
        for line in text.splitlines():
            for words in _simple_commands(line):
                if words[0] == program:
                    yield words[1:]
                # a command that is an option's value, as of --job
                pending += [word for word in words[1:] if word.partition("=")[2].startswith(f"{program} ")]
                pending += [word for word in words[1:] if word.startswith(f"{program} ")]


def _simple_commands(line):
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        tokens = list(lexer)
    except ValueError:
        return  # a line of a text that spans several: no command of ours
    words = []
    for token in [*tokens, ";"]:
        if set(token) <= SEPARATORS:
            while words and (words[0] in KEYWORDS or ASSIGNMENT.match(words[0])):
                words.pop(0)
            if words:
                yield words
            words = []
        elif not set(token) <= set("<>"):
            words.append(token)
