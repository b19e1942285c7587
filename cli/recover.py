"""`bridge recover`: after a restore from backup, before anything goes to SAP again."""

import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.api import Api
from cli.backoffice import LOCAL_URL
from cli.options import checked_reason
from cli.screen import as_json, print_json, print_table

POLL_SECONDS = 1.0
FORMATS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z")

BY_HAND = "somebody has set it so"
SUSPICIONS = {
    "behind": "an earlier state of the database was put back",
    "another-database": "the high-water mark is another database's; this one was made anew, or is a copy",
    "mark-missing": "the high-water mark is gone, or the database was put into another project",
}


@click.command()
@click.option("--url", envvar="BRIDGE_BACKOFFICE_URL", default=LOCAL_URL, show_default="the local stack's")
@click.option(
    "--since", type=click.DateTime(FORMATS), help="The moment the backup is from. Begins a recovery."
)
@click.option(
    "--restart",
    is_flag=True,
    help="Abandon the recovery that runs and begin another, e.g. after a restore of a backup made during it.",
)
@click.option("--reason", callback=checked_reason, help="Why; it is kept in the audit trail. No names.")
@click.option(
    "--job",
    envvar="BRIDGE_RECOVERY_JOB",
    help="The command that starts the job which asks SAP, e.g. a `gcloud run jobs execute …`.",
)
@click.option("--wait-seconds", type=click.IntRange(0), default=86_400, show_default=True)
@as_json
def recover(
    url: str,
    since: datetime | None,
    restart: bool,
    reason: str | None,
    job: str | None,
    wait_seconds: int,
    as_json: bool,
) -> None:
    """Find what SAP has and a restored database has not; the lanes are held until it is done.

    Every unfinished operation is asked about before it goes on, the feeds go on above a jump in a new epoch,
    and payments that were lost are made again from SAP's documents, so that nobody can send them twice.
    May be interrupted and repeated, then without --restart. Without --since it tells how the last recovery
    stands.
    """
    api = Api(url)
    if since is None:
        if restart:
            raise click.UsageError("--restart needs --since: the moment the backup is from")
        latest = api.get("/admin/recoveries/latest").body
        _tell_suspicion(latest.get("suspicion"))
        _tell(latest["recovery"], as_json=as_json)
        return
    if reason is None:
        raise click.UsageError("--reason is missing: it is kept in the audit trail")
    moment = since.replace(tzinfo=UTC) if since.tzinfo is None else since
    wish = {"since": moment.isoformat(), "restart": restart}
    api.send("POST", "/admin/recoveries", wish, reason=reason)
    process = None
    if job:
        # what the command prints is for people; standard output is the recovery's
        process = subprocess.Popen(shlex.split(job), stdout=sys.stderr)  # noqa: S603 - the operator's own
    if process is None:
        click.echo("Begun; the lanes are held. Now start the job: python -m sap_adapter.recover", err=True)
    found = _follow(api, process, wait_seconds)
    _tell(found, as_json=as_json)
    if process is not None and process.wait() != 0:
        raise click.ClickException(f"the job ended with status {process.returncode}; repeat the command")
    if found["status"] != "finished":
        raise click.ClickException("not finished yet; repeat the command to go on watching")


def _follow(api: Api, process: "subprocess.Popen[bytes] | None", wait_seconds: int) -> dict[str, Any]:
    """Show the progress until the recovery is finished, the job has failed, or the time is over."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        deadline = time.monotonic() + wait_seconds
        while True:
            found: dict[str, Any] = api.get("/admin/recoveries/latest").body["recovery"]
            progress.update(task, description=_progress(found))
            has_failed = process is not None and process.poll() not in (None, 0)
            if found["status"] == "finished" or has_failed or time.monotonic() >= deadline:
                return found
            time.sleep(POLL_SECONDS)


def _progress(recovery: dict[str, Any]) -> str:
    if not recovery["is_marked"]:
        return f"{recovery['operations_marked']} operations marked"
    read = sum(lane["documents_read"] for lane in recovery["lanes"])
    made = sum(lane["operations_made"] for lane in recovery["lanes"])
    return f"{read} documents read in SAP, {made} operations made of them"


def _tell_suspicion(suspicion: dict[str, Any] | None) -> None:
    if suspicion is None:
        return
    click.echo(
        f"The lanes are held since {suspicion['since']}: {SUSPICIONS.get(suspicion['reason'], BY_HAND)}. "
        f"The database stands at {suspicion['stands_at'] or 'its beginning'}; begin a recovery with --since "
        "that moment, or an earlier one.",
        err=True,
    )


def _tell(recovery: dict[str, Any] | None, *, as_json: bool) -> None:
    if as_json:
        print_json(recovery)
        return
    if recovery is None:
        click.echo("There has been no recovery.")
        return
    click.echo(
        f"{recovery['id']}: {recovery['status']}, since {recovery['since']}\n"
        f"{recovery['operations_marked']} unfinished operations are asked about, "
        f"{recovery['feeds_resumed'] or 0} feeds go on in a new epoch\n"
    )
    columns = ("sap_system", "documents_read", "operations_made", "documents_unplaced", "is_finished")
    print_table(columns, ([lane[column] for column in columns] for lane in recovery["lanes"]))
    if recovery["unplaced_documents"]:
        click.echo("\nDocuments in SAP that belong to no payment here:")
        columns = ("sap_system", "company_code", "fiscal_year", "number", "reason")
        print_table(columns, ([one[column] for column in columns] for one in recovery["unplaced_documents"]))
