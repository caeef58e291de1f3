"""The sources of settings, and the errors about them."""

import gc
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from unspool import Spooler, configure, registry
from unspool.errors import ConfigurationError, NoSpooler, OptionRefused
from unspool.settings import Settings, current, origins
from unspool.signing import Signer


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, two levels deep, so that it has a parent."""
    place = tmp_path / "project" / "deep"
    place.mkdir(parents=True)
    monkeypatch.chdir(place)
    return place


def write(directory: Path, *lines: str) -> Path:
    """Write a project file with these settings."""
    path = directory / "pyproject.toml"
    path.write_text("\n".join(["[tool.unspool]", *lines]))
    configure()  # settings are read once; this has them read again
    return path


# --- precedence


def test_the_defaults() -> None:
    """Nothing set anywhere."""
    assert current() == Settings((), "full", 300.0, 100_000, 7 * 86400.0)
    assert set(origins().values()) == {"default"}


def test_precedence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each setting, ``configure()`` overrides the environment, which overrides the project file. ``origins``
    returns the source.
    """
    project = write(place, "period = 10", 'durability = "relaxed"', "history_limit = 3", 'spoolers = ["mail"]')
    assert current() == Settings((str(place / "mail"),), "relaxed", 10.0, 3)
    monkeypatch.setenv("UNSPOOL_PERIOD", "20")
    monkeypatch.setenv("UNSPOOL_HISTORY_LIMIT", "4")
    configure(period=30)
    assert current() == Settings((str(place / "mail"),), "relaxed", 30.0, 4)
    assert origins() == {
        "spoolers": str(project),
        "durability": str(project),
        "period": "configure()",
        "history_limit": "UNSPOOL_HISTORY_LIMIT",
        "history_age": "default",
        "max_task_size": "default",
        "secret_key": "default",
        "secret_key_file": "default",
        "forward": "default",
    }


def test_none_gives_a_setting_back() -> None:
    """Calls of ``configure`` are cumulative. None removes a setting."""
    configure(period=5)
    configure(history_limit=7)
    assert (current().period, current().history_limit) == (5.0, 7)
    configure(period=None)
    assert (current().period, current().history_limit) == (300.0, 7)


def test_the_nearest_project_file_is_the_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file in the working directory replaces those of its parents, even if it has no settings."""
    write(place.parent, "period = 1", "history_limit = 1")
    assert current().period == 1.0
    write(place, "period = 2")
    assert current() == Settings(period=2.0)
    (place / "pyproject.toml").write_text("[project]\n")
    configure()
    assert current() == Settings()
    monkeypatch.chdir(place.parent)
    configure()
    assert current() == Settings(period=1.0, history_limit=1)


def test_an_empty_variable_is_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells and service managers leave empty variables."""
    write(place, "period = 2")
    monkeypatch.setenv("UNSPOOL_PERIOD", "")
    assert current().period == 2.0


