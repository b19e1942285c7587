"""What a person sees: a live table in a terminal, plain lines anywhere else; the same words in both."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from devstack.demo.scenario import Run, Sample
from devstack.invariants import INVARIANTS, Violation

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_CHARACTERS = 48
PLAIN_LINE_SECONDS = 2.0
MAX_VIOLATIONS_SHOWN = 10


class View:
    """Show runs as they go and their summaries. Without a terminal a line every other second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._last_line_seconds = 0.0

    def say(self, line: str) -> None:
        self._console.print(escape(line), highlight=False, soft_wrap=True)

    @contextmanager
    def scenario(self, letter: str, title: str) -> Iterator[None]:
        """While it runs, `show` has a place to show it."""
        self._console.print(f"\n[bold]({letter}) {escape(title)}[/bold]", highlight=False)
        self._last_line_seconds = 0.0
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=8, transient=True) as self._live:
            yield
        self._live = None

    def show(self, run: Run) -> None:
        if self._live is not None:
            self._live.update(_live_table(run))
            return
        if not self._console.is_terminal and run.samples:
            sample = run.samples[-1]
            if sample.at_seconds >= self._last_line_seconds + PLAIN_LINE_SECONDS:
                self._last_line_seconds = sample.at_seconds
                self.say(plain_line(run, sample))

    def summarise(self, run: Run) -> None:
        for line in summary_lines(run):
            self.say(f"  {line}")

    def verdict(self, violations: Sequence[Violation], *, seconds: float) -> None:
        """The six invariants, what breaks them, and the one word."""
        self._console.print("\n[bold]The six invariants[/bold]", highlight=False)
        for number, what in INVARIANTS.items():
            broken = [violation.what for violation in violations if violation.invariant == number]
            mark = "[red]✗[/red]" if broken else "[green]✓[/green]"
            self._console.print(f"  {mark} {number} {escape(what)}", highlight=False)
            for line in broken[:MAX_VIOLATIONS_SHOWN]:
                self.say(f"      {line}")
            if len(broken) > MAX_VIOLATIONS_SHOWN:
                self.say(f"      and {len(broken) - MAX_VIOLATIONS_SHOWN} more")
        word = "[red]BROKEN[/red]" if violations else "[green]ALL HOLD[/green]"
        self._console.print(f"\n[bold]{word}[/bold] after {seconds:.0f} s", highlight=False)


def summary_lines(run: Run) -> list[str]:
    """What the scenario has shown, for both kinds of readers."""
    latest = run.latest
    count = run.scenario.payments
    refusals = run.refusals
    lines = [
        f"partner   {len(run.sent)} of {count} answered 202, p50 {run.latency_ms(50):.0f} ms, "
        f"p99 {run.latency_ms(99):.0f} ms; other answers: "
        + (", ".join(f"{refusals.count(name)} {name}" for name in sorted(set(refusals))) or "none"),
    ]
    if run.scenario.trouble:
        lines.append(
            f"          {run.accepted_in_trouble} of them while SAP was {run.scenario.trouble['mode']}"
        )
    if latest is not None:
        seconds = run.ended_seconds or 0.0
        backlog = [sample.progress.backlog for sample in run.samples]
        end = "drained" if run.drained else f"{latest.backlog} LEFT"
        lines += [
            f"backlog   {sparkline(backlog)} at most {max(backlog)}, {end} after {seconds:.1f} s",
            f"SAP       {latest.documents} documents for {latest.succeeded} succeeded operations",
            f"webhooks  {latest.webhooks} of {latest.events} events received and verified",
        ]
    return lines


def plain_line(run: Run, sample: Sample) -> str:
    progress = sample.progress
    return (
        f"  {sample.at_seconds:5.1f} s  SAP {run.sap:10}  accepted {len(run.sent):3}  "
        f"backlog {progress.backlog:3}  lane {progress.lane}  "
        f"documents {progress.documents:3}  webhooks {progress.webhooks:3} of {progress.events}"
    )


def sparkline(values: Sequence[int]) -> str:
    """The values as bars over time; each character stands for the highest value of its share."""
    if not values:
        return ""
    width = min(SPARKLINE_CHARACTERS, len(values))
    shares = [values[len(values) * i // width : len(values) * (i + 1) // width] for i in range(width)]
    top = max(*values, 1)
    return "".join(BARS[round(max(share) / top * (len(BARS) - 1))] for share in shares)


def _live_table(run: Run) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=10)
    table.add_column(min_width=SPARKLINE_CHARACTERS)
    if not run.samples:
        return table
    sample = run.samples[-1]
    progress = sample.progress
    color = "green" if sample.sap == "up" else "red"
    table.add_row("time", f"{sample.at_seconds:.1f} s")
    table.add_row("SAP", f"[{color}]{sample.sap}[/{color}]")
    table.add_row(
        "partner",
        f"{len(run.sent)} of {run.scenario.payments} accepted, p50 {run.latency_ms(50):.0f} ms, "
        f"p99 {run.latency_ms(99):.0f} ms",
    )
    table.add_row("backlog", f"{progress.backlog:3}  {sparkline([s.progress.backlog for s in run.samples])}")
    table.add_row("lane", f"{progress.lane}, {progress.permits} permits taken, {progress.unknown} unknown")
    table.add_row("documents", f"{progress.documents} in SAP for {progress.succeeded} succeeded operations")
    table.add_row("webhooks", f"{progress.webhooks} of {progress.events} received and verified")
    return table
