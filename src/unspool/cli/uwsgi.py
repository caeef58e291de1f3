"""``unspool uwsgi``: real uWSGI, with the options that running an application's tasks needs."""

import glob
import os
import sys
from collections.abc import Sequence

import click

from ..address import is_url
from ..errors import AppError, ConfigurationError, SpoolerUnusable
from ..section import Section
from . import options, spoolers, uwsgi_binary

__all__ = ["COMMANDS"]


@click.command()
@click.argument("app", envvar="UNSPOOL_UWSGI_APP")
@spoolers.spooler_option
@click.option(
    "--processes",
    type=options.WholeNumber(1, 1024),
    default=1,
    show_default=True,
    show_envvar=True,
    metavar="N",
    help="Spooler processes of each directory.",
)
@click.option(
    "--ordered/--no-ordered",
    default=False,
    show_envvar=True,
    help="Sort tasks by name before they are run. Tasks with a priority come first either way.",
)
@click.option(
    "--cheap",
    is_flag=True,
    show_envvar=True,
    help="Start no spooler process until there is a task; from uWSGI 2.1 on.",
)
@click.option(
    "--harakiri",
    type=options.WholeNumber(1),
    metavar="SECONDS",
    show_envvar=True,
    help="Kill a process whose task takes longer, whatever its own timeout is.",
)
@click.option(
    "--chdir",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False),
    show_envvar=True,
    help="Run tasks in this directory. Default: in the spooler's.",
)
@click.option(
    "--max-tasks",
    type=options.WholeNumber(1),
    metavar="N",
    show_envvar=True,
    help="Replace a process after this many tasks.",
)
@click.option(
    "--frequency",
    type=options.WholeNumber(1),
    default=1,
    show_default=True,
    show_envvar=True,
    metavar="SECONDS",
    help="Seconds between scans for tasks of other programs and for postponed tasks that are due.",
)
@click.option("--binary", metavar="PROGRAM", show_envvar=True, help="The uWSGI to start. Default: pyuwsgi or uwsgi, "
              "beside this Python, else on PATH.")  # fmt: skip
@options.traceback
@click.option("--print", "shown", is_flag=True, envvar="UNSPOOL_UWSGI_PRINT", allow_from_autoenv=False,
              show_envvar=True, help="Print the configuration as ini, and start nothing.")  # fmt: skip
def uwsgi(
    *,
    app: str,
    spooler: Sequence[str],
    processes: int,
    ordered: bool,
    cheap: bool,
    harakiri: int | None,
    chdir: str | None,
    max_tasks: int | None,
    frequency: int,
    binary: str | None,
    traceback: bool,
    shown: bool,
) -> None:
    """Run the tasks of an application in uWSGI's spooler.

    APP is a module, module:attr or path/to/file.py. This command becomes uWSGI: TERM or INT stops it.
    """
    name, folders = _module(app)
    directories = [backend.name for backend in spoolers.backends(spooler)]
    for directory in directories:
        if is_url(directory):
            raise ConfigurationError(f"spooler {directory} is not a directory; uWSGI's spooler needs directories")
    section = Section()
    section.set(strict=True, master=True, die_on_term=True, processes=0)
    section.set(pythonpath=[glob.escape(folder) for folder in folders], spooler_import=name)
    section.spooler.set_basic_params(
        process_count=processes,
        order_tasks=ordered,
        cheap=cheap,
        harakiri=harakiri,
        change_dir=None if chdir is None else os.path.abspath(chdir),
        max_tasks=max_tasks,
        poll_interval=frequency,
    )
    section.spooler.add(directories)
    if shown:
        sys.stdout.write(section.as_ini())
        return
    for directory in directories:
        _make_sure_of(directory)
    path = _program(binary, section)
    with options.explained(traceback=traceback):
        _import(app)
    _become(path, section)


COMMANDS = [uwsgi]


def _module(app: str) -> tuple[str, list[str]]:
    """Return the module to import and the directories to import it from. The last directory has precedence."""
    here = os.getcwd()
    spec = app.partition(":")[0]
    if not spec.endswith(".py"):
        return spec, [here]
    # Not imported as a file: uWSGI would invent a module name, which no other worker would know.
    name = os.path.basename(spec).removesuffix(".py")
    if not name.isidentifier() or name in sys.stdlib_module_names:
        raise AppError(f"{spec} cannot be imported inside uWSGI as {name!r}; give the file another name")
    folder = os.path.dirname(os.path.abspath(spec))
    return name, list(dict.fromkeys([here, folder]))


def _program(binary: str | None, section: Section) -> str:
    path = uwsgi_binary.find(binary)
    if path is None:
        missing = f"there is no program {binary!r}" if binary else "there is no uWSGI on this machine"
        raise ConfigurationError(f"{missing}; {uwsgi_binary.INSTALL}")
    found = uwsgi_binary.look_at(path)
    if found.objection:
        raise ConfigurationError(f"{found.objection}; {uwsgi_binary.INSTALL}")
    unknown = [name for name, _ in section.options() if name not in found.options]
    if unknown:
        raise ConfigurationError(f"uWSGI {found.version} at {path} has no option {unknown[0]}")
    return path


def _make_sure_of(directory: str) -> None:
    """Check that a spooler can use a directory. uWSGI would restart it forever otherwise."""
    from ..backends.spool.directory import Directory

    Directory(directory).fd("")
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise SpoolerUnusable(f"spooler {directory} cannot be used: this user may not write there")


def _import(app: str) -> None:
    """Check that the application can be imported. uWSGI would start without it otherwise."""
    from . import checks

    for finding in checks.application(app):
        if finding.level == checks.FAIL:
            raise AppError(finding.text, finding.traceback)


def _become(path: str, section: Section) -> None:
    sys.stdout.flush()
    try:
        os.execv(path, [path, *section.as_arguments()])  # noqa: S606  the program that was checked
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be started: {error.strerror}") from error
