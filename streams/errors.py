"""Errors, and what the worker does about each:

StreamError
    Refused            one bad record: dead-letter it, tell its sender where that is possible, go on
    DeliveryFailed     a record could not be delivered: stop without committing; the restart reads again
    StartError         something needed is missing or wrong: say what and how to mend it, exit 2
"""

from collections.abc import Iterator
from contextlib import contextmanager


class StreamError(Exception):
    """Base of this folder's errors."""


class Refused(StreamError):
    """A record that can never succeed. The message is the reason, fit for the sender's eyes."""


class DeliveryFailed(StreamError):
    """The broker did not take a record within the delivery timeout."""


class StartError(StreamError):
    """What must hold before a worker can run does not."""


@contextmanager
def start_errors() -> Iterator[None]:
    """What is a ValueError in the block, of a recipe or an option, is a StartError outside."""
    try:
        yield
    except ValueError as error:
        raise StartError(str(error)) from error


def one_line(error: Exception) -> str:
    """What the error says, to be put into a sentence."""
    return " ".join(str(error).split()).rstrip(".")