def test_settings_are_read_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are the same object until they are configured again."""
    first = current()
    monkeypatch.setenv("UNSPOOL_PERIOD", "20")
    assert current() is first
    configure()
    assert current().period == 20.0


# --- spoolers


@pytest.mark.parametrize("source", ["configure", "environment", "project"])
def test_relative_paths_are_resolved_once(place: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """They are relative to the working directory, or to the project file. A later change of directory has no effect."""
    write(place.parent)
    base = place
    if source == "configure":
        configure(spoolers=["mail", "./a/../thumbs"])
    elif source == "environment":
        monkeypatch.setenv("UNSPOOL_SPOOLERS", "mail, a/../thumbs ,")
    else:
        base = place.parent
        write(base, 'spoolers = ["mail", "a/../thumbs"]')
    expected = [str(base / "mail"), str(base / "thumbs")]
    assert [str(spooler) for spooler in Spooler.get_spoolers()] == expected
    monkeypatch.chdir("/")
    assert [str(spooler) for spooler in Spooler.get_spoolers()] == expected
    assert registry.backend().name == expected[0]


@pytest.mark.parametrize(
    "odd", ['"/srv/mail"', "'/srv/mail'", "$HOME/mail", "${HOME}/mail", "~nobody-of-this-name/mail"]
)
def test_a_path_that_no_shell_has_expanded(place: Path, monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    """It is refused from each source, because it would be a directory below the working directory."""
    with pytest.raises(ConfigurationError, match="begins with"):
        configure(spoolers=["/srv/other", odd])
    monkeypatch.setenv("UNSPOOL_SPOOLERS", f"/srv/other,{odd}")
    with pytest.raises(ConfigurationError, match=r"spoolers from UNSPOOL_SPOOLERS cannot be used: .* begins with"):
        current()
    monkeypatch.setenv("UNSPOOL_SPOOLERS", str(place / "mail"))
    for ask in (Spooler, registry.backend):
        with pytest.raises(OptionRefused, match="begins with"):
            ask(odd)  # type: ignore[operator]
    assert list(place.iterdir()) == []


def test_a_program_that_changes_its_directory(place: Path) -> None:
    """Relative paths and the project file are those of the start, also if settings are read later."""
    (place / "sub").mkdir()
    write(place, "period = 2")
    code = "import os, unspool; os.chdir('sub'); from unspool import settings; print(*settings.current()[:3])"
    environment = os.environ | {"UNSPOOL_SPOOLERS": "mail", "UNSPOOL_DURABILITY": "relaxed"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"('{place}/mail',)", "relaxed", "2.0"]


@pytest.mark.parametrize(
    "spoolers", ["/srv/mail,/srv/other", ["/srv/mail", "/srv/other"], (Path("/srv/mail"), "/srv/other")]
)
def test_spoolers_may_be_given_as_a_string_or_a_list(spoolers: Any) -> None:
    """A sequence of strings or paths, or a text with commas."""
    configure(spoolers=spoolers)
    assert current().spoolers == ("/srv/mail", "/srv/other")


def test_a_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is the home directory."""
    monkeypatch.setenv("HOME", "/home/ann")
    configure(spoolers="~/mail")
    assert current().spoolers == ("/home/ann/mail",)


# --- secret keys

KEY, OTHER = "k" * 32, "o" * 32


def signer(name: str | None = None) -> Signer | None:
    """Return what a backend signs with."""
    return registry.seal(registry.backend(name)).signer


def test_secret_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from the environment with commas, or are a string or a list. There is no signer without keys."""
    configure(spoolers=[tmp_path / "mail"])
    assert current().secret_key == ()
    assert signer() is None
    monkeypatch.setenv("UNSPOOL_SECRET_KEY", f"{KEY}, {OTHER}")
    configure()
    assert current().secret_key == (KEY, OTHER)
    assert origins()["secret_key"] == "UNSPOOL_SECRET_KEY"
    assert signer() is not None
    for keys in (OTHER, [OTHER], (OTHER,)):
        configure(secret_key=keys)
        assert current().secret_key == (OTHER,)
    assert origins()["secret_key"] == "configure()"


def test_a_file_of_secret_keys(place: Path, tmp_path: Path) -> None:
    """The file has one key per line, its path is relative to the source, and empty lines are ignored. ``origins`` names
    the file.
    """
    (place / "keys").write_text(f"{KEY}\n\n{OTHER}\n")
    write(place, 'secret_key_file = "keys"')
    assert current().secret_key == (KEY, OTHER)
    assert origins()["secret_key"] == str(place / "keys")
    assert origins()["secret_key_file"] == str(place / "pyproject.toml")


def test_a_key_replaces_a_file_and_the_reverse(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The more important source is used. Both settings in one source are an error."""
    (place / "keys").write_text(KEY)
    write(place, 'secret_key_file = "keys"')
    monkeypatch.setenv("UNSPOOL_SECRET_KEY", OTHER)
    configure()
    assert current() == Settings(secret_key=(OTHER,))
    assert (origins()["secret_key"], origins()["secret_key_file"]) == ("UNSPOOL_SECRET_KEY", "default")
    configure(secret_key_file="keys")
    assert current().secret_key == (KEY,)
    configure(secret_key=OTHER)
    with pytest.raises(ConfigurationError, match="both set"):
        current()


