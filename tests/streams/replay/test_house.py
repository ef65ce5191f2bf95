"""What a replay asks of a house, where no server is needed to tell."""

from typing import cast

import pytest

from streams.client import RankingClient, RankingRequest, RankingResponse
from streams.config.load import load_recipe
from streams.datasets.logs.sources import open_log
from streams.errors import StartError
from streams.replay.house import Known, check_served, refuse_known
from streams.wire.messages import ModelVersion


class Answering:
    """A client whose requests are answered by the model of that digest; None: by a fallback, without a model."""

    def __init__(self, digest: str | None) -> None:
        self._model = None if digest is None else ModelVersion(epoch=1, number=1, digest=digest)

    def rank(self, request: RankingRequest, *, timeout_s: float, deadline_ms: int) -> RankingResponse:
        assert deadline_ms == 1000 * timeout_s
        return RankingResponse(response_id="r", request_id=request.request_id, status="ok", model=self._model)


def served(digest: str | None) -> None:
    client = cast(RankingClient, Answering(digest))
    check_served(client, load_recipe("log:ml-100k"), open_log("ml-100k"), prefix="p", event_ms=1)


def test_answers_of_the_recipe_s_model_are_taken() -> None:
    served(load_recipe("log:ml-100k").model.digest)
    served(None)


def test_answers_of_another_model_are_refused_by_the_name_of_its_recipe() -> None:
    demo = load_recipe("demo").model.digest
    with pytest.raises(StartError, match=rf"answered by another .*: model {demo}, recipe \w+'s, and .*model.slots"):
        served(demo)
    with pytest.raises(StartError, match=r"answered by another model than that of recipe log:ml-100k: model 00ff, and"):
        served("00ff")


@pytest.mark.parametrize("known", [Known(users=1, asked=9, examples=0), Known(users=0, asked=9, examples=1)])
def test_a_house_that_knows_users_or_examples_is_refused(known: Known) -> None:
    with pytest.raises(StartError, match=r"this house has learned before: . of the log's 9 users"):
        refuse_known(known)
    refuse_known(Known(users=0, asked=9, examples=0))
