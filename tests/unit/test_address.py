"""URLs of spoolers: their names, what is shown of them, and what is invalid."""

import pytest

from unspool.address import parse, split, spooler_of_id
from unspool.errors import OptionRefused

SECRETS = ("s3cret", "tok3n")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("mail", ["mail"]),
        (" /srv/mail , other,, ", ["/srv/mail", "other"]),
        ("nats://a,b,c?spooler=mail", ["nats://a,b,c?spooler=mail"]),
        ("nats://a,b:4222/mail,/srv/mail", ["nats://a,b:4222/mail", "/srv/mail"]),
        (
            "/srv/mail, postgresql://a:1,b:2/app?spooler=x&connect_timeout=3,postgres:///app?spooler=y",
            ["/srv/mail", "postgresql://a:1,b:2/app?spooler=x&connect_timeout=3", "postgres:///app?spooler=y"],
        ),
        ("postgresql:///app?host=/a%2C/b&spooler=x,z", ["postgresql:///app?host=/a%2C/b&spooler=x", "z"]),
    ],
)
def test_lists(text: str, parts: list[str]) -> None:
    """Commas separate spoolers, except those between the servers of a URL."""
    assert split(text) == parts


@pytest.mark.parametrize(
    ("text", "name", "url"),
    [
        ("postgresql://db/app?spooler=mail", "postgresql://db/app/mail", "postgresql://db/app"),
        ("postgres://db/app?spooler=mail", "postgresql://db/app/mail", "postgresql://db/app"),
        (
            "postgresql://ann:s3cret@DB:5432/app?sslmode=require&spooler=mail",
            "postgresql://db/app/mail",
            "postgresql://ann:s3cret@DB:5432/app?sslmode=require",
        ),
        (
            "postgresql://db/app?spooler=mail&password=s3cret&user=ann",
            "postgresql://db/app/mail",
            "postgresql://db/app?password=s3cret&user=ann",
        ),
        (
            "postgresql://a:5433,b/app?spooler=mail&target_session_attrs=read-write",
            "postgresql://a:5433,b/app/mail",
            "postgresql://a:5433,b/app?target_session_attrs=read-write",
        ),
        ("postgresql://[::1]:5433/app?spooler=mail", "postgresql://[::1]:5433/app/mail", "postgresql://[::1]:5433/app"),
        (
            "postgresql:///app?host=/run/postgresql&port=5433&spooler=mail",
            "postgresql://%2Frun%2Fpostgresql:5433/app/mail",
            "postgresql:///app?host=/run/postgresql&port=5433",
        ),
        ("postgresql://%2Frun/app?spooler=mail", "postgresql://%2Frun/app/mail", "postgresql://%2Frun/app"),
        (
            "postgresql:///?host=a%2Cb&port=1%2C2&dbname=app&spooler=mail",
            "postgresql://a:1,b:2/app/mail",
            "postgresql:///app?host=a%2Cb&port=1%2C2&dbname=app",
        ),
        (
            "postgresql://?service=shop&spooler=mail",
            "postgresql://service=shop//mail",
            "postgresql:///?service=shop",
        ),
        ("postgresql://service=shop//mail", "postgresql://service=shop//mail", "postgresql:///?service=shop"),
        ("postgresql:////mail", "postgresql:////mail", "postgresql:///"),
        ("nats://a,b:4222,c:4333?spooler=mail", "nats://a,b,c:4333/mail", "nats://a,b:4222,c:4333"),
        ("nats://ann:s3cret@a,ann:s3cret@b?spooler=mail", "nats://a,b/mail", "nats://ann:s3cret@a,ann:s3cret@b"),
        ("nats://tok3n@a?spooler=mail", "nats://a/mail", "nats://tok3n@a"),
        ("nats://a,ann:s3cret@b?spooler=mail", "nats://a,b/mail", "nats://a,ann:s3cret@b"),
        (
            "postgresql://ann:s3c,ret@a,b/app?spooler=mail",
            "postgresql://a,b/app/mail",
            "postgresql://ann:s3c,ret@a,b/app",
        ),
    ],
)
def test_names(text: str, name: str, url: str) -> None:
    """A name has neither user nor password, identifies the queue, and is its own name."""
    found = parse(text)
    assert (found.name, found.url, found.spooler) == (name, url, name.rpartition("/")[2])
    assert parse(name).name == name
    assert spooler_of_id(f"{name}/17") == name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mysql://db/app?spooler=mail", "valid schemes: postgresql, postgres, nats"),
        ("postgresql://ann:s3cret@db/app", "add ?spooler=NAME"),
        ("nats://tok3n@db", "add ?spooler=NAME"),
        ("postgresql://ann:s3cret@db/app/mail?spooler=mail", "twice"),
        ("postgresql://ann:s3cret@db/app?spooler=a%20b", "letters, digits"),
        ("postgresql://ann:s3cret@db/app?spooler=", "names no spooler"),
        ("postgresql://ann:s3cret/x@db/app?spooler=mail", "an invalid server"),
        ("nats://a,bob:s3c,ret@b?password=s3cret&spooler=mail", "an invalid server"),
        ("nats://a:4222,nats://tok3n@b:4222?spooler=mail", "an invalid server"),
        ("postgresql://db/a/b/c?password=s3cret", "letters, digits"),
    ],
)
def test_what_is_no_url(text: str, problem: str) -> None:
    """The message says what is wrong, and shows no password."""
    with pytest.raises(OptionRefused) as caught:
        parse(text)
    assert problem in str(caught.value)
    assert not any(secret in str(caught.value) for secret in SECRETS)
