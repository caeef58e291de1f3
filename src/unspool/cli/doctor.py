"""``unspool doctor``, which checks the installation and says what to do about each problem."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from .. import registry, settings
from ..errors import ConfigurationError, NoSpooler
from . import options, output, spoolers

if TYPE_CHECKING:
    from .checks import Finding

__all__ = ["COMMANDS"]


@click.command()
@click.argument("app", required=False, envvar="UNSPOOL_DOCTOR_APP")
@output.json_option
@options.traceback
@spoolers.spooler_option
@click.pass_context
def doctor(ctx: click.Context, app: str | None, json: bool, traceback: bool, spooler: Sequence[str]) -> int:
    """Check the installation, the configuration and the spoolers.

    Checks Python, configuration, spoolers, file systems, kernel and uWSGI, and imports APP if it is given. Each line is
    ok, warn or fail, and says what to do. Exit status: 2 if the configuration or app fails, otherwise 3 if a spooler
    fails, otherwise 1 if there is a warning.
    """
    from . import checks

    paths, missing = _paths(spooler)
    usage = [*checks.python(), *checks.configuration(), *checks.variables(_variables(ctx))]
    if missing:
        usage.append(checks.Finding("spoolers", checks.FAIL, "none is configured", missing))
    if app is not None:
        usage += checks.application(app)
    places = [finding for path in paths for finding in checks.spooler(path)]
    findings = [*usage, *places, *checks.kernel(), *checks.uwsgi()]
    status = _status(usage, findings)
    if json:
        output.write_json({"ok": status == 0, "checks": [*map(_finding_json, findings)]})
    else:
        for finding in findings:
            output.finding(finding.level, finding.subject, finding.text, finding.advice)
            if traceback and finding.traceback:
                sys.stdout.flush()
                output.lines(finding.traceback)
    return status


COMMANDS = [doctor]


def _finding_json(finding: "Finding") -> dict[str, str]:
    return {name: getattr(finding, name) for name in ("subject", "level", "text", "advice", "traceback")}


def _status(usage: Sequence["Finding"], findings: Sequence["Finding"]) -> int:
    from . import checks

    if any(finding.level == checks.FAIL for finding in usage):
        return 2
    levels = {finding.level for finding in findings}
    return 3 if checks.FAIL in levels else 1 if checks.WARN in levels else 0


def _variables(ctx: click.Context) -> set[str]:
    """Return the environment variables of all options of all commands."""
    group = ctx.find_root().command
    assert isinstance(group, click.Group)  # noqa: S101  the command line's root
    found = set()
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        for parameter in command.params if command else ():
            found.add(f"UNSPOOL_{name.upper().replace('-', '_')}_{(parameter.name or '').upper()}")
            found |= {parameter.envvar} if isinstance(parameter.envvar, str) else set(parameter.envvar or ())
    return found


def _paths(given: Sequence[str]) -> tuple[list[str], str]:
    """Return the spoolers to check, or what to set if there is none."""
    try:
        if given:
            return [backend.name for backend in spoolers.backends(given)], ""
        if names := settings.spooler_names():
            return list(names), ""  # each one is opened by its own check
        registry.backend()
    except NoSpooler as error:
        return [], str(error).partition("; ")[2]
    except ConfigurationError:
        return list(given), ""  # reported by the check of the configuration or of the spooler
    return [], ""
