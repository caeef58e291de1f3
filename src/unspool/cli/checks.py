"""What ``unspool doctor`` looks at. Each function gives findings; none of them raises for what it is there to find."""

import contextlib
import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .. import address, config
from ..backends.spool import trust
from ..backends.spool.layout import PRIVATE, TMP, Directory
from ..backends.spool.wake import Wake
from ..backends.uwsgi import module, spoolers
from ..errors import ConfigurationError, SpoolerUnusable
from ..message import State
from . import output, program
from .times import span

__all__ = ["FAIL", "OK", "WARN", "Finding", "application", "configuration", "kernel", "python", "server",
           "spooler", "uwsgi"]  # fmt: skip

OK, WARN, FAIL = "ok", "warn", "fail"

_LEFT_BEHIND = 60.0  # seconds after which a draft in tmp/ is nobody's any more
_IMPORT_LIMIT = 60  # seconds
_JOURNALLED = {"ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "bcachefs", "apfs", "hfs"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "afs"}
_VOLATILE = {"tmpfs": "it is memory: tasks do not survive a reboot", "ramfs": "it is memory: tasks do not survive it",
             "overlay": "it is a container's own layer: tasks vanish with the container"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's.

    :param subject: what was looked at.
    :param level: ``ok``, ``warn`` or ``fail``.
    :param text: what was found.
    :param advice: what to do about it.
    """

    subject: str
    level: str
    text: str
    advice: str = ""


def python() -> Iterator[Finding]:
    """The interpreter and the system."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", OK, f"{version} at {sys.executable}")
    if sys.platform != "linux":
        yield Finding("system", WARN, f"{sys.platform}: directories are polled", "fine for development; run on Linux")


def configuration() -> Iterator[Finding]:
    """Each setting's value, and where it comes from."""
    try:
        settings, origins = config.settings(), config.origins()
    except ConfigurationError as error:
        yield Finding("configuration", FAIL, str(error), "correct it there")
        return
    for name, origin in origins.items():
        value = getattr(settings, name)
        if name == "secret_key":
            yield _secret_key(len(value), origin)
            continue
        if name == "forward":
            value = [f"{one} to {to}" for one in settings.spoolers if (to := config.destination(one))]
        text = ", ".join(value) or "none" if isinstance(value, tuple | list) else f"{value}"
        if name == "spoolers" and origin in os.environ and _relative(os.environ[origin]):
            yield Finding(name, WARN, f"{text} (from {origin}, relative to where each program is started)",
                          f"write absolute paths: {origin}={','.join(value)}")  # fmt: skip
            continue
        yield Finding(name, OK, f"{text} (from {origin})" if origin != "default" else f"{text} (default)")


def _relative(spoolers: str) -> bool:
    paths = [one for one in address.split(spoolers) if not address.is_url(one)]
    return not all(os.path.isabs(address.directory(path)) for path in paths)


def _secret_key(keys: int, origin: str) -> Finding:
    if not keys:
        return Finding("secret_key", OK, "none: tasks are not signed, and whoever may write to a spooler may run code")
    text = f"{keys} key{'s' if keys > 1 else ''}, the first signs; unsigned tasks are set aside (from {origin})"
    if os.path.basename(origin) == "pyproject.toml":
        return Finding("secret_key", WARN, text, "a file that is kept with the code is no place for a secret; use "
                       "UNSPOOL_SECRET_KEY, or secret_key_file")  # fmt: skip
    with contextlib.suppress(OSError):
        if os.stat(origin).st_mode & 0o022:
            return Finding("secret_key", WARN, f"{text}, which others may write to", f"chmod go-w {origin}")
    return Finding("secret_key", OK, text)


def spooler(path: str) -> Iterator[Finding]:
    """A spool directory: its kind, owner and mode, what is in it, and what it is on."""
    if not os.path.lexists(path):
        above = _existing_parent(path)
        if os.access(above, os.W_OK | os.X_OK):
            yield Finding(path, OK, "does not exist yet; it is made when it is first used")
            yield from _file_system(path, above)
        else:
            yield Finding(path, FAIL, f"does not exist, and cannot be made: {above} is not writable",
                          "make it, owned by the user that runs the workers, mode 0700")  # fmt: skip
        return
    try:
        Directory(path).fd("")
        found = os.stat(path)
        _try_writing(path)
    except SpoolerUnusable as error:
        yield Finding(path, FAIL, str(error))
        return
    except OSError as error:
        yield Finding(path, FAIL, f"no file can be written there: {error.strerror}", "check its owner, mode and disk")
        return
    yield _permissions(path, found)
    if reason := trust.to_place(path):
        yield Finding(f"{path} place", WARN, reason, "chmod o-w it, or move the spooler")
    yield from _file_system(path, path)
    yield from _content(path)


def server(name: str) -> Iterator[Finding]:
    """A spooler on a server: whether it can be reached and used, and what is in it."""
    try:
        config.backend(name).exists()
        found = list(_tasks(name))
    except (SpoolerUnusable, ConfigurationError) as error:
        yield Finding(name, FAIL, getattr(error, "strerror", None) or str(error))
        return
    yield Finding(name, OK, "can be reached and used")
    yield from found


def kernel() -> Iterator[Finding]:
    """What tells supervisors of new tasks."""
    if sys.platform != "linux":
        return
    wake = Wake()
    works = wake.working
    wake.close()
    limits = {name: _number(f"/proc/sys/fs/inotify/{name}") for name in ("max_user_instances", "max_user_watches")}
    text = ", ".join(f"{name} {value}" for name, value in limits.items() if value is not None)
    if works:
        yield Finding("inotify", OK, f"works ({text})" if text else "works")
    else:
        yield Finding("inotify", WARN, f"refused ({text}): directories are looked at once a second instead",
                      "raise fs.inotify.max_user_instances with sysctl, or end what uses them up")  # fmt: skip


def application(app: str) -> Iterator[Finding]:
    """Whether the application can be imported, tried in a process of its own."""
    command = [sys.executable, "-c", _IMPORT, app]
    try:
        done = subprocess.run(  # noqa: S603  our own interpreter
            command, capture_output=True, timeout=_IMPORT_LIMIT, stdin=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        yield Finding("app", FAIL, f"{app} is not imported after {_IMPORT_LIMIT} s", "move its work out of import time")
        return
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        yield Finding(
            "app", FAIL, f"importing {app} killed the process with {name}", "import it by hand, piece by piece"
        )
        return
    try:
        answer = json.loads(done.stdout.rpartition(b"\n")[2] or b"null")
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        yield Finding("app", FAIL, f"importing {app} ended the process with status {done.returncode}",
                      "import it by hand, piece by piece")  # fmt: skip
    elif "error" in answer:
        yield Finding("app", FAIL, answer["error"], "correct it there")
    elif not answer["functions"] and not answer["types"]:
        yield Finding("app", WARN, f"{app} can be imported, and has no task", "does it import the modules that do?")
    else:
        names = ", ".join(answer["functions"] + answer["types"])
        yield Finding("app", OK, f"{app} can be imported in {span(answer['seconds'])}; its tasks: {names}")


def uwsgi() -> Iterator[Finding]:
    """The uWSGI that this is in, or the one that ``unspool uwsgi`` would start."""
    inside = module()
    if inside is not None:
        yield _inside(inside)
        return
    path = program.find()
    if path is None:
        yield Finding("uwsgi", OK, "not installed, and not needed")
        return
    try:
        found = program.look_at(path)
    except ConfigurationError as error:
        yield Finding("uwsgi", WARN, str(error))
        return
    if found.objection:
        yield Finding("uwsgi", WARN, found.objection, f"not needed by 'unspool run'; else {program.INSTALL}")
    else:
        yield Finding("uwsgi", OK, f"{found.version} at {path}, with its spooler and Python {found.python}")


def _inside(uwsgi: Any) -> Finding:
    version = uwsgi.version.decode() if isinstance(uwsgi.version, bytes) else uwsgi.version
    directories = ", ".join(spoolers())
    if not hasattr(uwsgi, "spool"):
        return Finding("uwsgi", FAIL if directories else WARN, f"inside uWSGI {version}, which has no spooler",
                       "write spooler = DIR, absolute, in its configuration")  # fmt: skip
    if not uwsgi.masterpid():
        return Finding("uwsgi", FAIL, f"inside uWSGI {version}, without a master process, so no spooler runs",
                       "write master = true in its configuration")  # fmt: skip
    return Finding("uwsgi", OK, f"inside uWSGI {version}, with a master process; its spoolers: {directories}")


_IMPORT = """
import json, os, sys, time
out = os.dup(1)
os.dup2(2, 1)  # what the application prints is not the answer
from unspool.errors import AppError
from unspool.runtime.app import load_app
from unspool.functions import function_names
from unspool.tasks import spooler_task_types
started = time.perf_counter()
try:
    load_app(sys.argv[1])
except AppError as error:
    answer = {"error": str(error)}
else:
    types = sorted(set(spooler_task_types) - {"fcall"})
    answer = {"functions": function_names(), "types": types, "seconds": time.perf_counter() - started}
with open(out, "w") as file:
    json.dump(answer, file)
    file.flush()
    os._exit(0)
"""


def _permissions(path: str, found: os.stat_result) -> Finding:
    mode = stat.S_IMODE(found.st_mode)
    owner = _user(found.st_uid)
    text = f"owner {owner}, mode {mode:04o}, writable"
    if found.st_uid not in (os.geteuid(), 0):
        text = f"{text}; you are {_user(os.geteuid())}, and your workers will not run it without a secret key"
        return Finding(path, WARN, text, f"run the workers as {owner}")
    if mode & 0o020:
        return Finding(
            path,
            WARN,
            f"{text}, also by its group, who can run code as you",
            f"chmod g-w {path}, or set UNSPOOL_SECRET_KEY",
        )
    if mode & 0o077:
        return Finding(path, WARN, f"{text}, and readable by others", f"chmod 700 {path}, if tasks carry secrets")
    return Finding(path, OK, text)


def _content(path: str) -> Iterator[Finding]:
    yield from _tasks(path)
    drafts = _left_behind(f"{path}/{TMP}")
    if drafts:
        yield Finding(f"{path}/{TMP}", WARN, f"{drafts} files of processes that died while sending",
                      "delete them; no task whose sending was acknowledged is among them")  # fmt: skip


def _tasks(path: str) -> Iterator[Finding]:
    counts = config.backend(path).counts()
    text = ", ".join(f"{counts[state]} {state}" for state in State)
    forwarded = config.destination(path)
    role = "forwarder" if forwarded else "worker"
    workers = [info for info in config.backend(path).control.live() if info.role == role]
    if counts[State.READY] and not workers and forwarded:
        yield Finding(f"{path} tasks", WARN, f"{text}; nobody forwards them to {forwarded}", "unspool forward")
    elif counts[State.READY] and not workers:
        yield Finding(f"{path} tasks", WARN, f"{text}; no worker of unspool's is running", "unspool run APP")
    else:
        yield Finding(f"{path} tasks", OK, f"{text}; {len(workers)} {role}s")
    if counts[State.DEAD] or counts[State.CORRUPT]:
        yield Finding(f"{path} set aside", WARN, f"{counts[State.DEAD]} dead, {counts[State.CORRUPT]} corrupt",
                      "unspool ls --state dead --state corrupt; then show, retry or rm")  # fmt: skip
    if config.backend(path).control.paused:
        yield Finding(f"{path} switch", WARN, "paused", "unspool resume")


def _file_system(subject: str, place: str) -> Iterator[Finding]:
    kind = _kind(place)
    space = os.statvfs(place)
    free = space.f_bavail * space.f_frsize >> 20
    text = f"{kind}, {free:,} MB free"
    if free < 64 or (space.f_files and space.f_favail < 1000):
        yield Finding(f"{subject} disk", WARN, f"{text}, {space.f_favail:,} inodes free", "make room")
    elif kind in _VOLATILE:
        yield Finding(f"{subject} disk", WARN, f"{text}; {_VOLATILE[kind]}", "put it on a disk, or a mounted volume")
    elif kind in _REMOTE or kind.startswith("fuse"):
        yield Finding(f"{subject} disk", WARN, f"{text}; locks and events may not reach other machines",
                      "let the workers of one machine alone use it, or put it on a local disk")  # fmt: skip
    elif kind not in _JOURNALLED:
        yield Finding(f"{subject} disk", WARN, f"{text}; it is not known to keep a journal",
                      "after a power cut, check the file system before starting workers")  # fmt: skip
    else:
        yield Finding(f"{subject} disk", OK, text)
    if os.path.isdir(f"{place}/{PRIVATE}") and not _has_attributes(place):
        yield Finding(f"{subject} attributes", WARN, "the file system has no extended attributes: attempts are counted "
                      "in files beside the tasks, which is slower", "")  # fmt: skip


def _kind(place: str) -> str:
    """The type of the file system, from the longest mount point that the path is below."""
    best, kind = "", "unknown"
    path = os.path.realpath(place)
    with contextlib.suppress(OSError), open("/proc/self/mounts", "rb") as mounts:
        for line in mounts:
            _, point, found, *_ = line.split(b" ")
            target = os.fsdecode(point.replace(b"\\040", b" ")).rstrip("/")
            if (path == target or path.startswith(f"{target}/")) and len(target) >= len(best):
                best, kind = target, found.decode("ascii", "replace")
    return kind


def _has_attributes(place: str) -> bool:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            os.setxattr(file.fileno(), "user.unspool", b"")
    except (OSError, AttributeError):
        return False
    return True


def _try_writing(path: str) -> None:
    """A file that no name ever leads to, or none of uWSGI's at least."""
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())


def _left_behind(place: str) -> int:
    horizon, count = time.time() - _LEFT_BEHIND, 0
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                count += entry.stat(follow_symlinks=False).st_ctime < horizon
    return count


def _existing_parent(path: str) -> str:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _user(uid: int) -> str:
    try:
        return output.clean(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return str(uid)


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
