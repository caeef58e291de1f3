"""``unspool run``: the supervisor and its workers."""

import logging
import os
import sys
from collections.abc import Sequence

import click
from click.core import ParameterSource

from .. import address, registry, settings
from ..inspection import exists
from . import options, spoolers
from .output import is_terminal

__all__ = ["COMMANDS"]


@click.command()
@click.argument("app", envvar="UNSPOOL_RUN_APP")
@spoolers.spooler_option
@click.option(
    "--processes",
    type=options.WholeNumber(1, 1024),
    default=1,
    show_default=True,
    show_envvar=True,
    metavar="N",
    help="Worker processes.",
)
@options.require_ready
@click.option("--burst", is_flag=True, show_envvar=True, help="Stop when no task is ready.")
@click.option(
    "--max-tasks",
    type=options.WholeNumber(1),
    metavar="N",
    show_envvar=True,
    help="Replace a worker after this many tasks.",
)
@click.option(
    "--max-memory",
    type=options.Number(0, min_open=True),
    metavar="MB",
    show_envvar=True,
    help="Replace a worker that uses more megabytes after a task.",
)
@click.option(
    "--reload", is_flag=True, show_envvar=True, help="Replace the workers when a file of the application changes."
)
@click.option(
    "--concurrency",
    type=options.WholeNumber(1),
    default=100,
    show_default=True,
    show_envvar=True,
    metavar="N",
    help="The number of async def tasks that a worker runs at once.",
)
@options.traceback
@options.log_format
@options.log_level("info: each run; warning: failed runs, and servers that are away or back; error: dead tasks")
@click.option("--progress/--no-progress", default=None, show_envvar=True,
              help="Show one line with rate and backlog instead of log lines of successful runs, unless --log-level is "
              "given. Default: on a terminal, with --log-format text.")  # fmt: skip
@click.pass_context
def run(
    ctx: click.Context,
    *,
    app: str,
    spooler: Sequence[str],
    processes: int,
    require_ready: bool,
    burst: bool,
    max_tasks: int | None,
    max_memory: float | None,
    reload: bool,
    concurrency: int,
    traceback: bool,
    log_format: str,
    log_level: str,
    progress: bool | None,
) -> None:
    """Run the tasks of an application.

    APP is a module, module:attr or path/to/file.py.

    Log lines go to stderr. TERM or INT lets running tasks end, then stops. A second signal, or QUIT, stops at once. HUP
    starts new workers. Tasks that were stopped run again later: nothing is lost.

    The tasks of a directory that is forwarded (see the command forward) are sent on, and run at their destination.
    """
    from ..runtime.limits import Limits
    from ..runtime.sidecar import Sidecar
    from ..runtime.supervisor import Options, Supervisor
    from ..transfer.forwarder import forwarded, forwarder
    from . import logs
    from .progress import ProgressLine

    if progress and log_format == "json":
        raise click.UsageError("--progress would be in the way of --log-format json; give one of them.", ctx)
    chosen = spoolers.backends(spooler)
    pairs = forwarded(chosen)
    there = {source.name: destination for source, destination in pairs}
    serving = list({(one := there.get(backend.name, backend)).name: one for backend in chosen}.values())
    if require_ready:
        for backend in serving:
            exists(backend)
    if not settings.spooler_names():  # so that tasks that send tasks also find a spooler
        settings.configure(spoolers=[backend.name for backend in chosen])
    shown = progress if progress is not None else is_terminal(sys.stderr) and log_format == "text"
    line = ProgressLine() if shown else None
    chatty = ctx.get_parameter_source("log_level") is not ParameterSource.DEFAULT
    logs.start(log_format, log_level, line, quiet=shown and not chatty, tracebacks=traceback)
    if not spooler and settings.origins()["spoolers"] == _VARIABLE and address.has_relative(os.environ[_VARIABLE]):
        text = "%s is relative, so programs that are started in other directories use other spoolers; write %s=%s"
        logging.getLogger("unspool").warning(text, _VARIABLE, _VARIABLE, ",".join(settings.spooler_names()))
    how = Options(processes, burst, reload, Limits(max_tasks, max_memory, concurrency))
    if pairs and burst:
        forwarder(pairs, burst=True).run()
    keeps = pairs and not burst
    sidecar = Sidecar(lambda lifeline: forwarder(pairs, lifeline=lifeline).run()) if keeps else None
    try:
        with options.explained(traceback=traceback):
            Supervisor(app, serving, how, seal=registry.seal, progress=line, sidecar=sidecar).run()
    finally:
        if line is not None:
            line.clear()


COMMANDS = [run]

_VARIABLE = "UNSPOOL_SPOOLERS"
