"""Unique tasks on NATS, on a real server."""

from tests.nats.server import Server
from unspool import address, codec
from unspool.backends.nats import NatsBackend
from unspool.backends.nats.jetstream import JetStream
from unspool.message import Claim, Duplicate, Message, Unique
from unspool.settings import Settings
from unspool.testing.exchange import claim_one, sealed
from unspool.testing.waiting import readable


def backend_on(server: Server) -> NatsBackend:
    """Return a backend of the same queue."""
    return NatsBackend(address.parse(f"{server.url}?spooler=earlier"), Settings())


def test_streams_of_an_earlier_version(nats_server: Server) -> None:
    """Streams and consumers that know no keys are changed by the first use. The tasks in them stay."""
    before = backend_on(nats_server)
    plain = sealed(codec.encode(Message("plain")))
    (first,) = before.send([plain])

    def as_before(stream: JetStream) -> None:
        for name in (before.cluster.names.tasks, before.cluster.names.aside):
            found = stream.info(name)
            assert found is not None
            config = found["config"]
            config["subjects"] = [one for one in config["subjects"] if not one.endswith(".*.*.*")]
            consumer = stream.api(f"CONSUMER.INFO.{name}.rank-none")["config"] if "tasks" in name else None
            if consumer is not None:
                consumer["filter_subjects"] = [one for one in consumer["filter_subjects"] if not one.endswith("*.*")]
                stream.api(f"CONSUMER.CREATE.{name}.rank-none", {"stream_name": name, "config": consumer})
            stream.api(f"STREAM.UPDATE.{name}", config)

    before.cluster.call(as_before)
    before.close()
    after = backend_on(nats_server)
    (second,) = after.send([plain._replace(unique=Unique("a" * 32))])
    (third,) = after.send([plain._replace(unique=Unique("a" * 32))])
    assert isinstance(third, Duplicate)
    feed, taken = after.feed(), []
    for _ in range(50):
        while feed.refresh().more:
            pass
        taken += feed.take(2)
        if len(taken) == 2:
            break
        readable(feed.fileno() or 0, 0.2)
    claims = [claim_one(after, ticket.ref) for ticket in taken]
    assert {claim.id for claim in claims if isinstance(claim, Claim)} == {first, second}
    feed.close()
    after.close()
