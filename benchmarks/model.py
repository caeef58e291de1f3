"""How throughput grows with workers and hosts: a closed queueing network, solved by mean value analysis.

Each worker is a customer that is always on its way: through its own task, over the network, on its host's processors
and on the server's. What a task takes at each of these was measured, and the model says what many workers get out of
them: each waits for those before it. A station of several processors is taken as one that is so many times as fast, and
a delay for the rest: Seidmann's approximation, which errs by some percents around the knee and by little far from it.
What a host's supervisor does goes on beside the workers; it is no step on a task's way, but it sets a bound, and so do
all processors together.
"""

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Demands", "Machines", "bounds", "throughput"]


class Demands(NamedTuple):
    """Processor time and round trips of one task. Times are in seconds.

    :param worker: in the worker process.
    :param supervisor: in the supervisor, of which each host has one.
    :param server: in the processes of the server.
    :param trips: round trips that a worker waits for.
    """

    worker: float
    supervisor: float
    server: float
    trips: float


class Machines(NamedTuple):
    """The machines.

    :param hosts: hosts with workers.
    :param workers: processes on each host.
    :param cores: cores of each host.
    :param server_cores: cores of the server's machine; 0 if it is on the only host.
    :param round_trip: seconds over the network.
    :param task: seconds that a task itself takes, waiting for other systems.
    """

    hosts: int
    workers: int
    cores: int
    server_cores: int
    round_trip: float = 0.0
    task: float = 0.0


class _Station(NamedTuple):
    demand: float
    servers: int
    copies: int = 1  # so many alike, each with its part of the customers; a customer goes to one of them


def throughput(demands: Demands, machines: Machines) -> float:
    """Return tasks per second."""
    delay = machines.task + demands.trips * machines.round_trip
    waits: list[_Station] = []
    for station in _stations(demands, machines):
        waits.append(_Station(station.demand / station.servers, 1, station.copies))
        delay += station.demand * (station.servers - 1) / station.servers
    queues = [0.0] * len(waits)
    rate = 0.0
    for customers in range(1, machines.hosts * machines.workers + 1):
        times = [one.demand * (1 + queue / one.copies) for one, queue in zip(waits, queues, strict=True)]
        rate = customers / (delay + sum(times))
        queues = [rate * time for time in times]
    return min(rate, *bounds(demands, machines).values())


def bounds(demands: Demands, machines: Machines) -> dict[str, float]:
    """Return the maximum of each part in tasks per second. The smallest one is the limit of the backend."""
    found = {
        "workers": machines.hosts * machines.workers / (demands.worker + machines.task),
        "supervisors": machines.hosts / demands.supervisor if demands.supervisor else float("inf"),
    }
    if machines.server_cores:
        found["hosts' processors"] = machines.hosts * machines.cores / (demands.worker + demands.supervisor)
        if demands.server:
            found["server's processors"] = machines.server_cores / demands.server
    else:
        found["processors"] = machines.cores / (demands.worker + demands.supervisor + demands.server)
    return found


def _stations(demands: Demands, machines: Machines) -> Sequence[_Station]:
    if machines.server_cores == 0:
        return [_Station(demands.worker + demands.server, machines.cores)]
    host = _Station(demands.worker, machines.cores, machines.hosts)
    return [host, _Station(demands.server, machines.server_cores)]
