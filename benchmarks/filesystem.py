"""The file system of the benchmark: an ext4 with a journal on an image, or a plain directory if that cannot be mounted.

The mount is made in a mount namespace of this process, so it ends with the process.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Ground", "Place", "ground"]

_CLONE_NEWNS = 0x00020000
_SMALLEST = 1 << 30  # bytes of the image
# Laid out at once: otherwise the kernel does it in the background, and the first runs pay.
_WHOLE = ("-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0")
_PER_TASK = 8 << 10  # a block for the file, and its part of directory and inode table


class Place(NamedTuple):
    """Directories for one measurement, which are deleted after it."""

    spool: Path
    scratch: Path


class Ground(NamedTuple):
    """A directory for measurements, and its file system."""

    directory: Path
    scratch: Path
    kind: str
    journal: bool | None
    """Whether its file system keeps a journal; None if that cannot be told."""
    note: str

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Return a new spool directory, after everything before it is written to the disk."""
        spool = Path(tempfile.mkdtemp(prefix="spool.", dir=self.directory))
        scratch = Path(tempfile.mkdtemp(prefix="run.", dir=self.scratch))
        try:
            self.settle()
            yield Place(spool, scratch)
        finally:
            shutil.rmtree(spool)
            shutil.rmtree(scratch)

    def settle(self) -> None:
        """Wait until the file system has written its delayed data."""
        subprocess.run(["sync", "-f", self.directory], check=True)


@contextlib.contextmanager
def ground(tasks: int, inside: str | None = None) -> Iterator[Ground]:
    """Yield the directory for measurements, and remove it at the end.

    :param tasks: the maximum number of waiting tasks.
    :param inside: the directory in which to create it; the system's temporary one if not given.
    """
    with tempfile.TemporaryDirectory(prefix="unspool-bench.", dir=inside) as made:
        os.chmod(made, 0o711)  # a server that cannot run as root also has its files here
        scratch = Path(made) / "scratch"
        scratch.mkdir()
        directory = Path(made) / "files"
        directory.mkdir()
        refusal = _mount(Path(made) / "ext4.img", directory, tasks)
        try:
            kind, device = _kind(directory)
            host, _ = _kind(scratch)
            note = f"no image of its own: {refusal}" if refusal else f"an image of its own, loop-mounted, on {host}"
            yield Ground(directory, scratch, kind, _has_journal(kind, device), note)
        finally:
            if not refusal:
                _unmount(directory)


def _mount(image: Path, directory: Path, tasks: int) -> str:
    """Mount a new image. Return why that failed; nothing if it worked."""
    try:
        _own_mounts()
        with image.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _SMALLEST + tasks * _PER_TASK)
        _run("mkfs.ext4", *_WHOLE, "-N", str(max(1 << 16, 2 * tasks)), str(image))
        _run("mount", "-o", "loop", str(image), str(directory))
        image.unlink()  # the mount holds it; nothing stays behind if this process is killed
    except OSError as error:
        image.unlink(missing_ok=True)
        return str(error)
    return ""


def _own_mounts() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("there are no mount namespaces on this system")
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(f"this user may not mount ({os.strerror(ctypes.get_errno())})")
    _run("mount", "--make-rprivate", "/")


def _unmount(directory: Path) -> None:
    try:
        _run("umount", str(directory))
    except OSError:  # another process still uses it
        _run("umount", "--lazy", str(directory))


def _run(*command: str) -> None:
    if shutil.which(command[0]) is None:
        raise OSError(f"there is no {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip() or f'status {done.returncode}'}")


def _kind(directory: Path) -> tuple[str, str]:
    """Return type and device of the file system of a directory: the last mount of the longest matching path."""
    fitting = ("", "unknown", "")
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        target = left.split()[4].encode().decode("unicode_escape")
        if len(target) >= len(fitting[0]) and directory.resolve().is_relative_to(target):
            kind, device = right.split()[:2]
            fitting = (target, kind, device)
    return fitting[1], fitting[2]


def _has_journal(kind: str, device: str) -> bool | None:
    if kind in ("ext3", "ext4"):
        name = os.path.basename(os.path.realpath(device))
        journals = Path("/proc/fs/jbd2")
        return any(path.name.startswith(f"{name}-") for path in journals.iterdir()) if journals.is_dir() else None
    return {"xfs": True, "tmpfs": False, "ext2": False}.get(kind)
