"""Names of the headers that records carry, each with what its value is."""

CONTENT_TYPE = "content-type"
"""JSON or MSGPACK; a record without it has its topic's own encoding."""
JSON = "application/json"
MSGPACK = "application/msgpack"

REPLY_TOPIC = "reply-topic"
"""Topic that a request's response goes to, instead of ranking.responses."""
DEADLINE_MS = "deadline-ms"
"""Milliseconds from a request's broker timestamp, after which only a fallback is of use; 1 to MAX_DEADLINE_MS."""
MAX_DEADLINE_MS = 3_600_000

CLOSED_MS = "closed-ms"
"""Event time before which all windows had closed when a record of training.examples was sent."""

SIGNATURE = "signature"
"""Signature of a record on a signed topic: see `streams.wire.signing`."""

ORIGINAL = "original-"
"""Prefix of the headers that a dead letter's record had itself."""
CUT_FROM = "cut-from"
"""Bytes of a dead letter's value, where they were more than a letter takes."""
REASON = "reason"
WORKER = "worker"
TOPIC, PARTITION, OFFSET, TIMESTAMP_MS = "topic", "partition", "offset", "timestamp-ms"
"""Why a record became a dead letter, who refused it, and where it was."""
