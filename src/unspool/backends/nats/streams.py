"""The streams of a spooler: created if missing, and checked if they exist.

A stream with other settings may drop tasks silently, so it is refused, and the message says what to change.
"""

import logging
from collections.abc import Mapping
from typing import Any

from ...errors import SpoolerUnusable
from .jetstream import JetStream
from .names import ARRIVING, CORRUPT, DEAD, LATER, LEAVING, NOW, SOON, Names, on_the_way
from .requests import ApiError

__all__ = ["Settings", "consumer", "ensure", "ensure_table", "has_schedules"]

_log = logging.getLogger("unspool")
_SECOND = 10**9
_MAXIMUM_REPLICAS = 3
_SCHEDULES = 2  # the API level of servers that can hold a message back until a time (2.12)
_TTL = 1  # the API level of servers that support a time to live per message (2.11)
_NO_CLUSTER = 10074
_EXISTS = 10058


class Settings:
    """The settings of the streams.

    :param replicas: copies of each message; None for 3 in a cluster and 1 otherwise.
    :param lease: seconds of silence after which a supervisor loses its deliveries.
    :param history_limit: the number of runs that the history keeps.
    :param history_age: seconds for which the history keeps a run.
    """

    def __init__(self, replicas: int | None, lease: float, history_limit: int, history_age: float) -> None:
        self.replicas = replicas
        self.lease = lease
        self.history_limit = history_limit
        self.history_age = history_age


def has_schedules(info: Mapping[str, Any]) -> bool:
    """Return whether the server holds messages of the stream back until a time."""
    return bool(info["config"].get("allow_msg_schedules"))


