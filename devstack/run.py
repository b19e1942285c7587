"""Put one stack together and run it until it is told to stop: what the supervisor's process does."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO

from devstack import edge, lock, stack_file
from devstack.emulators import find_emulators
from devstack.kept_mark import mark_saved
from devstack.keys import load_or_create, write_sap_connections
from devstack.layout import SAP_SYSTEMS, Layout
from devstack.postgres import Postgres
from devstack.preflight import StartError
from devstack.reaper import ReaperLink
from devstack.start_checks import create_folders, require_free_ports, require_room
from devstack.supervisor import Supervisor
from devstack.table import build_table

log = logging.getLogger("devstack")


def run_stack(layout: Layout, *, on_ready: Callable[[], None], on_progress: Callable[[str], None]) -> None:
    """Return when the stack has been stopped; StartError if it could not start (then nothing is left)."""
    try:
        create_folders(layout)
        with lock.held(layout.lock_file) as lock_file, layout.log("reaper").open("ab") as reaper_log:
            _run_locked(layout, lock_file, reaper_log, on_ready, on_progress)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise StartError(f"the stack can't run: {error.strerror or error}{where}") from error


def _run_locked(
    layout: Layout,
    lock_file: IO[bytes],
    reaper_log: IO[bytes],
    on_ready: Callable[[], None],
    on_progress: Callable[[str], None],
) -> None:
    layout.stack_file.unlink(missing_ok=True)
    layout.keys_folder.chmod(0o700)
    postgres = Postgres(layout.data("postgres"), layout.ports["postgres"])
    for folder in (layout.state_folder, layout.logs_folder, layout.keys_folder):
        require_room(folder)
    emulators = find_emulators(os.environ)
    # the folder is ours by the lock: what still works in it was left by a killed supervisor and reaper
    postgres.kill_strays()
    if not edge.is_installed():
        layout = replace(layout, has_edge=False)
        log.warning("%s", edge.why_missing())
    require_free_ports(layout, layout.ports)
    keys = load_or_create(layout.keys_folder)
    sap_urls = {system: f"{layout.url('sap_mock')}/systems/{system}" for system in SAP_SYSTEMS}
    write_sap_connections(layout.sap_connections, sap_urls, keys.sap_password)
    postgres.initialise()
    reaper = ReaperLink(lock_file, reaper_log)
    reaper.add_folder(postgres.data_folder)
    reaper.add_file(layout.stack_file)
    was_ready = False

    def on_change(pids: Mapping[str, int]) -> None:
        nonlocal was_ready
        stack_file.write(layout, keys, {**pids, "supervisor": os.getpid()}, reaper.pid)
        if not was_ready:
            was_ready = True
            on_ready()

    try:
        with mark_saved(layout) as save_mark:
            Supervisor(
                build_table(layout, keys, emulators, postgres),
                layout,
                reaper,
                on_change=on_change,
                on_progress=on_progress,
                on_stopping=save_mark,
            ).run()
    finally:
        layout.stack_file.unlink(missing_ok=True)
        reaper.finish()
        log.info("the stack is down")
