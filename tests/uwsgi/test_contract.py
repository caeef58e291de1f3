"""The backend inside uWSGI passes the conformance suite, which pytest runs in a mule of a real uWSGI."""

import textwrap
import xml.etree.ElementTree

from .instance import Instance

SUITE = '''
import os
from pathlib import Path

import uwsgi

from unspool.backends.base import Capabilities
from unspool.backends.spool import SpoolBackend
from unspool.backends.spool.uwsgi.backend import UwsgiBackend
from unspool.testing import BackendConformance


class WithFeeds(UwsgiBackend):
    """uWSGI hands out tasks itself, so its backend has no feed. The suite uses the feed of the directory, as ``unspool
    run`` does. It looks at a pause without the delay of uWSGI's processes."""

    capabilities = Capabilities(feeds=True, forks=True, unique=True)

    def feed(self):
        return SpoolBackend(self.name, durable=False, clock=self._clock).feed()


class TestInsideUwsgi(BackendConformance):
    def make_backend(self, clock, place):
        return WithFeeds(str(place / "mail"), uwsgi, durable=False, clock=clock)

    def damage(self, backend, id):
        data = Path(id).read_bytes()
        with open(id, "r+b") as file:
            file.seek(len(data) - 1)
            file.write(bytes([data[-1] ^ 1]))
        os.utime(id, (0, 0))
'''


def test_the_contract(instance: Instance) -> None:
    """Every test of the suite passes there, and none is skipped."""
    instance.write_app("import pytest\n")
    suite = instance.root / "suite"
    suite.mkdir()
    (suite / "test_suite.py").write_text(textwrap.dedent(SUITE))
    (suite / "pytest.ini").write_text("[pytest]\n")
    instance.start("--enable-threads")
    arguments = [
        str(suite),
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junit-xml={suite}/report.xml",
        f"--basetemp={suite}/tmp",
    ]
    status = instance.do(f"int(pytest.main({arguments!r}))")
    assert status == 0, instance.log.read_text()
    report = xml.etree.ElementTree.parse(suite / "report.xml").getroot()[0].attrib  # noqa: S314  ours
    assert int(report["tests"]) > 80
    assert [report[kind] for kind in ("errors", "failures", "skipped")] == ["0"] * 3
