"""Signatures on what changes a model that serves: who can write the topic shall not be able to write the weights.

A record of a signed topic carries HMAC-SHA-256 (RFC 2104) over the topic's name and its bytes, in a header, under a key
that trainer, router learner and ranking processes share. Records without a valid one are skipped and counted by all who
have the key. A copy of an older record stays valid, and is void: epochs and numbers say that it is old.
"""

import hashlib
import hmac
import os
from pathlib import Path

from streams.errors import StartError
from streams.wire.headers import SIGNATURE
from streams.wire.record import Record
from streams.wire.topics import ROUTER_MODEL, UPDATES

SIGNED = frozenset({UPDATES, ROUTER_MODEL})
KEY_FILE = "TIDERANK_SIGNING_KEY_FILE"
_LEAST_BYTES = 32


class Signer:
    """One key. Shows it to nobody."""

    def __init__(self, key: bytes) -> None:
        """Raises ValueError for a key that is too short to be one."""
        if len(key) < _LEAST_BYTES:
            raise ValueError(f"a signing key has at least {_LEAST_BYTES} bytes, got {len(key)}")
        self._key = key

    def headers(self, topic: str, value: bytes) -> dict[str, bytes]:
        """What a record is to carry: nothing where its topic is not a signed one."""
        return {SIGNATURE: self._sign(topic, value)} if topic in SIGNED else {}

    def vouches_for(self, record: Record) -> bool:
        """Whether the record is of a topic that needs no signature, or carries a valid one."""
        if record.topic not in SIGNED:
            return True
        given = [value for name, value in record.headers if name == SIGNATURE and isinstance(value, bytes)]
        return len(given) == 1 and hmac.compare_digest(given[0], self._sign(record.topic, record.value or b""))

    def _sign(self, topic: str, value: bytes) -> bytes:
        return hmac.new(self._key, topic.encode() + b"\0" + value, hashlib.sha256).digest()


def signer_from_environment() -> Signer | None:
    """Returns a signer with the key in the file that TIDERANK_SIGNING_KEY_FILE names; None where it names none.

    Raises StartError for a file that cannot be read, that others may read too, or that holds no key.
    """
    name = os.environ.get(KEY_FILE)
    if not name:
        return None
    path = Path(name)
    try:
        key, mode = path.read_bytes().strip(), path.stat().st_mode
    except OSError as error:
        raise StartError(
            f"{KEY_FILE}: {path} cannot be read ({error.strerror}); name a file that holds the key"
        ) from error
    if mode & 0o077:
        raise StartError(f"{KEY_FILE}: {path} may be read by others than its owner; chmod 600 {path}")
    try:
        return Signer(key)
    except ValueError as error:
        raise StartError(f"{KEY_FILE}: {path}: {error}; make one with `openssl rand -hex 32`") from error
