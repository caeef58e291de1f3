"""What goes wrong in a soak, one thing every few seconds. The number of a fault and the seed decide all of it."""

import errno
import itertools
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.ext4 import Ext4
from unspool import wire
from unspool.message import State

from .oracle import append
from .processes import Cast

__all__ = ["Faults"]

_KEY = b"x" * 8


class Faults:
    """Does them.

    :param clock: the file with the seconds by which the workers' clock is ahead.
    """

    def __init__(self, cast: Cast, disk: Ext4, clock: Path, seed: str) -> None:
        self._cast = cast
        self._disk = disk
        self._clock = clock
        self._seed = seed
        self.done: dict[str, int] = {}

    def strike(self, number: int) -> None:
        """The fault of this number."""
        source = random.Random(f"{self._seed} fault {number}")
        kinds: dict[Callable[[random.Random], None], float] = {
            self.worker_killed: 10, self.producer_killed: 4, self.spooler_killed: 4, self.supervisor_killed: 1,
            self.uwsgi_killed: 1, self.recorder_killed: 1, self.power_cut: 1.2, self.disk_full: 3, self.no_inodes: 2,
            self.disk_errors: 4, self.clock_set: 2, self.damage: 6, self.pause: 2, self.reload: 2, self.looked_at: 3,
            self.dead_retried: 1, self.stopped_by_force: 1,
        }  # fmt: skip
        (kind,) = source.choices(list(kinds), weights=list(kinds.values()))
        name = kind.__name__.replace("_", " ")
        self.done[name] = self.done.get(name, 0) + 1
        append(self._cast.log, "fault", number, name.replace(" ", "-"))
        kind(source)
        self._cast.start_all()

    # --- kills

    def worker_killed(self, source: random.Random) -> None:
        if workers := self._cast.workers():
            self._cast.kill_one(source.choice(workers))

    def producer_killed(self, source: random.Random) -> None:
        self._cast.kill(source.choice(["producer-1", "producer-2"]))

    def spooler_killed(self, source: random.Random) -> None:
        if spoolers := self._cast.spoolers():
            self._cast.kill_one(source.choice(spoolers))

    def supervisor_killed(self, _source: random.Random) -> None:
        self._cast.kill_one(self._cast.pid("supervisor"))
        self._cast._running["supervisor"].wait()

    def uwsgi_killed(self, _source: random.Random) -> None:
        self._cast.kill("uwsgi")

    def recorder_killed(self, source: random.Random) -> None:
        others = set(self._cast.members("supervisor")) - set(self._cast.workers()) - {self._cast.pid("supervisor")}
        if others:  # a task's child perhaps, which is as good
            self._cast.kill_one(source.choice(sorted(others)))

    def stopped_by_force(self, _source: random.Random) -> None:
        self._cast.kill("supervisor", grace=0.2)

    # --- the disk

    def power_cut(self, _source: random.Random) -> None:
        append(self._cast.log, "cut")
        self._cast.freeze()
        self._disk.cut()
        append(self._cast.log, "cut")
        self._cast.end()
        self._cast.backend.close()
        self._disk.restart()

    def disk_full(self, source: random.Random) -> None:
        balloon = self._disk.root / "balloon"
        append(self._cast.log, "error", "full")
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
        append(self._cast.log, "error", "full")

    def no_inodes(self, source: random.Random) -> None:
        crowd = self._disk.root / "crowd"
        append(self._cast.log, "error", "inodes")
        crowd.mkdir()
        try:
            for number in itertools.count():
                (crowd / str(number)).touch()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        time.sleep(1 + source.random() * 2)
        shutil.rmtree(crowd)
        append(self._cast.log, "error", "inodes")

    def disk_errors(self, source: random.Random) -> None:
        victims = self._cast.workers() + self._cast.spoolers()
        victims += [self._cast.pid(name) for name in ("supervisor", "producer-1", "producer-2")]
        calls = source.choice(
            ["fsync", "unlinkat,unlink", "openat", "pread64,read", "rename,renameat,renameat2", "fsetxattr"]
        )
        victim = source.choice(victims)
        command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(victim)]
        command += [f"-e inject={calls}:error=EIO:when=1+{source.choice([1, 3, 7])}"]
        append(self._cast.log, "error", "eio", calls)
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(2)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        append(self._cast.log, "error", "eio", calls)

    # --- everything else

    def clock_set(self, source: random.Random) -> None:
        append(self._cast.log, "error", "clock")
        self._set_clock(source.choice([-3600.0, 3600.0]))
        time.sleep(3)
        self._set_clock(0.0)
        append(self._cast.log, "error", "clock")

    def _set_clock(self, ahead: float) -> None:
        with open(self._clock, "r+b") as file:  # workers have it mapped
            file.write(struct.pack("d", ahead))

    def damage(self, source: random.Random) -> None:
        good = wire.dump({"msg": b"ucfg_nobody"}, _KEY * source.randrange(100), None)
        for number in range(20):
            path = self._cast.spool / f"uwsgi_spoolfile_on_junk_{source.randrange(10**9)}_{number}"
            data = bytearray(good)
            match source.randrange(6):
                case 0:
                    data = data[: source.randrange(len(data))]
                case 1:
                    data[source.randrange(len(data))] ^= 1 << source.randrange(8)
                case 2:
                    data = bytearray(source.randbytes(source.randrange(5000)))
                case 3:
                    path.symlink_to("/etc/passwd")
                    continue
                case 4:
                    os.mkfifo(path)
                    continue
                case 5:
                    path.touch()
                    os.truncate(path, 1 << 40)
                    continue
            path.write_bytes(data)

    def pause(self, source: random.Random) -> None:
        self._cast.backend.control.pause()
        time.sleep(source.random() * 3)
        self._cast.backend.control.resume()

    def reload(self, _source: random.Random) -> None:
        os.kill(self._cast.pid("supervisor"), signal.SIGHUP)

    def looked_at(self, source: random.Random) -> None:
        words = source.choice([["ls"], ["ls", "--json"], ["status"], ["doctor"], ["history"]])
        command = [sys.executable, "-m", "unspool", *words, "--spooler", str(self._cast.spool)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if "Traceback" in done.stderr:
            append(self._cast.log, "traceback", *words)
            (self._cast.scratch / "traceback").write_text(done.stderr)

    def dead_retried(self, source: random.Random) -> None:
        dead = list(self._cast.backend.entries(frozenset({State.DEAD}), 50))
        if dead:
            entry = source.choice(dead)
            key = key_of(Path(entry.id))
            append(self._cast.log, "retry", key)
            self._cast.backend.retry(entry.id)
            append(self._cast.log, "retry", key)


def key_of(path: Path) -> str:
    """The key of the task in a file; empty for junk."""
    import re

    with open(path, "rb") as file:
        found = re.search(rb"[0-9]+x[0-9]+-[0-9]+:[a-z]+", file.read(1 << 16))
    return found[0].decode() if found else ""
