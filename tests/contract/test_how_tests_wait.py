"""How the tests themselves wait: for states, by tests/waiting.py, with its one generous deadline.

A test that waits a fixed time, gives up early or judges by the clock fails on a machine that is busy. A fault
that is planted in a stack which others use fails tests that have nothing to do with it.
"""

import ast
from pathlib import Path

import pytest
from waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.contract

TESTS = Path(__file__).parents[1]
FILES = sorted(path for path in TESTS.rglob("*.py") if "node_modules" not in path.parts)
# calls that give up after a time, and what names that time; the others' first argument does
GIVING_UP = (
    *("join", "result", "wait", "communicate", "run", "check_output"),
    *("get", "post", "put", "delete", "request", "urlopen", "HTTPConnection"),
)
GIVE_UP = dict.fromkeys(GIVING_UP, "timeout") | {"wait_until": "timeout_seconds"}
FIRST_ARGUMENT = {"join", "result", "wait"}
# shorter ones look whether something still goes on
SHORTEST_SECONDS = 1.0
CLOCKS = ("time.monotonic()", "time.perf_counter()", "time.time()")
PLANTING = ("os.kill(", "SIGSTOP", ".begin()", "document_missing(", "stopped(", ".destroy()")


class Module:
    """One file, with what a rule has to know of it."""

    def __init__(self, source):
        self.source = source
        self.tree = ast.parse(source)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.numbers = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.numbers[node.targets[0].id] = self.seconds(node.value)

    def seconds(self, node):
        """The number that an expression is, as far as this file tells."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.Name):
            return self.numbers.get(node.id)
        return None

    def calls(self):
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, ast.unparse(node.func)

    def above(self, node):
        """The node's ancestors within its function, each with the child that it was reached from."""
        while node in self.parents and not isinstance(self.parents[node], ast.FunctionDef):
            yield self.parents[node], node
            node = self.parents[node]

    def is_probe(self, node):
        """Whether a failure is caught: the call only looks whether somebody answers by now."""
        return any(
            (isinstance(above, ast.Try) and child in above.body)
            or (isinstance(above, ast.With) and "suppress" in ast.unparse(above.items[0]))
            for above, child in self.above(node)
        )

    def paces_a_loop(self, node):
        """`while not over.wait(1)`, or `if over.wait(1): return` in a loop."""
        conditions = [above for above, child in self.above(node) if child is getattr(above, "test", None)]
        return any(isinstance(condition, ast.While | ast.If) for condition in conditions)


def time_limit(call, name):
    """The expression that says after which time the call gives up; None if there is none."""
    last = name.rpartition(".")[2]
    for keyword in call.keywords:
        if keyword.arg == GIVE_UP[last]:
            return keyword.value
    is_method = isinstance(call.func, ast.Attribute) and not isinstance(call.func.value, ast.Constant)
    return call.args[0] if last in FIRST_ARGUMENT and is_method and len(call.args) == 1 else None


def mistakes(source):
    """What in a test's source depends on how fast the machine is, one line each."""
    module = Module(source)
    for call, name in module.calls():
        if name in ("time.sleep", "sleep", "asyncio.sleep"):
            yield f"line {call.lineno}: waits a fixed time; wait for a state (waiting.wait_until)"
        if name.endswith("setrlimit"):
            yield f"line {call.lineno}: limits every thread of the test run; limit a process of its own"
        if name.rpartition(".")[2] not in GIVE_UP:
            continue
        limit = module.seconds(time_limit(call, name))
        is_short = limit is not None and SHORTEST_SECONDS <= limit < DEADLINE_SECONDS
        if is_short and not module.is_probe(call) and not module.paces_a_loop(call):
            yield f"line {call.lineno}: {name} gives up after {limit:g} s; take waiting.DEADLINE_SECONDS"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
            bound = module.seconds(node.test.comparators[-1])
            is_fast = isinstance(node.test.ops[-1], ast.Lt | ast.LtE) and bound is not None
            if is_fast and bound < DEADLINE_SECONDS and ast.unparse(node.test.left).startswith(CLOCKS):
                yield f"line {node.lineno}: judges by the clock"


def needs_a_stack_of_its_own(source):
    """Whether the module uses the fixture `stack`, plants faults and is not marked so."""
    module = Module(source)
    functions = [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef)]
    uses_the_stack = any(argument.arg == "stack" for each in functions for argument in each.args.args)
    makes_its_own = any(each.name == "stack" for each in functions)
    plants = any(sign in source for sign in PLANTING)
    return uses_the_stack and plants and not makes_its_own and "plants_faults" not in source


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_waits_for_states_and_judges_nothing_by_the_clock(path):
    if path.name == "waiting.py":
        return
    assert list(mistakes(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("path", sorted((TESTS / "e2e").glob("test_*.py")), ids=lambda path: path.name)
def test_a_module_that_plants_faults_has_a_stack_of_its_own(path):
    assert not needs_a_stack_of_its_own(path.read_text(encoding="utf-8")), "mark it plants_faults"


@pytest.mark.parametrize(
    "bad",
    [
        "time.sleep(0.2)",
        "wait_until(done, timeout_seconds=30)",
        "SECONDS = 5\nwait_until(done, timeout_seconds=SECONDS)",
        "thread.join(10)",
        "future.result(20)",
        "assert event.wait(5)",
        "requests.get(url, timeout=10)",
        "subprocess.run(command, timeout=60)",
        "assert time.monotonic() - started < 3",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
    ],
)
def test_what_depends_on_the_machine_is_found(bad):
    assert list(mistakes(bad))


@pytest.mark.parametrize(
    "good",
    [
        "wait_until(done, what='it')",
        "thread.join(DEADLINE_SECONDS)",
        "thread.join(0.2)",
        "', '.join(names)",
        "while not over.wait(1.0):\n    kill()",
        "for turn in count():\n    if over.wait(2.0):\n        break",
        "with suppress(OSError):\n    requests.get(url, timeout=1)",
        "try:\n    requests.get(url, timeout=2)\nexcept OSError:\n    pass",
        "assert time.monotonic() - started >= 5",
        "worker.rlimit(psutil.RLIMIT_NOFILE, (3, 3))",
    ],
)
def test_what_does_not_is_left_alone(good):
    assert not list(mistakes(good))


def test_a_planted_fault_without_the_mark_is_found():
    planted = "def test_it(stack):\n    os.kill(stack.pid('gateway'), 9)\n"
    assert needs_a_stack_of_its_own(planted)
    assert not needs_a_stack_of_its_own("pytestmark = pytest.mark.plants_faults\n" + planted)
