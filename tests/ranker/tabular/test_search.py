"""A search of settings: what it tries and in which order, what it keeps, and that it ends in time."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from ranker.tabular.columns import find_columns
from ranker.tabular.config import SPACE, FitConfig, SearchConfig
from ranker.tabular.encoding import learn_encoder
from ranker.tabular.metrics import grade
from ranker.tabular.search import Found, Trial, candidates, search
from ranker.tabular.training import Stopped
from tests.ranker.tabular.tables import clicks
from tests.ranker.tabular.test_training import encoded

SHORT = FitConfig(epochs_max=2)
ROWS = 600
TRIAL_S = 2 * ROWS
"""Seconds of a trial by the clock of Heard."""
TABLE = clicks(ROWS)
ENCODER = learn_encoder(TABLE, find_columns(TABLE, label="click"), min_count=2, buckets=8)
DATA, VALID = encoded(TABLE, ENCODER), encoded(clicks(400, seed=1), ENCODER)


class Heard:
    """Hears a search, and is its clock: a second passes with each row of a trial, more in one that is slow."""

    def __init__(self, *, slow: int = 0, stop: int = 0) -> None:
        self.trials: list[tuple[Trial, bool]] = []
        self.begun: set[int] = set()
        self.now = 0.0
        self._slow, self._stop = slow, stop

    def trial(self, trial: Trial, best: bool) -> None:
        self.trials.append((trial, best))

    def rows(self, count: int) -> None:
        number = len(self.trials) + 1
        self.begun.add(number)
        self.now += count * (10 if number == self._slow else 1)
        if number == self._stop:
            raise Stopped


def searched(config: FitConfig, *names: str, seconds: float = inf, heard: Heard | None = None) -> Found:
    heard = heard or Heard()
    within = SearchConfig(seconds=seconds, names=names)
    return search(
        ENCODER, DATA, VALID, config, within, on_trial=heard.trial, on_rows=heard.rows, clock=lambda: heard.now
    )


def test_the_settings_as_given_come_first_then_each_other_of_the_space_once() -> None:
    tried = list(candidates(SHORT, SPACE, rows=10**6))
    assert tried[0] == SHORT
    assert len(tried) == len(set(tried)) == 4 * 5 * 3 * 3
    for name, values in SPACE.items():
        assert {getattr(c.tier if name == "dropout" else c, name) for c in tried} == set(values)


def test_the_seed_alone_decides_the_order() -> None:
    orders = [[replace(c, seed=0) for c in candidates(replace(SHORT, seed=s), SPACE, 10**6)] for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert set(orders[0]) == set(orders[2])


def test_what_is_not_named_stays() -> None:
    given = replace(SHORT, embedding_width=5, embedding_l2=0.7)
    for tried in candidates(given, ("batch",), 10**6):
        assert replace(tried, batch=given.batch) == given


def test_batches_that_a_small_table_cuts_to_one_size_are_tried_once() -> None:
    assert len(list(candidates(SHORT, ("batch",), rows=1000))) == 1
    assert next(candidates(replace(SHORT, batch=300), ("batch",), rows=25_000)).batch == 300
    assert sorted(c.batch for c in candidates(SHORT, ("batch",), rows=25_000)) == [256, 1024]


def test_the_trial_of_least_validation_loss_is_kept_with_its_weights() -> None:
    poor = replace(SHORT, tier=replace(SHORT.tier, dropout=0.95))
    heard = Heard()
    found = searched(poor, "dropout", heard=heard)
    losses = [trial.logloss for trial in found.trials]
    assert found.trials[0].config.tier.dropout == 0.95
    assert {trial.config.tier.dropout for trial in found.trials[1:]} == set(SPACE["dropout"])
    assert found.chosen.number == 1 + losses.index(min(losses)) > 1
    assert grade(VALID.label_N.double().numpy(), found.model.predict(VALID)).logloss == min(losses)
    assert [best for _, best in heard.trials] == [loss < min(losses[:i], default=9) for i, loss in enumerate(losses)]


def test_a_trial_whose_weights_ran_away_is_not_kept() -> None:
    found = searched(replace(SHORT, embedding_l2=1e38), "embedding_l2")
    assert found.trials[0].best is None
    assert found.trials[0].logloss == float("inf")
    assert found.chosen.number > 1


def test_the_first_trial_has_one_epoch_however_little_time_there_is() -> None:
    heard = Heard()
    found = searched(SHORT, *SPACE, seconds=1, heard=heard)
    assert [(len(trial.epochs), trial.cut) for trial in found.trials] == [(1, True)]
    assert found.chosen.config == SHORT
    assert heard.begun == {1}


@pytest.mark.parametrize(("seconds", "begun"), [(2 * TRIAL_S - 1, 1), (2 * TRIAL_S + 1, 2), (3 * TRIAL_S - 1, 2)])
def test_no_trial_is_begun_that_could_not_end_in_time(seconds: float, begun: int) -> None:
    heard = Heard()
    found = searched(SHORT, *SPACE, seconds=seconds, heard=heard)
    assert len(found.trials) == len(heard.begun) == begun
    assert not any(trial.cut for trial in found.trials)
    assert heard.now <= seconds


def test_how_long_a_trial_takes_is_what_the_longest_took() -> None:
    found = searched(SHORT, *SPACE, seconds=20 * TRIAL_S, heard=Heard(slow=2))
    assert [trial.seconds for trial in found.trials] == [TRIAL_S, 10 * TRIAL_S]


def test_a_trial_that_takes_longer_than_those_before_is_cut_at_the_deadline_and_counts() -> None:
    found = searched(SHORT, *SPACE, seconds=8 * TRIAL_S, heard=Heard(slow=2))
    assert [(len(trial.epochs), trial.cut) for trial in found.trials] == [(2, False), (1, True)]
    assert found.trials[1].logloss == found.trials[1].epochs[0].valid.logloss


def test_a_trial_that_is_cut_in_its_first_epoch_is_left_out() -> None:
    heard = Heard(slow=2)
    found = searched(SHORT, *SPACE, seconds=3 * TRIAL_S, heard=heard)
    assert (len(found.trials), heard.begun) == (1, {1, 2})


def test_who_stops_it_gets_the_best_so_far_or_is_told_that_there_is_none() -> None:
    with pytest.raises(Stopped):
        searched(SHORT, *SPACE, heard=Heard(stop=1))
    found = searched(SHORT, *SPACE, heard=Heard(stop=3))
    assert [len(trial.epochs) for trial in found.trials] == [2, 2]


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"seconds": float("nan")}, {"names": ("hidden",)}])
def test_a_search_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a search needs seconds > 0 and names among"):
        SearchConfig(**wrong)
