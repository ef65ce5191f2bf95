"""Following model.updates: the one reader that ranking processes, the trainer, the audit and the views share."""

import logging

from confluent_kafka import KafkaError, TopicPartition

from streams.kafka.connection import Kafka, denied, is_denied
from streams.kafka.gaps import GapWatch
from streams.runtime import metrics as metric
from streams.runtime.outage import Outage
from streams.runtime.sparing import Sparing
from streams.wire.record import Record
from streams.wire.topics import UPDATES

log = logging.getLogger(__name__)


class UpdateReader:
    """Reads the log of weights in order, from a given offset; with a signing key, what is signed with it."""

    def __init__(self, kafka: Kafka, *, start: int) -> None:
        self._reader = kafka.reader()
        self._signer = kafka.signer
        self._gaps = GapWatch(self._reader)
        self.seek(start)
        self.next = start
        """Offset of the record after the newest that was read."""
        self._heard = False
        self._kafka = Outage("kafka", "the client tries again by itself")
        self._said = Sparing()
        self.at_end = False
        """Everything that was there at the last poll has been handed over."""

    def poll(self, limit: int, timeout_s: float = 0.0) -> list[Record]:
        """Up to `limit` records in order; waits for the first up to `timeout_s`.

        Raises StartError where we may not read them and never could. Later that is a line in the log: who serves with
        the weights there are goes on.
        """
        first = self._reader.poll(timeout_s)
        if first is None:
            return []
        records: list[Record] = []
        for message in (first, *self._reader.consume(limit - 1, timeout=0)):
            error = message.error()
            if error is not None:
                self.at_end = error.code() == KafkaError._PARTITION_EOF
                self._heard |= self.at_end
                if is_denied(error) and not self._heard:
                    raise denied(error, UPDATES)
                if not self.at_end:
                    self._kafka.failed(error.name(), error.str())
                continue
            self._kafka.worked()
            self.at_end, self._heard = False, True
            record = Record.of(message)
            self._gaps.see([record])
            self.next = record.offset + 1
            if self._signer is not None and not self._signer.vouches_for(record):
                if self._said.due("unsigned"):
                    log.warning("%s: skipped, it is not signed with this key", record)
                metric.UPDATES_SKIPPED.labels("unsigned").inc()
                continue
            records.append(record)
        return records

    def seek(self, offset: int) -> None:
        self._reader.assign([TopicPartition(UPDATES, 0, offset)])
        self._gaps.start({(UPDATES, 0): offset})
        self.next, self.at_end = offset, False

    def close(self) -> None:
        self._reader.close()
