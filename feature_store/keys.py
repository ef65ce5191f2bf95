"""The names of everything stored. Knows hashing only.

Users fall into 256 buckets, and the bucket is the hash tag: a user's log, its join state and its bucket's timers are
always on one node, so that one function call may change all three, in Redis Cluster too.
"""

import struct

import xxhash

BUCKETS = 256
OFFSETS = b"ingest:offsets"
"""Hash: "topic:partition" → the next offset to read."""
TOPIC_IDS = "ingest:topics"
"""Hash: topic → the id that it had when its offsets were written."""

_USER_LENGTH = struct.Struct(">H")


def bucket_of(user: str) -> int:
    return xxhash.xxh3_64_intdigest(user.encode()) % BUCKETS


def log_key(user: str) -> bytes:
    return b"log:{%d}:%s" % (bucket_of(user), user.encode())


def join_key(user: str) -> bytes:
    """Hash: what waits for a label, and what redeliveries need for the same reply. Fields: see lua/join.lua."""
    return b"join:{%d}:%s" % (bucket_of(user), user.encode())


def due_key(bucket: int) -> bytes:
    """Sorted set of the bucket's timers: member kind | user | id, score the event time in ms at which it is due."""
    return b"due:{%d}" % bucket


def timer(kind: bytes, user: str, name: str) -> bytes:
    """A member of due_key: kind p is an impression's (its windows), c and e the elapsed times of its click and its
    conversion, a an action's that names only its item."""
    encoded = user.encode()
    return kind + _USER_LENGTH.pack(len(encoded)) + encoded + name.encode()


def timer_user(member: bytes) -> str:
    """The user of a timer: member is kind u8 | length of user u16 big-endian | user | id."""
    (length,) = _USER_LENGTH.unpack_from(member, 1)
    return member[3 : 3 + length].decode()


def event_tag(event_id: str) -> bytes:
    """8 bytes, never zero: zeros in a log's tag ring are places not used yet."""
    return (xxhash.xxh3_64_intdigest(event_id.encode()) or 1).to_bytes(8, "little")
