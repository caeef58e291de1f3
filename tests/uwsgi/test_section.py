"""The section object: what it accepts, what it refuses, and that real uWSGI reads it correctly."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unspool.errors import ConfigurationError
from unspool.section import Params, Section, SpoolerParams

from .instance import PATIENCE, PROGRAM

Run = Callable[..., None]

TELL = """
import json, os, pathlib, uwsgi
part = pathlib.Path(__file__).with_name(f"part of {os.getpid()}")  # each process tells, whole
options = {key: "true" if value is True else value.decode()
           for key, value in uwsgi.opt.items()}
served = sorted({directory.decode() for directory in uwsgi.spoolers})
part.write_text(json.dumps([options, served]))
part.rename(part.with_name("done"))
"""


def all_params(place: Path) -> SpoolerParams:
    """Return each parameter that uWSGI 2.0 knows."""
    return {
        "touch_reload": [place / "touched", str(place / "touched too")],
        "quiet": True,
        "process_count": 2,
        "max_tasks": 100,
        "order_tasks": True,
        "harakiri": 60,
        "change_dir": place,
        "poll_interval": 5,
        "base_dir": place,
    }


def section_in(place: Path) -> Section:
    """Return a section with everything, and with directories that have odd names."""
    (place / "touched").touch()
    (place / "touched too").touch()
    section = Section().set(strict=True, master=True, die_on_term=True, processes=0)
    section.set(pythonpath=place, spooler_import=["tell"])
    section.spooler.set_basic_params(**all_params(place))
    section.spooler.add(["mail", "100%", "a = b; #c", "größe"])
    return section.spooler.add(place / "elsewhere", external=True)


def test_the_seeds_names() -> None:
    """The calls of uwsgiconf's API give the expected ini."""
    section = Section()
    section.spooler.set_basic_params(order_tasks=True, process_count=2, poll_interval=5)
    section.spooler.add("/var/spool/mail")
    assert str(section) == (
        "[uwsgi]\nspooler-ordered = true\nspooler-processes = 2\nspooler-frequency = 5\nspooler = /var/spool/mail\n"
    )


@pytest.mark.parametrize("form", ["ini", "arguments"])
def test_uwsgi_reads_what_was_meant(form: str, tmp_path: Path, run_uwsgi: Run) -> None:
    """A strict uWSGI knows every parameter, as ini and as arguments, and reads the same value, whatever characters it
    has.
    """
    section = section_in(tmp_path)
    (tmp_path / "tell.py").write_text(TELL)
    (tmp_path / "app.ini").write_text(section.as_ini())
    run_uwsgi(*([f"--ini={tmp_path / 'app.ini'}"] if form == "ini" else section.as_arguments()))
    read, served = json.loads((tmp_path / "done").read_text())
    wanted = dict(section.options())  # of an option that is repeated the last, which is all that uWSGI 2.0 tells
    assert {name: read[name] for name in wanted} == wanted
    directories = [value for name, value in section.options() if name in ("spooler", "spooler-external")]
    assert served == sorted(directories)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} >= {"mail", "100%", "a = b; #c", "größe"}


