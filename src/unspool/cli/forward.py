"""``unspool forward``: sends waiting tasks from directories to servers."""

from collections.abc import Sequence

import click

from ..errors import ConfigurationError
from ..inspection import exists
from . import options, spoolers

__all__ = ["COMMANDS"]


@click.command()
@spoolers.spooler_option
@click.option("--burst", is_flag=True, show_envvar=True, help="Stop when no task is waiting; exit with "
              "status 3 if a server is away.")  # fmt: skip
@options.require_ready
@options.log_format
@options.log_level("info: each batch; warning: servers that are away or back; error: tasks that cannot be forwarded")
def forward(*, spooler: Sequence[str], burst: bool, require_ready: bool, log_format: str, log_level: str) -> None:
    """Send tasks on from directories to servers.

    The destination is the setting 'forward' (UNSPOOL_FORWARD): a URL, or NAME=URL for several spoolers. The command
    runs in the foreground and may be stopped at any time with TERM or INT. While a server is away, tasks wait in their
    directory.
    """
    from ..transfer.forwarder import forwarded, forwarder
    from . import logs

    pairs = forwarded(spoolers.backends(spooler))
    if not pairs:
        raise ConfigurationError(
            "no spooler is forwarded; set UNSPOOL_FORWARD=postgresql://db/app, or forward = ... under [tool.unspool] "
            "in pyproject.toml"
        )
    if require_ready:
        for _, destination in pairs:
            exists(destination)
    logs.start(log_format, log_level)
    forwarder(pairs, burst=burst).run()


COMMANDS = [forward]
