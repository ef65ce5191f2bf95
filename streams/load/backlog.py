"""How far the trainer is behind what it is to learn, in seconds of a run's examples. Knows topics; nothing of loads."""

from streams.kafka.connection import Kafka
from streams.kafka.scan import ends, read_topic
from streams.wire.topics import EXAMPLES, UPDATES


class Backlog:
    """Looks at the topics when it is made, and again when it is asked."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._produced, self._updates = self._examples(), self._end_of_updates()

    def behind_s(self, seconds: float) -> float | None:
        """Returns how many seconds of the examples made since then, in `seconds`, the newest update has not learned.

        None where nothing was to be learned, or nobody published: there is no trainer.
        """
        from ranker.updates.record import UpdateHeader, peek_header  # imports torch: not for --help

        produced, end = self._examples(), self._end_of_updates()
        made = sum(produced.values()) - sum(self._produced.values())
        if made <= 0 or end <= self._updates:
            return None
        (record,) = read_topic(self._kafka, UPDATES, {0: end - 1}, {0: end})
        header = peek_header(record.value or b"")
        if not isinstance(header, UpdateHeader):
            return None
        left = sum(max(0, at - header.offsets.get(str(partition), 0)) for partition, at in produced.items())
        return left * seconds / made

    def _examples(self) -> dict[int, int]:
        return {partition: end for partition, (_, end) in ends(self._kafka, EXAMPLES).items()}

    def _end_of_updates(self) -> int:
        return ends(self._kafka, UPDATES)[0][1]
