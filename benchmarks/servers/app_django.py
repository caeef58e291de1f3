"""The tasks for django-tasks-db, the settings of their project, and their caller, ``main``."""

import os
from collections.abc import Sequence
from urllib.parse import urlsplit

import django

from benchmarks import caller

_url = urlsplit(os.environ["BENCH_URL"])

SECRET_KEY = "nothing is signed here"
INSTALLED_APPS = ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _url.path[1:],
        "USER": _url.username,
        "HOST": _url.hostname,
        "PORT": _url.port,
        "CONN_MAX_AGE": None,
    }
}
USE_TZ = True


def main() -> None:
    """Call tasks."""
    django.setup()
    from django.db import transaction

    from .django_tasks import noop, stamp

    def many(numbers: Sequence[int]) -> None:
        """Send many tasks in one transaction, because it has no batches."""
        with transaction.atomic():
            for number in numbers:
                noop.enqueue(number)

    caller.perform(noop.enqueue, stamp.enqueue, many)
