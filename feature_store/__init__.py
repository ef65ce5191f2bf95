"""The user log in Redis: append, read as of a position, join on the fly."""

from feature_store.clock import EventClock
from feature_store.config import JoinConfig, LogConfig
from feature_store.events import EVENT_DTYPE, LogEvent, action_code, decode_events, encode_event, surface_code
from feature_store.facts import (
    ActionFact,
    Closed,
    Fact,
    ImpressionFact,
    Label,
    Outcome,
    Position,
    Reply,
    Role,
    ServedFact,
    example_id,
)
from feature_store.join import Joiner
from feature_store.log import LogGone, LogSlice, LogWant, LogWantAsOf, UserLog

__all__ = [
    "EVENT_DTYPE",
    "ActionFact",
    "Closed",
    "EventClock",
    "Fact",
    "ImpressionFact",
    "JoinConfig",
    "Joiner",
    "Label",
    "LogConfig",
    "LogEvent",
    "LogGone",
    "LogSlice",
    "LogWant",
    "LogWantAsOf",
    "Outcome",
    "Position",
    "Reply",
    "Role",
    "ServedFact",
    "UserLog",
    "action_code",
    "decode_events",
    "encode_event",
    "example_id",
    "surface_code",
]
