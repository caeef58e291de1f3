"""An exception as text: it has a reason in one line, whatever the exception is."""

from collections.abc import Callable

import pytest

from unspool import failure


class Price(ValueError):
    """An exception of the program."""


def noted() -> BaseException:
    """Return an exception with a note, which is the last line of its traceback."""
    error = ConnectionError("bank refused")
    error.add_note("hint: ask again on Monday")
    return error


def caused() -> BaseException:
    """Return an exception that another one caused."""
    error = RuntimeError("no answer")
    error.__cause__ = OSError("reset")
    return error


@pytest.mark.parametrize(
    ("exception", "reason"),
    [
        (ValueError("order 17 has no price"), "ValueError: order 17 has no price"),
        (Price("none"), f"{__name__}.Price: none"),
        (ValueError(), "ValueError"),
        (KeyError("price"), "KeyError: 'price'"),
        (SystemExit(1), "SystemExit: 1"),
        (noted(), "ConnectionError: bank refused"),
        (caused(), "RuntimeError: no answer"),
        (ValueError("1 validation error for Order\n  For further information visit https://e"),
         "ValueError: 1 validation error for Order"),
        (ValueError("\n\r\n  first\x0bsecond"), "ValueError: first"),
        (ValueError("\n \n"), "ValueError"),
        (SyntaxError("invalid syntax", ("app.py", 3, 1, "if", 3, 2)), "SyntaxError: invalid syntax (app.py, line 3)"),
        (ValueError("a\0b \ud83d \x1b[31m"), "ValueError: a\\x00b \\ud83d \\x1b[31m"),
        (ExceptionGroup("all", [ValueError("x")]), "ValueError: x"),
        (ExceptionGroup("all", [ExceptionGroup("some", [ValueError("x"), TypeError("y")]), KeyError("z")]),
         "ValueError: x (and 2 more in ExceptionGroup)"),
        (BaseExceptionGroup("all", [KeyboardInterrupt(), ValueError("x")]),
         "KeyboardInterrupt (and 1 more in BaseExceptionGroup)"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 287 + "…"),
        (ExceptionGroup("all", [ValueError("x" * 1000)] * 2),
         "ValueError: " + "x" * 256 + "… (and 1 more in ExceptionGroup)"),
    ],
)  # fmt: skip
def test_reason(exception: BaseException, reason: str) -> None:
    """It is the type and the first line of the message; for a group that of the first exception, and the number of the
    others.
    """
    assert failure.reason(exception) == reason
    assert failure.describe(exception).split("\n")[0] == reason
    assert len(reason) <= 300


def test_the_traceback_follows_the_reason() -> None:
    """Each line is printable. The traceback is omitted if it would only repeat the reason."""
    try:
        raise ValueError("half \ud83d\nsecond\x1b[31m\0line")
    except ValueError as error:
        first, *lines = failure.describe(error, error.__traceback__).split("\n")
    assert first == "ValueError: half \\ud83d"
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2:] == ["ValueError: half \\ud83d", "second\\x1b[31m\\x00line"]
    assert failure.describe(ValueError("x")) == "ValueError: x"


def raising(name: str) -> BaseException:
    """Return an exception that raises when this attribute is read or this method is called."""

    def fail(*_: object) -> str:
        raise SystemExit(f"from {name}")

    content = fail if name in ("__str__", "__repr__") else property(fail)
    odd: type[BaseException] = type("Odd", (Exception,), {name: content})
    return odd("x")


def with_odd_class() -> BaseException:
    """Return an exception whose class raises for its module, and which claims to be of another class."""

    class Meta(type):
        @property
        def __module__(cls) -> str:  # type: ignore[override]
            raise RuntimeError

    return Meta("Odd", (Exception,), {"__module__": __name__, "__class__": property(lambda _: 1 / 0)})("x")


def with_odd_module() -> BaseException:
    """Return an exception of a class whose module is not a string."""
    return type("Odd", (Exception,), {"__module__": 5})("x")


def with_odd_text() -> BaseException:
    """Return an exception whose message is a string of a misleading subclass."""

    class Text(str):
        def splitlines(self, keepends: bool = False) -> list[str]:
            raise RuntimeError

        def __format__(self, spec: str) -> str:
            raise RuntimeError

        def isprintable(self) -> bool:
            return True

    return type("Odd", (Exception,), {"__module__": __name__, "__str__": lambda _: Text("x\0")})()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: raising("__str__"), "<exception str() failed>"),
        (type("Odd", (Exception,), {"__module__": __name__, "__str__": lambda _: 5}),
         "<exception str() failed>"),
        (lambda: raising("__repr__"), "x"),
        (lambda: raising("__notes__"), "x"),
        (lambda: raising("__cause__"), "x"),
        (lambda: raising("__traceback__"), "x"),
        (with_odd_class, "x"),
        (with_odd_text, "x\\x00"),
    ],
)  # fmt: skip
def test_an_exception_that_raises_when_it_is_looked_at(make: Callable[[], BaseException], reason: str) -> None:
    """Whatever part of it raises or is invalid, there is a reason."""
    exception = make()
    assert failure.reason(exception) == f"{__name__}.Odd: {reason}"
    assert failure.describe(exception).startswith(f"{__name__}.Odd: {reason}")


@pytest.mark.parametrize("value", [lambda self: 1 / 0, lambda self: [self], lambda self: [type(self)("y", [self])]])
def test_a_group_that_lies_about_its_exceptions(value: Callable[[object], object]) -> None:
    """The exceptions of the group are shown, also if its attribute raises or never ends."""
    odd = type("Odd", (ExceptionGroup,), {"__module__": __name__, "exceptions": property(value)})
    assert failure.reason(odd("x", [ValueError("5"), OSError()])) == f"ValueError: 5 (and 1 more in {__name__}.Odd)"
    assert failure.describe(odd("x", [ValueError("5")])).startswith("ValueError: 5")


def test_a_class_with_odd_names() -> None:
    """A module that is not a string is unknown. Names are printable."""
    assert failure.reason(with_odd_module()) == "<unknown>.Odd: x"
    odd = type("Two\nlines", (Exception,), {"__module__": "m\ud83d"})
    assert failure.reason(odd()) == "m\\ud83d.Two\\nlines"


def test_shown() -> None:
    """Return the repr of an object, or its type if the repr raises."""
    assert failure.shown("a\ud83d") == "'a\\ud83d'"
    assert failure.shown(raising("__repr__")) == f"<{__name__}.Odd object>"
