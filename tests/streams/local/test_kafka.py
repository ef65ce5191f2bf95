"""What Kafka's own tools are told."""

import base64
import re

from streams.local.kafka import cluster_id


def test_a_cluster_id_is_a_uuid_that_no_tool_takes_for_an_option() -> None:
    ids = {cluster_id() for _ in range(2_000)}  # one in 64 that are simply drawn begins with a dash
    assert len(ids) == 2_000
    for drawn in ids:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", drawn)
        assert len(base64.urlsafe_b64decode(drawn + "==")) == 16