def test_a_key_is_never_shown() -> None:
    """The text of the settings, which logs and tracebacks may show, has no key."""
    configure(secret_key=KEY)
    assert current().secret_key == (KEY,)
    assert KEY not in f"{current()!r} {current()!s} {origins()}"


@pytest.mark.parametrize("value", ["", " ", "short", f"{KEY},", f",{KEY}", f"{KEY},short"])
def test_an_empty_or_short_key_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """This includes an empty variable, because a user who sets one wants to sign. The error names the variable, the
    minimum and how to make a key, and quotes none.
    """
    monkeypatch.setenv("UNSPOOL_SECRET_KEY", value)
    with pytest.raises(ConfigurationError, match=r"UNSPOOL_SECRET_KEY .* 32 or more; make one with: python3") as caught:
        current()
    assert KEY not in str(caught.value)
    assert "short" not in str(caught.value)
    monkeypatch.setenv("UNSPOOL_SECRET_KEY", KEY)
    with pytest.raises(ConfigurationError, match="32 or more"):
        configure(secret_key=value)
    with pytest.raises(ConfigurationError, match="it is empty"):
        configure(secret_key=[])


def test_a_file_that_has_no_keys(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing, empty or binary file, and one with a short key, are named with the reason."""
    for content, reason in (
        (None, "No such file"),
        (b"", "it is empty"),
        (b"\xff", "can't decode"),
        (f"{KEY}\nshort".encode(), "key 2 of 2 has 5 characters"),
    ):
        if content is not None:
            (place / "keys").write_bytes(content)
        configure(secret_key_file="keys")
        with pytest.raises(ConfigurationError, match=f"{place}/keys cannot be used: .*{reason}"):
            current()
    configure(secret_key_file=None)
    monkeypatch.setenv("UNSPOOL_SECRET_KEY_FILE", "")
    configure()
    with pytest.raises(ConfigurationError, match="UNSPOOL_SECRET_KEY_FILE cannot be used: it is empty"):
        current()


def test_the_queue_is_named_by_the_last_part_of_its_real_path(tmp_path: Path) -> None:
    """The directory may be anywhere, and be reached through a link."""
    (tmp_path / "mail").mkdir()
    (tmp_path / "current").symlink_to("mail")
    configure(spoolers=[tmp_path / "mail"], secret_key=KEY)
    for name in (str(tmp_path / "mail"), str(tmp_path / "current"), str(tmp_path / "elsewhere" / "mail")):
        found = signer(name)
        assert found is not None
        assert found.queue == b"mail"


def test_a_backend_by_name(tmp_path: Path) -> None:
    """The default spooler, one by its base name, and any by its path: the same object for the same spooler."""
    mail, other = str(tmp_path / "mail"), str(tmp_path / "other")
    configure(spoolers=[mail, other])
    assert registry.backend().name == mail
    assert registry.backend("other").name == other
    assert registry.backend("other") is registry.backend(other) is registry.backend(other + "/.")
    assert registry.backend(str(tmp_path / "third")).name == str(tmp_path / "third")
    assert registry.backend("./here").name == os.path.abspath("here")
    assert not os.path.exists(mail)


def test_get_by_basename(tmp_path: Path) -> None:
    """The first spooler of this name, or None."""
    configure(spoolers=[tmp_path / "a" / "mail", tmp_path / "b" / "mail"])
    assert Spooler.get_by_basename("mail") == Spooler(str(tmp_path / "a" / "mail"))
    assert Spooler.get_by_basename("other") is None


# --- servers


def test_a_server_s_spooler_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spooler on a server is found by its whole name and by its last part. Neither shows a password, however it was
    configured.
    """
    monkeypatch.setenv("UNSPOOL_SPOOLERS", "/srv/mail,postgresql://ann:s3cret@a,b:5433/app?spooler=bulk, nats://x,y/n")
    names = ("/srv/mail", "postgresql://a,b:5433/app/bulk", "nats://x,y/n")
    assert current().spoolers == names
    assert Spooler.get_by_basename("bulk") == Spooler(names[1]) == Spooler("postgres://a,b:5433/app?spooler=bulk")
    assert "s3cret" not in f"{Spooler.get_spoolers()}{current()}{origins()}"


def test_what_a_server_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of the client, one line says what to install."""
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=re.escape("pip install 'psycopg[binary]'")):
        registry.backend("postgresql://db/app?spooler=mail")


# --- errors


def test_no_spooler_says_what_to_set() -> None:
    """The error names all three ways to configure one."""
    with pytest.raises(NoSpooler) as caught:
        registry.backend()
    for way in ("UNSPOOL_SPOOLERS=", "unspool.configure(spoolers=[...])", "[tool.unspool]"):
        assert way in str(caught.value)
    with pytest.raises(NoSpooler, match="UNSPOOL_SPOOLERS"):
        Spooler.set_period(5)


def test_an_unknown_name_says_which_there_are(tmp_path: Path) -> None:
    """The error names it, and says what to set."""
    configure(spoolers=[tmp_path / "mail"])
    with pytest.raises(NoSpooler, match=rf"'other' \(there are: {tmp_path}/mail\).*UNSPOOL_SPOOLERS"):
        registry.backend("other")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("durability", "maybe"),
        ("durability", True),
        ("period", 0),
        ("period", -1),
        ("period", "often"),
        ("period", True),
        ("period", float("inf")),
        ("period", float("nan")),
        ("history_age", 0),
        ("history_limit", -1),
        ("history_limit", 1.5),
        ("history_limit", "many"),
        ("history_limit", "inf"),
        ("history_limit", "nan"),
        ("history_limit", True),
        ("max_task_size", 0),
        ("max_task_size", "large"),
        ("max_task_size", float("inf")),
        ("max_task_size", float("nan")),
        ("max_task_size", True),
        ("spoolers", 5),
        ("spoolers", [5]),
        ("spoolers", "postgres://localhost/app"),
        ("colour", "blue"),
    ],
)
def test_a_bad_value_is_refused(name: str, value: Any) -> None:
    """The error names the setting and its source. The former configuration stays in force."""
    configure(period=5)
    with pytest.raises(ConfigurationError, match=name) as caught:
        configure(**{"history_limit": 1} | {name: value})
    assert "configure()" in str(caught.value)
    assert current() == Settings(period=5.0)


@pytest.mark.parametrize(
    ("name", "value"), [("DURABILITY", "maybe"), ("PERIOD", "0"), ("HISTORY_LIMIT", "1.5"), ("SPOOLERS", "nats://x")]
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error has the name of the setting."""
    monkeypatch.setenv(f"UNSPOOL_{name}", value)
    with pytest.raises(ConfigurationError, match=f"UNSPOOL_{name}"):
        current()


@pytest.mark.parametrize(
    ("name", "value"), [("period", '"often"'), ("colour", '"blue"'), ("spoolers", "5"), ("history_limit", "inf")]
)
def test_a_bad_project_file_is_named(place: Path, name: str, value: str) -> None:
    """The error names the setting."""
    write(place, f"{name} = {value}")
    with pytest.raises(ConfigurationError, match=name) as caught:
        current()
    assert "[tool.unspool] in pyproject.toml" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"[tool.unspool", b"\xff", b"tool = 5", b"[tool]\nunspool = 5", b"[[tool.unspool]]"]
)
def test_a_project_file_that_cannot_be_read_is_named(place: Path, content: bytes) -> None:
    """The error has the path, whatever is wrong with the file."""
    (place / "pyproject.toml").write_bytes(content)
    for ask in (current, origins):
        with pytest.raises(ConfigurationError, match=str(place / "pyproject.toml")):
            ask()


def test_a_change_of_settings_lets_go_of_open_directories(tmp_path: Path) -> None:
    """However often settings change, the former backends close what they have opened."""
    for number in range(50):
        configure(spoolers=[tmp_path / "mail"], period=number + 1)
        Spooler.send_message_raw("m", priority=number % 3)
    gc.collect()
    held = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    assert sum(path.startswith(str(tmp_path)) for path in held) < 10


def test_an_empty_message_is_refused() -> None:
    """It would name no handler. Nothing is sent, so this needs no spooler."""
    with pytest.raises(OptionRefused, match="message is empty"):
        Spooler.send_message_raw("")
