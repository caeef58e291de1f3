"""``unspool doctor``: looks at all that has to be right, and says what to do about what is not."""

from collections.abc import Sequence
from dataclasses import asdict

import click

from ..address import is_url
from ..errors import ConfigurationError, NoSpooler
from . import output, spoolers

__all__ = ["COMMANDS"]


@click.command()
@click.argument("app", required=False, envvar="UNSPOOL_DOCTOR_APP")
@output.json_option
@spoolers.spooler_option
def doctor(app: str | None, json: bool, spooler: Sequence[str]) -> int:
    """Check all that has to be right.

    Looks at Python, configuration, spoolers, file systems, kernel and uWSGI, and imports APP if it is given. Each line
    is ok, warn or fail, and says what to do. Status 2 if the configuration or app fails, else 3 if a spooler does.
    """
    from . import checks

    paths, missing = _paths(spooler)
    usage = [*checks.python(), *checks.configuration()]
    if missing:
        usage.append(checks.Finding("spoolers", checks.FAIL, "none is configured", missing))
    if app is not None:
        usage += checks.application(app)
    places = [finding for path in paths for finding in (checks.server(path) if is_url(path) else checks.spooler(path))]
    findings = [*usage, *places, *checks.kernel(), *checks.uwsgi()]
    sound = all(finding.level != checks.FAIL for finding in findings)
    if json:
        output.write_json({"ok": sound, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            output.finding(finding.level, finding.subject, finding.text, finding.advice)
    if any(finding.level == checks.FAIL for finding in usage):
        return 2
    return 0 if sound else 3


COMMANDS = [doctor]


def _paths(given: Sequence[str]) -> tuple[list[str], str]:
    """The spoolers to look at, or what to set if there is none."""
    try:
        return [backend.name for backend in spoolers.backends(given)], ""
    except NoSpooler as error:
        return [], str(error).partition("; ")[2]
    except ConfigurationError:
        return [], ""  # which the check of the configuration tells
