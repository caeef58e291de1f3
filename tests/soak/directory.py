"""A soak of a directory on an ext4 file system of its own: two supervisors, real uWSGI, a second directory, and
moves."""

import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from tests.faults.ext4 import Ext4

from .cast import Cast, Part
from .cleanup import Cleanup
from .disk import Disk
from .operators import Operators
from .target import Fault, base_environment, producer, supervisor, uwsgi

__all__ = ["DirectoryTarget"]

_SIZE = 192  # megabytes of the disk
_INODES = 10_000  # few, so that they soon run out


class DirectoryTarget:
    """The directory ``mail``, and ``side``, to which tasks are moved.

    :param durability: ``full`` or ``relaxed``.
    """

    def __init__(
        self, scratch: Path, log: str, durability: str, seed: str, pause: float, quiet: "threading.RLock"
    ) -> None:
        self._durable = durability == "full"
        self._quiet = quiet
        self._clock = scratch / "clock"
        self._clock.write_bytes(struct.pack("d", 0.0))
        self._disk = Ext4(scratch, _SIZE, _INODES)
        self._mail, side = self._disk.root / "mail", self._disk.root / "side"
        self._beside, self._mounts = self._disk.root / "beside", scratch / "mounts"
        for made in (self._mail, side, self._beside, self._mounts):
            made.mkdir(0o700)
        subprocess.run(["sync", "--file-system", str(self._disk.root)], check=True)  # a power cut keeps these
        base = base_environment(scratch, log) | {"UNSPOOL_DURABILITY": durability, "UNSPOOL_PERIOD": "20"}
        mail = base | {"UNSPOOL_SPOOLERS": str(self._mail)}
        both = base | {"UNSPOOL_SPOOLERS": f"{self._mail},{side}"}
        clocked = [sys.executable, "-m", "tests.soak.clocked", str(self._mail), str(self._clock)]
        self.environment = both
        self.spoolers = [str(self._mail), str(side)]
        self.routes = [(str(self._mail), str(side)), (str(side), str(self._mail))]
        self.parts = {
            "supervisor-1": supervisor(both),
            "supervisor-2": Part(lambda _: clocked, mail),
            "uwsgi": uwsgi(mail, scratch / "uwsgi.log", str(self._mail)),
            "producer-1": producer(mail, seed, pause),
            "producer-2": producer(both, seed, pause),
        }
        self._cleanup: Cleanup | None = None

    def faults(self, cast: Cast) -> Mapping[Fault, float]:
        self._cleanup = Cleanup(cast, self._mail, self._beside, self._mounts, self.routes, self._quiet)
        disk = Disk(cast, self._disk, self._mail, self._clock, self._quiet)
        return {**disk.faults(durable=self._durable), **self._cleanup.faults()}

    def end_faults(self) -> None:
        pass

    def bring_back(self, operators: Operators) -> None:
        mail, side = self.routes[0]
        if self._cleanup is not None:
            self.spoolers[:] = [mail, side, *self._cleanup.moved]
            self._cleanup.bring_back(operators)
        operators.run("move", mail, side)  # these two moves finish what a killed move has begun
        operators.run("move", side, mail)

    def taken(self) -> set[str]:
        return self._cleanup.taken() if self._cleanup is not None else set()

    def close(self) -> None:
        if self._cleanup is not None:
            self._cleanup.close()
        self._disk.close()