@pytest.mark.usefixtures("run_uwsgi")
@pytest.mark.parametrize("param", ["cheap", "signal_as_task"])
def test_what_this_uwsgi_does_not_know(param: str, tmp_path: Path) -> None:
    """A strict uWSGI refuses a parameter of a later version."""
    section = Section().set(strict=True)
    section.spooler.set_basic_params(**{param: True})
    ini = tmp_path / "app.ini"
    ini.write_text(section.spooler.add(tmp_path / "mail").as_ini())
    help_text = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
    option = {"cheap": "spooler-cheap", "signal_as_task": "spooler-signal-as-task"}[param]
    assert f"{option} = true\n" in ini.read_text()
    if f"--{option} " in help_text:
        pytest.skip("this uWSGI knows it")
    done = subprocess.run([PROGRAM, "--ini", ini], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert f"unknown config directive: {option}" in done.stderr + done.stdout


def test_every_parameter_is_rendered() -> None:
    """Each declared parameter except ``base_dir`` gives an option, and no two give the same."""
    section = Section()
    values: dict[str, Any] = {"touch_reload": "/t", "change_dir": "/c", "pythonpath": "/p", "spooler_import": "m"}
    numbers = {"process_count", "max_tasks", "harakiri", "poll_interval", "processes"}
    for name in SpoolerParams.__annotations__.keys() - {"base_dir"}:
        section.spooler.set_basic_params(**{name: values.get(name, 1 if name in numbers else True)})
    for name in Params.__annotations__:
        section.set(**{name: values.get(name, 1 if name in numbers else True)})
    names = [name for name, _ in section.options()]
    assert len(set(names)) == len(names) == len(SpoolerParams.__annotations__) - 1 + len(Params.__annotations__)


def test_unknown_parameters() -> None:
    """The error lists the known ones, and nothing is set."""
    section = Section()
    with pytest.raises(ConfigurationError, match=r"'proces_count'.*process_count"):
        section.spooler.set_basic_params(**{"quiet": True, "proces_count": 2})
    with pytest.raises(ConfigurationError, match=r"'spooler'.*die_on_term"):
        section.set(**{"spooler": "/var/spool/mail"})
    assert str(section) == "[uwsgi]\n"


def test_none_false_and_again() -> None:
    """None leaves a parameter as it is, False removes it, and a later value replaces an earlier one."""
    section = Section()
    section.spooler.set_basic_params(quiet=True, cheap=True, harakiri=5, max_tasks=None)
    section.spooler.set_basic_params(quiet=None, cheap=False, harakiri=6)
    assert section.options() == [("spooler-quiet", "true"), ("spooler-harakiri", "6")]


@pytest.mark.parametrize(
    ("param", "value"),
    [
        *[("process_count", value) for value in (0, -1, True, 1.0, "2", 2**31)],
        *[("poll_interval", value) for value in (0, 0.5, "5s")],
        *[("max_tasks", value) for value in (0, "many")],
        *[("harakiri", value) for value in (0, -5)],
        *[("order_tasks", value) for value in (1, "true", "yes")],
        *[("cheap", value) for value in (0, "no")],
        *[("change_dir", value) for value in ("", "relative", ".", 5, b"/bytes")],
        *[("touch_reload", value) for value in ("relative", ["/fine", "not"], [5])],
        *[("base_dir", value) for value in ("relative", "")],
    ],
)
def test_values_that_are_none(param: str, value: object) -> None:
    """A value that uWSGI would read as 0, or differently, is refused with the name of the parameter, and nothing is
    set.
    """
    section = Section()
    with pytest.raises(ConfigurationError, match=param):
        section.spooler.set_basic_params(**{"quiet": True, param: value})
    assert section.options() == []


@pytest.mark.parametrize(
    "path", ["mail", "./mail", "~/mail", "", "/a\nmaster = false", "/a\0", "/a\r", "/a\t", "/a ", "/%(x)", "/$(HOME)",
             "/@(/etc/passwd)", 5, None, ["/fine", "not"]],
)  # fmt: skip
def test_directories_that_are_none(path: Any) -> None:
    """A relative directory, and one that uWSGI would read differently, is refused, and no other one is added."""
    section = Section()
    with pytest.raises(ConfigurationError):
        section.spooler.add(path)
    assert section.options() == []


def test_a_base_directory() -> None:
    """Relative directories are below it, absolute ones are unchanged."""
    section = Section()
    section.spooler.set_basic_params(base_dir=PurePosixPath("/var/spool"))
    section.spooler.add("mail").spooler.add(("fax/", "/srv/images"), external=True)
    assert section.options() == [
        ("spooler", "/var/spool/mail"),
        ("spooler-external", "/var/spool/fax"),
        ("spooler-external", "/srv/images"),
    ]


def test_a_directory_once_only() -> None:
    """The same directory twice would be two spoolers, for which there is process_count."""
    section = Section()
    section.spooler.add("/var/spool/mail")
    with pytest.raises(ConfigurationError, match="process_count"):
        section.spooler.add(["/var/spool/fax", "/var/spool//mail/"])
    assert section.options() == [("spooler", "/var/spool/mail")]


@pytest.mark.parametrize("name", ["", "app.py", "folder/app", "pkg..app", "app.", " app"])
def test_modules_are_named_as_modules(name: str) -> None:
    """uWSGI imports a file under an invented name, so a file is refused."""
    with pytest.raises(ConfigurationError, match="spooler_import"):
        Section().set(spooler_import=name)


def read_as_uwsgi_does(ini: str) -> list[tuple[str, str]]:
    """Read an ini as uWSGI does: first the percent signs, then lines, each split at its first equals sign."""
    text, found = ini.replace("%%", "\0"), []
    assert "%" not in text  # with another character behind it uWSGI would replace both
    for line in text.replace("\0", "%").split("\n"):
        key, _, value = line.strip(" \t\r").partition("=")
        if not line.startswith("[") and key:
            found.append((key.strip(" \t\r"), value.strip(" \t\r")))
    return found


@given(path=st.text(max_size=20).map(lambda text: f"/{text}"))
def test_any_path_is_refused_or_kept(path: str) -> None:
    """No path becomes several lines, another option, or another path."""
    section = Section()
    try:
        section.spooler.add(path)
    except ConfigurationError:
        return
    assert read_as_uwsgi_does(section.as_ini()) == section.options()
    assert len(section.options()) == 1
