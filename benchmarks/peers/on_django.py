"""django-tasks-db on SQLite: its settings, its caller and, with ``work``, its worker."""

import os
import sys

from benchmarks import caller

SECRET_KEY = "nothing is signed here"
INSTALLED_APPS = ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{os.environ['BENCH_SPOOL']}/tasks.db",
        # As Django's documentation advises where a web server and a worker write at once.
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE", "init_command": "PRAGMA journal_mode = WAL"},
    }
}
USE_TZ = True


def main() -> None:
    """Call tasks, or run a worker."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.peers.on_django"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    if sys.argv[1:] == ["work"]:
        call_command("db_worker", startup_delay=False, verbosity=0)
    else:
        from benchmarks.servers.django_tasks import noop, stamp

        caller.perform(noop.enqueue, stamp.enqueue)


if __name__ == "__main__":
    main()
