"""The proof of the loop: an event goes in, the weights change, the next request is scored with them."""

import time
import uuid
from collections.abc import Iterator

import pytest

from streams.client import RankingClient
from streams.local.kafka import why_not
from streams.wire.messages import Candidate, Conversion, Impression, RankingRequest, RankingResponse
from tests.e2e.running import House, check_alive, running

pytestmark = pytest.mark.e2e

SEEDS = 20
SHOWS = 12
"""How often each ad of a pair is shown."""
WITHIN_S = 10.0


@pytest.fixture(scope="module", params=["kafka", "memory"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    if request.param == "kafka" and (obstacle := why_not()):
        pytest.skip(f"no real Kafka: {obstacle}")
    home = tmp_path_factory.mktemp(f"loop-{request.param}")
    with running(home, ["rank", "ingest", "train"], broker=request.param) as up:
        yield up
        check_alive(up)


class Seed:
    """One user with an interest, an ad that is clicked, and a control ad that is shown as often and never is."""

    def __init__(self, number: int, run: str) -> None:
        self.user = f"{run}-user-{number}"
        self.clicked, self.control = (f"{run}-{kind}-{number}" for kind in ("clicked", "control"))
        self.interest = f"interest-{number}"
        self.before = 0.0
        self.last_click: Conversion | None = None

    def request(self) -> RankingRequest:
        # The order of the two alternates with the id, so that neither position nor order tells them apart.
        items = sorted([self.clicked, self.control], key=lambda _: uuid.uuid4().hex)
        return RankingRequest(
            request_id=uuid.uuid4().hex,
            user=self.user,
            features={"segment": self.interest},
            candidates=[Candidate(item=item) for item in items],
        )

    def gap(self, response: RankingResponse) -> float:
        pctr = {item.item: item.pctr or 0.0 for item in response.items}
        return pctr[self.clicked] - pctr[self.control]


def show(client: RankingClient, seed: Seed, response: RankingResponse, number: int) -> None:
    """Both ads are shown; the position of the clicked one alternates."""
    for item in (seed.clicked, seed.control):
        now_ms = int(time.time() * 1000)
        impression = Impression(
            event_id=uuid.uuid4().hex,
            user=seed.user,
            response_id=response.response_id,
            item=item,
            position=(number + (item == seed.control)) % 2,
            event_ms=now_ms,
        )
        client.send_impression(impression)
        if item == seed.clicked:
            seed.last_click = Conversion(
                event_id=uuid.uuid4().hex,
                user=seed.user,
                kind="click",
                impression_id=impression.event_id,
                event_ms=now_ms + 1,
            )
            client.send_conversion(seed.last_click)


def test_a_click_raises_the_score_of_what_was_clicked(house: House) -> None:
    seeds = [Seed(number, uuid.uuid4().hex[:8]) for number in range(SEEDS)]
    with RankingClient(house.kafka) as client:
        for seed in seeds:
            seed.before = seed.gap(client.rank(seed.request(), timeout_s=30.0, deadline_ms=30_000))
        for number in range(SHOWS):
            for seed in seeds:
                response = client.rank(seed.request(), timeout_s=30.0, deadline_ms=30_000)
                assert response.status == "ok"
                show(client, seed, response, number)
        client.flush()
        shown = time.monotonic()
        last_click_ms = max(seed.last_click.event_ms for seed in seeds if seed.last_click)
        rises, included = wait_for_rises(client, seeds, last_click_ms)
    risen = [seed.user for seed, rise in zip(seeds, rises, strict=True) if rise > 0]
    seconds = time.monotonic() - shown
    print(f"{len(risen)} of {SEEDS} clicked ads rose against their controls, all within {seconds:.1f} s; "
          f"rises from {min(rises):+.3f} to {max(rises):+.3f}")  # fmt: skip
    assert included, "no response came whose weights include the last click"
    assert len(risen) == SEEDS, rises


def wait_for_rises(client: RankingClient, seeds: list[Seed], last_click_ms: int) -> tuple[list[float], bool]:
    """The rise of each gap, in responses whose weights include the last click and the labels of the controls."""
    deadline = time.monotonic() + WITHIN_S
    rises: list[float] = []
    included = False
    while time.monotonic() < deadline:
        responses = [client.rank(seed.request(), timeout_s=30.0, deadline_ms=30_000) for seed in seeds]
        included = all((r.watermark_ms or 0) >= last_click_ms for r in responses)
        rises = [seed.gap(response) - seed.before for seed, response in zip(seeds, responses, strict=True)]
        if included and min(rises) > 0:
            break
        time.sleep(0.2)
    return rises, included
