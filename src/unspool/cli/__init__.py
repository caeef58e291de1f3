"""The command line: ``unspool``, also as ``python -m unspool``.

Exit statuses: 0 for success; 1 if a requested task does not exist or is running; 2 for bad usage, settings or
application; 3 if a spooler cannot be used. A user's mistake is reported in one line on stderr, never with a traceback.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import __version__, errors
from . import output

__all__ = ["main"]

_INTERRUPTED, _PIPE_CLOSED = 130, 141  # the statuses that a shell reports for SIGINT and SIGPIPE


class _PipeClosed(Exception):
    """The reader of the output has ended, as ``head`` does. This is not an error."""


_MODULES = {
    "run": "run",
    "forward": "forward",
    "uwsgi": "uwsgi",
    "enqueue": "enqueue",
    "ls": "inspect",
    "show": "inspect",
    "history": "inspect",
    "status": "inspect",
    "retry": "manage",
    "rm": "manage",
    "purge": "manage",
    "pause": "manage",
    "resume": "manage",
    "set-period": "manage",
    "move": "move",
    "doctor": "doctor",
    "migrate": "migrate",
}
"""The module of each command, in the order of use. Only that of the chosen command is imported."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # For an unknown name, click finds similar ones among all commands.
        modules = [_MODULES[cmd_name]] if cmd_name in _MODULES else _MODULES.values()
        for module in modules:
            for command in importlib.import_module(f".{module}", __package__).COMMANDS:
                self.add_command(command)
        return self.commands.get(cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _PipeClosed from error  # click itself would exit with 1, which means "not found" here
        return result


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "UNSPOOL", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="unspool", message="%(prog)s %(version)s")
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Run Python functions later, in other processes.

    Spoolers come from --spooler, otherwise from UNSPOOL_SPOOLERS (comma-separated), otherwise from [tool.unspool] in
    pyproject.toml. Every option can also be set in the environment; each command's --help names the variables.

    Exit status: 0 success, 1 no such task (or it is running), 2 bad usage or app, 3 spooler not usable.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    :param argv: the arguments; None for those of the process.
    """
    if not hasattr(os, "fork"):
        return _fail("this system has no fork(); unspool runs on Linux and macOS, and in WSL on Windows", 2)
    _open_standard_streams()
    output.accept_any_text()
    try:
        status = commands.main(None if argv is None else list(argv), prog_name="unspool", standalone_mode=False)
    except _PipeClosed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # discards what is still buffered
        return _PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        return _INTERRUPTED
    except click.UsageError as error:
        if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
            error.param_hint = f"'{' / '.join(error.param.opts)}'"  # without the variable if it is not set
        return _fail(f"{error.format_message()}{_where_from(error)}", 2)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (errors.ConfigurationError, errors.Refused, errors.NoHandler) as error:
        return _fail(error, 2)
    except (errors.TaskBusy, errors.AmbiguousId) as error:
        return _fail(error, 1)
    except OSError as error:  # includes SpoolerUnusable
        return _fail(error, 3)
    return status if isinstance(status, int) else 0


def _open_standard_streams() -> None:
    """Open closed standard streams on the null device, as after ``unspool run >&-``.

    Otherwise a file that is opened later would get the number of a stream, and with it the output of tasks.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number, that of the stream
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115  as Python itself does


def _fail(problem: object, status: int) -> int:
    output.error(problem)
    return status


def _where_from(error: click.UsageError) -> str:
    """Return hints for finding the mistake: the variable that may have set the value, and the command's help."""
    if error.ctx is None:
        return ""
    hints = [f"see '{error.ctx.command_path} --help'"]
    if isinstance(error, click.BadParameter) and isinstance(error.param, click.Option) and error.param.name:
        explicit = error.param.envvar
        variable = (
            explicit if isinstance(explicit, str) else f"{error.ctx.auto_envvar_prefix}_{error.param.name.upper()}"
        )
        if os.environ.get(variable):
            hints.insert(0, f"{variable} is set")
    return f" ({'; '.join(hints)})"
