"""The registration files of this host, which other programs of the same user can write too."""

import fcntl
import os
import struct
from pathlib import Path

import pytest

from unspool.backends.registration_file import RegistrationFile, processes


@pytest.mark.parametrize("name", ["worker-1-x", "other-1-x"])
@pytest.mark.parametrize("content", [b"", b"x" * 17, struct.pack("<qdH", -1, 1.0, 0), struct.pack("<qdH", 1, 1.0, 9)])
def test_forged_registrations(tmp_path: Path, name: str, content: bytes) -> None:
    """A locked file with invalid contents is not listed, and does not hide the live processes."""
    forged = tmp_path / name
    forged.write_bytes(content)
    file = RegistrationFile(str(tmp_path), "worker")
    file.running("ref", 1.0)
    with forged.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [(info.pid, info.ref) for info in processes(str(tmp_path))] == [(os.getpid(), "ref")]
    assert forged.exists()
    file.close()
    file.detach()
    assert list(processes(str(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []
