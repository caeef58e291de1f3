"""A journalled ext4 on an image, whose power can be cut: unsynced data is then lost, as on a real disk."""

import array
import fcntl
import os
import subprocess
import time
from pathlib import Path

__all__ = ["Ext4"]

_EXT4_IOC_SHUTDOWN = 0x8004587D  # <linux/ext4.h>
_NO_FLUSH_OF_THE_LOG = 2
_OPTIONS = ("-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0")


class Ext4:
    """Mounted from its making until ``close``; needs root.

    :param place: an existing directory for the image and the directory that it is mounted on.
    :param size: megabytes.
    :param inodes: how many files it can hold; by default one for each 4 to 16 KB.
    :param block: bytes of a block; by default 1024 for such a small disk.
    """

    def __init__(self, place: Path, size: int = 32, inodes: int | None = None, block: int | None = None) -> None:
        self.image = place / "disk.img"
        self.root = place / "disk"
        self.root.mkdir()
        with self.image.open("wb") as file:
            file.truncate(size << 20)
        options = [*(["-N", str(inodes)] if inodes else []), *(["-b", str(block)] if block else [])]
        _run("mkfs.ext4", *_OPTIONS, *options, str(self.image))
        self.mount()

    def mount(self) -> None:
        """Mount it. After a cut, this replays the journal."""
        _run("mount", "-o", "loop", str(self.image), str(self.root))

    def cut(self) -> None:
        """Cut the power: nothing reaches the disk any more, and every call fails."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, array.array("I", [_NO_FLUSH_OF_THE_LOG]))
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Mount it again. Processes that have files of it open must be about to end."""
        for left in reversed(range(100)):
            try:
                _run("umount", str(self.root))
                break
            except subprocess.CalledProcessError:
                if not left:
                    raise
                time.sleep(0.1)
        self.mount()

    def close(self) -> None:
        """Unmount it, also if processes still use it."""
        if os.path.ismount(self.root):
            _run("umount", "--lazy", str(self.root))
        self.image.unlink(missing_ok=True)


def _run(*command: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": path})
