import ast
import re
from pathlib import Path

import pytest

import bridge.storage

pytestmark = pytest.mark.unit

STORAGE = Path(bridge.storage.__file__).parent


def test_no_apostrophe_in_an_sql_comment_lest_the_driver_takes_it_for_a_string():
    """pg8000 looks for parameters outside strings and knows no comments: what follows is lost."""
    guilty = [
        f"{path.name}:{node.lineno}"
        for path in STORAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for comment in re.findall(r"/\*.*?\*/", node.value, re.DOTALL)
        if "'" in comment or '"' in comment
    ]
    assert guilty == []
