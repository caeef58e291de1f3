"""Signatures: what they cover, and which keys are invalid."""

import contextlib
import pickle
import random
import subprocess
import sys

import pytest

from unspool import codec, wire
from unspool.backends.memory import MemoryBackend
from unspool.errors import Damaged, OptionRefused
from unspool.message import Content, Envelope, Message, Refusal, RefusalKind
from unspool.seal import Seal
from unspool.signing import SIGNATURE_SIZE, Signer, check_keys
from unspool.testing.exchange import claim_one

KEY, OTHER = "k" * 32, "o" * 32
SIGNER = Signer([KEY], "mail")
SENT = codec.encode(Message("ucfg_fcall", {"func": "f", "arg": (), "kwg": {}}, "shop:f", priority=3, due=5.5))
DATA = wire.dump(SENT.vars, SENT.body, SIGNER)


class Bomb:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('decoded')",)


def test_a_signed_task_is_read_without_its_seal() -> None:
    """It arrives unchanged: queue and signature are not among its variables. A process without a key can read
    it, too.
    """
    expected = Content(SENT.vars, SENT.body, 3, 7.0, True)
    assert wire.load(DATA, SIGNER, priority=3, due=7.0) == expected
    assert wire.load(DATA, None, priority=3, due=7.0) == expected


def test_what_is_signed() -> None:
    """Name, priority, due time, serialiser and queue are variables, which are signed together with the body: a change
    of any of them is detected, even if the checksum matches.
    """
    names = {"msg", "unspool_task", "priority", "at"}
    assert names <= SENT.vars.keys()
    signature = wire.load_vars(DATA).vars["unspool_sig"]
    changed = [({**SENT.vars, name: SENT.vars[name] + b"1"}, SENT.body) for name in names]
    changed += [({**SENT.vars, "unspool_codec": b"json"}, SENT.body), (SENT.vars, SENT.body + b"."), (SENT.vars, b"")]
    changed += [({name: value for name, value in SENT.vars.items() if name != "at"}, SENT.body)]
    for vars, body in changed:
        forged = wire.dump({**vars, "unspool_queue": b"mail", "unspool_sig": signature}, body, None)
        assert wire.load(forged, None).sealed
        with pytest.raises(Damaged, match="signature does not match"):
            wire.load(forged, SIGNER)


def test_the_first_key_signs_and_all_verify() -> None:
    """The key may be anywhere in the list."""
    old = wire.dump(SENT.vars, SENT.body, Signer([OTHER], "mail"))
    for keys in ([OTHER], [KEY, OTHER], [OTHER, KEY]):
        assert wire.load(old, Signer(keys, "mail")).vars == SENT.vars
    with pytest.raises(Damaged, match="secret key that is not set here"):
        wire.load(old, SIGNER)
    assert wire.dump(SENT.vars, SENT.body, Signer([KEY, OTHER], "mail")) == DATA


def test_a_signature_holds_in_its_queue_alone() -> None:
    """A task for one queue is not accepted in another, even if its variable names that queue."""
    bulk = Signer([KEY], "bulk")
    with pytest.raises(Damaged, match="signed for the queue 'mail', and this is 'bulk'"):
        wire.load(DATA, bulk)
    signature = wire.load_vars(DATA).vars["unspool_sig"]
    with pytest.raises(Damaged, match="signature does not match"):
        wire.load(wire.dump({**SENT.vars, "unspool_queue": b"bulk", "unspool_sig": signature}, SENT.body, None), bulk)


@pytest.mark.parametrize("seal", ["none", "checksum"])
def test_an_unsigned_task(seal: str) -> None:
    """It has no seal, like tasks of uWSGI, uwsgiconf and uwsgidecorators, or only a checksum."""
    data = wire.dump({"msg": b"x"}, b"body", None) if seal == "checksum" else b"\x11\x08\x00\x00\x03\x00msg\x01\x00x"
    assert wire.load(data, None).vars == {"msg": b"x"}
    with pytest.raises(Damaged, match="unsigned"):
        wire.load(data, SIGNER)


def test_nothing_is_decoded_before_it_is_verified() -> None:
    """This holds even if the forger has made the checksum match, and has left out no variable."""
    body = pickle.dumps({"payload": Bomb()})
    with pytest.raises(SystemExit, match="decoded"):
        codec.decode(wire.load(wire.dump({"msg": b"x"}, body, None), None))
    forged = wire.dump({"msg": b"x", "unspool_queue": b"mail", "unspool_sig": b"A" * SIGNATURE_SIZE}, body, None)
    backend = MemoryBackend()
    (id,) = backend.send([Envelope(forged)])
    refusal = claim_one(backend, id, Seal("mail", SIGNER))
    assert isinstance(refusal, Refusal)
    assert refusal.kind is RefusalKind.CORRUPT


def test_every_truncation_and_flip_of_a_signed_task_is_damaged() -> None:
    """Only flips of the two modifiers, which mean nothing, are accepted. No other error is raised."""
    for length in range(len(DATA)):
        with pytest.raises(Damaged):
            wire.load(DATA[:length], SIGNER)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    for at in range(len(DATA)):
        data = bytearray(DATA)
        data[at] ^= generator.randrange(1, 256)
        if at in (0, 3):
            assert wire.load(bytes(data), SIGNER).vars == SENT.vars
        else:
            with pytest.raises(Damaged):
                wire.load(bytes(data), SIGNER)


def test_random_forgeries() -> None:
    """Random variables and bodies, random signatures and matching checksums: none is accepted, none does harm."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    for _ in range(5_000):
        vars = {f"k{at}": generator.randbytes(generator.randrange(9)) for at in range(generator.randrange(4))}
        vars["unspool_queue"] = generator.choice([b"mail", b"\xff", b""])
        vars["unspool_sig"] = generator.randbytes(SIGNATURE_SIZE + generator.choice([0, 0, 0, 1, -1]))
        with pytest.raises(Damaged):
            wire.load(wire.dump(vars, generator.randbytes(9), None), SIGNER)
        with contextlib.suppress(Damaged):
            wire.load(wire.dump(vars, b"", None), None)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ([], "it is empty"),
        ([""], "the key is empty; it must have 32 or more"),
        (["  \n"], "the key is empty"),
        (["x" * 31], "the key has 31 characters; it must have 32 or more"),
        ([KEY, "short"], "key 2 of 2 has 5 characters"),
        ([KEY, ""], "key 2 of 2 is empty"),
        ([KEY.encode()], "the key is a bytes; a key is a string"),
        ([None], "the key is a NoneType"),
    ],
)
def test_keys_that_are_none(keys: list[object], reason: str) -> None:
    """The reason says which key is invalid, why, and how to make one. It quotes no key."""
    with pytest.raises(OptionRefused, match=reason) as caught:
        check_keys(keys)
    assert "xxx" not in str(caught.value)
    assert "short" not in str(caught.value)
    if "string" not in reason and "None" not in reason:
        assert "secrets.token_urlsafe" in str(caught.value)


def test_keys_are_taken_without_the_blanks_around_them() -> None:
    """A line break in a file, or a space after a comma, is not part of a key, because other processes would not have
    it.
    """
    assert check_keys([f" {KEY}\n", OTHER]) == (KEY, OTHER)


def test_who_has_no_key_loads_no_library() -> None:
    """Sending and claiming without a key import nothing that signatures need."""
    code = (
        "import sys\n"
        "from unspool import Spooler, configure\n"
        "configure(spoolers=[sys.argv[1]], durability='relaxed')\n"
        "Spooler.send_message_raw('x')\n"
        "print('itsdangerous' in sys.modules, 'hmac' in sys.modules)\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
