"""Faults of a directory's disk, of a supervisor's clock, and damaged files in the directory."""

import contextlib
import errno
import itertools
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.faults.ext4 import Ext4
from unspool import wire

from . import oracle
from .cast import Cast

__all__ = ["Disk"]

_BODY = b"x" * 8


class Disk:
    """Causes faults of the disk and the clock.

    :param clock: the file with the seconds by which the second supervisor's clock is ahead.
    :param quiet: held while no command of an operator may run.
    """

    def __init__(self, cast: Cast, disk: Ext4, spool: Path, clock: Path, quiet: "threading.RLock") -> None:
        self._cast = cast
        self._disk = disk
        self._spool = spool
        self._clock = clock
        self._quiet = quiet

    def faults(self, *, durable: bool) -> Mapping[Callable[[random.Random], None], float]:
        """Return the faults, and their relative frequencies. A power cut is included for durable tasks only."""
        return {
            self.power_cut: 1.2 if durable else 0, self.disk_full: 2, self.no_inodes: 1, self.disk_errors: 3,
            self.clock_set: 1, self.damage: 4,
        }  # fmt: skip

    def power_cut(self, _source: random.Random) -> None:
        with self._quiet:
            oracle.append(self._cast.log, "cut")
            self._cast.freeze()
            self._disk.cut()
            oracle.append(self._cast.log, "cut")
            self._cast.end()
            self._disk.restart()

    def disk_full(self, source: random.Random) -> None:
        balloon = self._disk.root / "balloon"
        with open(balloon, "wb") as file:
            free = os.statvfs(self._disk.root)
            size = free.f_bavail * free.f_frsize
            while size > 4096:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)
                except OSError:
                    size //= 2
        time.sleep(1 + source.random() * 2)
        balloon.unlink()

    def no_inodes(self, source: random.Random) -> None:
        crowd = self._disk.root / "crowd"
        crowd.mkdir()
        try:
            for number in itertools.count():
                (crowd / str(number)).touch()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        time.sleep(1 + source.random() * 2)
        shutil.rmtree(crowd)

    def disk_errors(self, source: random.Random) -> None:
        """Make system calls of one process fail for two seconds."""
        names = [name for kind in ("supervisor", "producer", "uwsgi") for name in self._cast.names(kind)]
        victims = self._cast.members(*names)
        calls = source.choice(
            ["fsync", "unlinkat,unlink", "openat", "pread64,read", "rename,renameat,renameat2", "fsetxattr"]
        )
        victim = source.choice(victims)
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(victim)]
        command += [f"-e inject={calls}:error=EIO:when=1+{source.choice([1, 3, 7])}"]
        oracle.append(self._cast.log, "error", victim, calls)
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(2)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        oracle.append(self._cast.log, "error", victim, calls)

    def clock_set(self, source: random.Random) -> None:
        oracle.append(self._cast.log, "clock")
        self._set_clock(source.choice([-3600.0, 3600.0]))
        time.sleep(3)
        self._set_clock(0.0)
        oracle.append(self._cast.log, "clock")

    def _set_clock(self, ahead: float) -> None:
        with open(self._clock, "r+b") as file:  # the workers have mapped it
            file.write(struct.pack("d", ahead))

    def damage(self, source: random.Random) -> None:
        """Put ten files that are not tasks into the directory."""
        good = wire.dump({"msg": b"ucfg_nobody"}, _BODY * source.randrange(100), None)
        for number in range(10):
            path = self._spool / f"uwsgi_spoolfile_on_junk_{source.randrange(10**9)}_{number}"
            data = bytearray(good)
            with contextlib.suppress(FileNotFoundError):
                match source.randrange(6):
                    case 0:
                        path.write_bytes(data[: source.randrange(len(data))])
                    case 1:
                        data[source.randrange(len(data))] ^= 1 << source.randrange(8)
                        path.write_bytes(data)
                    case 2:
                        path.write_bytes(source.randbytes(source.randrange(5000)))
                    case 3:
                        path.symlink_to("/etc/passwd")
                    case 4:
                        os.mkfifo(path)
                    case 5:
                        path.touch()
                        os.truncate(path, 1 << 40)
