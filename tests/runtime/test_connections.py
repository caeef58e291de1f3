"""Django's connections around tasks, as far as this needs no database. With one, see
``tests/postgres/test_django.py``.
"""

from .conftest import Place


def test_an_error_of_closing_changes_no_verdict(place: Place) -> None:
    """An error is logged, and the task is processed once. A program that imports Django without configuring it
    works.
    """
    place.write_app(
        """
        import django.db
        @Spooler.task
        def plain():
            note("ran")
            return True
        @Spooler.task
        def broken():
            from django.conf import settings
            settings.configure(DATABASES={"default": {"ENGINE": "no such engine"}})
            django.db.close_old_connections = lambda: 1 / 0
            return True
        """
    )
    place.call("plain(); broken()")
    running = place.burst()
    assert running.verdicts() == ["processed", "processed"]
    assert [line["message"] for line in running.seen if line["level"] == "WARNING"] == [
        "Django's database connections cannot be closed: ZeroDivisionError: division by zero"
    ]