def ensure(stream: JetStream, names: Names, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Create missing streams. Return the configuration of the stream of tasks and of the stream of dead letters.

    :raises SpoolerUnusable: if JetStream is off, the server is too old, or a stream has an unsuitable configuration.
    """
    server = stream.open().info
    if not server.get("jetstream"):
        raise SpoolerUnusable(
            f"JetStream is off in {stream.shown}; enable it with 'nats-server -js', or with 'jetstream {{}}' in its "
            "configuration"
        )
    level = int(server.get("api_lvl", 0))
    if level < _TTL:
        raise SpoolerUnusable(f"{stream.shown} runs NATS {server.get('version')}; unspool needs 2.11 or newer")
    wanted = _configs(names, settings, schedules=level >= _SCHEDULES)
    common = _common(stream, settings)
    found = [_ensure(stream, common | config) for config in wanted]
    return found[0], found[1]


def ensure_table(stream: JetStream, names: Names, settings: Settings) -> None:
    """Create the stream of the key-value table if it is missing.

    :raises SpoolerUnusable: if it has an unsuitable configuration.
    """
    table = {
        "name": names.table,
        "subjects": [f"{names.root}.kv.>"],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "duplicate_window": 60 * _SECOND,
    }
    _ensure(stream, _common(stream, settings) | table)


def consumer(names: Names, rank: str, lease: float) -> dict[str, Any]:
    """Return the settings of the consumer for one priority.

    It delivers headers only, because a supervisor needs nothing else. The number of unacknowledged deliveries is
    unlimited: feeds hold few, and deferred deliveries must not block others.
    """
    return {
        "durable_name": names.consumer(rank),
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(lease * _SECOND),
        "max_deliver": -1,
        "max_ack_pending": -1,
        "headers_only": True,
        "filter_subjects": [f"{names.root}.{kind}.{rank}.{token}" for kind in (NOW, SOON) for token in ("*", "*.*")],
    }


def _common(stream: JetStream, settings: Settings) -> dict[str, Any]:
    replicas = settings.replicas or (_MAXIMUM_REPLICAS if stream.open().info.get("cluster") else 1)
    return {"storage": "file", "num_replicas": replicas, "allow_direct": True}


def _configs(names: Names, settings: Settings, *, schedules: bool) -> list[dict[str, Any]]:
    root = names.root
    tasks = {
        "name": names.tasks,
        "subjects": [
            f"{root}.{kind}.*.{token}" for kind in (NOW, SOON, LATER, LEAVING, ARRIVING) for token in ("*", "*.*")
        ],
        "retention": "workqueue",
        "duplicate_window": 120 * _SECOND,
    }
    if schedules:
        tasks["allow_msg_schedules"] = True
    aside = {
        "name": names.aside,
        "subjects": [
            f"{root}.{kind}.*.{token}"
            for token in ("*", "*.*")
            for one in (DEAD, CORRUPT)
            for kind in (one, on_the_way(LEAVING, one), on_the_way(ARRIVING, one))
        ],
        "retention": "limits",
    }
    state = {
        "name": names.state,
        "subjects": [f"{root}.run.*", names.ended("*"), f"{root}.live.*", names.switches],
        "retention": "limits",
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "duplicate_window": 60 * _SECOND,
    }
    history = {
        "name": names.history,
        "subjects": [f"{root}.history.*"],
        "retention": "limits",
        "max_msgs": max(settings.history_limit, 1),
        "max_age": int(settings.history_age * _SECOND),
        "duplicate_window": int(min(settings.history_age, 60) * _SECOND),
    }
    return [tasks, aside, state, history]


def _ensure(stream: JetStream, config: dict[str, Any]) -> dict[str, Any]:
    found = stream.info(config["name"])
    if found is None:
        try:
            found = _create(stream, config)
        except ApiError as error:
            found = stream.info(config["name"]) if error.code == _EXISTS else None
            if found is None:
                raise
    if changes := _changes(config, found["config"]):
        found = _change(stream, found, changes)
    _check(config, found["config"])
    return found


def _drops(config: Mapping[str, Any]) -> bool:
    """Return whether the server drops the former message of a subject.

    The server does not store this deletion. After a kill, the former message reappears if the later one has been
    deleted, and a task that has ended comes back. unspool therefore deletes former messages itself, which the server
    does store.
    """
    return bool(config.get("max_msgs_per_subject") == 1)


def _changes(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings to change in a stream of an earlier version."""
    changes: dict[str, Any] = {}
    if _drops(found) and not _drops(wanted):
        changes["max_msgs_per_subject"] = -1
    missing = set(wanted["subjects"]) - set(found.get("subjects") or [])
    if missing and all(subject.endswith((".ended.*", ".*.*.*")) for subject in missing):
        changes["subjects"] = wanted["subjects"]
    return changes


def _change(stream: JetStream, found: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change the settings of a stream of an earlier version, and return its configuration."""
    name = found["config"]["name"]
    try:
        return stream.api(f"STREAM.UPDATE.{name}", found["config"] | changes)
    except SpoolerUnusable as error:
        if "subjects" not in changes:  # otherwise the stream is refused
            _log.warning(
                "stream %s drops messages without a trace, so tasks that have ended may be listed again after a server "
                "is killed; run 'nats stream edit %s --max-msgs-per-subject=-1': %s",
                name,
                name,
                error,
            )
        return found


def _create(stream: JetStream, config: dict[str, Any]) -> dict[str, Any]:
    try:
        return stream.api(f"STREAM.CREATE.{config['name']}", config)
    except ApiError as error:
        if error.code != _NO_CLUSTER:
            raise
    return stream.api(f"STREAM.CREATE.{config['name']}", config | {"num_replicas": 1})


def _check(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a stream that would lose or withhold tasks."""
    must = {
        "retention": wanted["retention"],
        "max_msgs_per_subject": 1 if _drops(found) else wanted.get("max_msgs_per_subject", -1),
        "allow_direct": True,
        "no_ack": False,
        "sealed": False,
        "deny_delete": False,
    }
    if "max_age" not in wanted:
        # A limit would make the server drop the oldest message. A stream that holds messages back cannot refuse the
        # newest.
        must |= {"max_age": 0, "max_msgs": -1, "max_bytes": -1}
    if wanted.get("allow_msg_ttl"):
        must["allow_msg_ttl"] = True
    wrong = [f"{key} is {found[key]!r}, not {value!r}" for key, value in must.items() if found.get(key, value) != value]
    missing = set(wanted["subjects"]) - set(found.get("subjects") or [])
    wrong += [f"no subject {subject}" for subject in sorted(missing)]
    if wrong:
        raise SpoolerUnusable(
            f"stream {wanted['name']} has unsuitable settings: {', '.join(wrong)}; change them with 'nats stream "
            "edit', or use another spooler name, for which unspool creates a new stream"
        )
