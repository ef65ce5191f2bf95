"""The simulated truth: what it says happens as often as it says, drifts as fast as it says, and follows its seed."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streams.simulate.config import DEVICES, SURFACES, WORLDS, WorldConfig, catalogue, demo, rich, steady
from streams.simulate.drift import Drift
from streams.simulate.outcomes import Page, events, explored, show, uniform
from streams.simulate.traffic import Traffic, Visit
from streams.simulate.world import World
from streams.wire.messages import Conversion, Impression

HOUR_MS = 3_600_000


def pages(world: World, number: int) -> list[Page]:
    """Pages of random candidates, 50 ms apart."""
    traffic = Traffic(world)
    visits = [traffic.next(50 * n) for n in range(number)]
    return [show(world, v, f"r{v.number}", f"s{v.number}", v.items, 50 * v.number) for v in visits]


class TestDrift:
    def test_has_mean_0_and_variance_1(self) -> None:
        values = Drift((4000,), tau_s=10.0, rng=np.random.default_rng(0)).at(123.0)
        assert values.mean() == pytest.approx(0.0, abs=0.05)
        assert values.var() == pytest.approx(1.0, abs=0.07)

    @pytest.mark.parametrize("lag_s", [2.0, 10.0, 30.0])
    def test_forgets_itself_as_an_ornstein_uhlenbeck_process(self, lag_s: float) -> None:
        drift = Drift((6000,), tau_s=10.0, rng=np.random.default_rng(1))
        correlation = np.corrcoef(drift.at(50.0), drift.at(50.0 + lag_s))[0, 1]
        assert correlation == pytest.approx(np.exp(-lag_s / 10.0), abs=0.06)

    def test_is_read_by_index(self) -> None:
        drift = Drift((5, 3), tau_s=10.0, rng=np.random.default_rng(2))
        np.testing.assert_array_equal(drift.at(7.0)[2], drift.at(7.0, 2))


class TestTruth:
    def test_clicks_come_as_often_as_the_truth_says_at_every_position(self) -> None:
        world = World(demo(), seed=3)
        shown = pages(world, 4000)
        clicks = np.zeros(world.config.shown)
        for page in shown:
            for event in events(world, page):
                if isinstance(event.message, Conversion) and event.message.kind == "click" and not event.repeated:
                    clicks[int(event.message.event_id.split(".")[1])] += 1
        truth = np.stack([page.click for page in shown])
        error = np.sqrt((truth * (1 - truth)).sum(axis=0))
        assert np.all(np.abs(clicks - truth.sum(axis=0)) < 4 * error)
        assert np.all(np.diff(clicks) < 0)  # position bias

    def test_purchases_follow_clicks_as_often_and_as_late_as_the_truth_says(self) -> None:
        world = World(replace(demo(), base_logit=2.0), seed=4)
        expected, variance, delays = 0.0, 0.0, []
        for page in pages(world, 2000):
            buys = world.conversion_probability(page.visit.user, page.items)
            clicked = {}
            for event in events(world, page):
                message = event.message
                if event.repeated or isinstance(message, Impression):
                    continue
                if message.kind == "click":
                    p = buys[int(message.event_id.split(".")[1])]
                    expected, variance = expected + p, variance + p * (1 - p)
                    clicked[message.impression_id] = message.event_ms
                else:
                    assert message.value > 0
                    delays.append(message.event_ms - clicked[message.impression_id])
        assert len(delays) == pytest.approx(expected, abs=4 * np.sqrt(variance))
        assert np.mean(delays) / 1000 == pytest.approx(world.config.conversion_delay_s, rel=0.1)
        assert np.median(delays) / np.mean(delays) == pytest.approx(np.log(2), rel=0.1)  # exponential

    def test_a_ranking_by_the_truth_earns_more_clicks_than_a_random_one(self) -> None:
        world = World(replace(demo(), explored=0.0), seed=5)
        visit = Traffic(world).next(0)
        best = visit.items[np.argsort(-world.click_logit(visit.user, visit.items, 0))]
        random_page = show(world, visit, "a", "a", visit.items, 0)
        assert show(world, visit, "b", "b", best, 0).click.sum() > random_page.click.sum()

    def test_a_tenth_of_the_pages_show_what_is_drawn_from_all_that_is_returned(self) -> None:
        world = World(demo(), seed=6)
        visit = Traffic(world).next(0)
        shown = [show(world, visit, f"r{i}", "s", visit.items, 0).items for i in range(2_000)]
        best = visit.items[: world.config.shown]
        drawn = [items for items in shown if not np.array_equal(items, best)]
        assert len(drawn) == sum(explored(world, f"r{i}") for i in range(2_000)) == pytest.approx(200, abs=60)
        places = np.concatenate([np.flatnonzero(np.isin(visit.items, items)) for items in drawn])
        assert places.mean() == pytest.approx((len(visit.items) - 1) / 2, rel=0.1)  # any rank as likely

    def test_the_demo_world_has_the_click_rates_of_an_ad_system(self) -> None:
        rates = [np.mean([page.click.mean() for page in pages(World(demo(), seed=s), 500)]) for s in range(5)]
        assert 0.05 < min(rates) <= max(rates) < 0.30  # unranked; a learned ranking lifts it


class TestDriftRate:
    def test_a_steady_world_stays_as_it_is(self) -> None:
        assert World(steady(), seed=1).correlation(600.0) == pytest.approx(1.0, abs=1e-3)  # the hour changes

    def test_the_demo_world_changes_within_a_minute_and_goes_on_changing(self) -> None:
        world = World(demo(), seed=1)
        second, minute, hour = (world.correlation(lag) for lag in (1.0, 60.0, 3600.0))
        assert 1 > second > 0.98 > minute > hour

    def test_the_rate_is_what_the_configuration_implies(self) -> None:
        only_trend = replace(
            steady(),
            topics=200,
            campaigns=200,
            items=400,
            trend=1.0,
            trend_tau_s=60.0,
            segment=0.0,
            interest=0.0,
            quality=0.0,
            context=0.0,
        )
        rates = [World(only_trend, seed=s).correlation(60.0, moments=64) for s in range(4)]
        assert np.mean(rates) == pytest.approx(np.exp(-1), abs=0.08)  # one tau of 60 s


class TestTraffic:
    def test_one_seed_gives_one_stream(self) -> None:
        def stream(seed: int) -> list[Visit]:
            traffic = Traffic(World(demo(), seed=seed))
            return [traffic.next(50 * n) for n in range(200)]

        def flat(visits: list[Visit]) -> list[Any]:
            return [(v.user, v.surface, v.device, v.search, v.items.tolist(), v.bids.tolist()) for v in visits]

        assert flat(stream(7)) == flat(stream(7))
        assert flat(stream(7)) != flat(stream(8))

    def test_only_running_campaigns_compete_and_their_bids_change_with_the_flight(self) -> None:
        world = World(demo(), seed=2)
        traffic = Traffic(world)
        bids: dict[int, set[float]] = {}
        for now_ms in range(0, HOUR_MS, 20_000):
            visit = traffic.next(now_ms)
            assert world.running(now_ms)[world.item_campaign[visit.items]].all()
            for item, bid in zip(visit.items.tolist(), visit.bids.tolist(), strict=True):
                bids.setdefault(int(world.item_campaign[item]), set()).add(bid)
        assert len(bids) == world.config.campaigns  # each runs at some time
        assert all(len(of_campaign) > 3 for of_campaign in bids.values())

    def test_the_number_of_candidates_keeps_its_bounds(self) -> None:
        config = replace(demo(), items=3000, candidates_median=100, candidates_spread=2.0)
        traffic = Traffic(World(config, seed=1))
        sizes = [len(traffic.next(0).items) for _ in range(500)]
        assert min(sizes) == 20
        assert max(sizes) == 1000
        assert np.median(sizes) == pytest.approx(100, rel=0.25)

    def test_sessions_last_and_overlap(self) -> None:
        config = replace(demo(), sessions=5)
        traffic = Traffic(World(config, seed=1))
        users = [traffic.next(0).user for _ in range(2000)]
        assert len(set(users[:40])) <= 15
        assert len(set(users)) > 100

    def test_searches_show_what_interests_their_user(self) -> None:
        world = World(replace(demo(), search_share=0.99), seed=1)
        traffic = Traffic(world)
        above = []
        for n in range(300):
            visit = traffic.next(50 * n)
            if visit.search is not None:
                assert visit.surface == "search"
                interest = world.interest(visit.user, 50 * n)
                above.append(interest[world.topics.index(visit.search.removeprefix("query:"))] - interest.mean())
        assert np.mean(above) > 0.5


class TestDeliveries:
    def test_the_configured_share_is_sent_twice_and_late(self) -> None:
        world = World(replace(demo(), duplicate_share=0.1, reorder_share=0.2), seed=1)
        sent = [event for page in pages(world, 1500) for event in events(world, page)]
        first = [event for event in sent if not event.repeated]
        assert len({event.message.event_id for event in first}) == len(first)
        assert {e.message.event_id for e in sent} == {e.message.event_id for e in first}
        assert (len(sent) - len(first)) / len(first) == pytest.approx(0.1, abs=0.02)
        assert np.mean([event.overtaken for event in first]) == pytest.approx(0.2, abs=0.02)
        assert all(event.send_ms >= event.message.event_ms for event in sent)

    def test_draws_are_uniform_and_of_their_name(self) -> None:
        draws = [uniform(0, "click", f"r{i}") for i in range(5000)]
        assert np.histogram(draws, bins=10, range=(0, 1))[0] == pytest.approx(500, abs=100)
        assert uniform(0, "click", "r1") == uniform(0, "click", "r1") != uniform(1, "click", "r1")


class TestConfig:
    @pytest.mark.parametrize("name", WORLDS)
    def test_named_worlds_are_built_and_asked(self, name: str) -> None:
        world = World(WORLDS[name](), seed=0)
        visit = Traffic(world).next(0)
        truth = world.click_probability(visit.user, visit.items, np.arange(len(visit.items)), 0)
        assert np.all((truth > 0) & (truth < 1))

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"users": 0}, "users must be >= 1, got 0"),
            ({"items": 10}, "items >= campaigns >= advertisers"),
            ({"candidates_median": 10}, "candidates_min <= candidates_median"),
            ({"duplicate_share": 1.0}, r"duplicate_share is a share and must be in \[0, 1\), got 1.0"),
            ({"trend_tau_s": 0.0}, "trend_tau_s must be > 0 seconds"),
            ({"flight_share": 0.0}, r"flight_share must be in \(0, 1\]"),
            ({"life_s": -1.0}, "life_s must be >= 0 seconds, got -1.0"),
            ({"alive_share": 0.0}, r"alive_share must be in \(0, 1\], got 0.0"),
            ({"life_s": 60.0}, r"items \* alive_share must be >= 4 \* candidates_min, got 300 \* 0.1 and 20"),
        ],
    )
    def test_a_wrong_world_is_refused(self, wrong: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            WorldConfig(**wrong)


class TestRichWorld:
    def test_passions_are_rare_strong_and_in_the_click_logits(self) -> None:
        flat = replace(rich(), theme_interest=0.0)
        with_them, without = World(rich(), seed=1), World(flat, seed=1)
        items = np.arange(rich().items)
        gains = np.stack([with_them.click_logit(u, items, 0) - without.click_logit(u, items, 0) for u in range(400)])
        share = rich().theme_share
        high, low = np.sqrt((1 - share) / share), -np.sqrt(share / (1 - share))
        assert np.allclose(np.where(gains > 0, gains - high, gains - low), 0, atol=1e-9)
        assert (gains > 0).mean() == pytest.approx(share, abs=0.01)
        by_theme = gains[0][np.argsort(with_them.item_theme, kind="stable")].reshape(rich().themes, -1)
        np.testing.assert_allclose(by_theme, by_theme[:, :1].repeat(by_theme.shape[1], axis=1))

    def test_a_theme_is_of_one_topic_and_says_so(self) -> None:
        world = World(rich(), seed=2)
        pairs = {(f["theme"], f["category"]) for f in map(world.item_features, range(rich().items))}
        assert len(pairs) == len({theme for theme, _ in pairs}) == rich().themes

    def test_crosses_are_of_three_features_together(self) -> None:
        plain = replace(rich(), theme_interest=0.0, price_taste=0.0, context=0.0)
        crossed, flat = World(plain, seed=3), World(replace(plain, cross=0.0), seed=3)
        items = np.arange(plain.items)

        def cross(user: int, device: str) -> npt.NDArray[np.float64]:
            return crossed.click_logit(user, items, 0, device=device) - flat.click_logit(user, items, 0, device=device)

        same = np.flatnonzero(crossed.user_segment == crossed.user_segment[0])
        other = int(np.flatnonzero(crossed.user_segment != crossed.user_segment[0])[0])
        np.testing.assert_allclose(cross(0, "phone"), cross(int(same[1]), "phone"), atol=1e-12)
        changed = cross(0, "phone") - cross(0, "desktop")
        assert np.abs(changed).max() > 0.1
        assert np.abs(changed - (cross(other, "phone") - cross(other, "desktop"))).max() > 0.1

    def test_an_ad_just_seen_loses_and_recovers(self) -> None:
        world = World(rich(), seed=4)
        items = np.arange(3)
        fresh = world.click_logit(0, items, 0)
        tired = world.click_logit(0, items, 0, idle_s=np.array([0.0, rich().fatigue_tau_s, np.inf]))
        np.testing.assert_allclose(fresh - tired, rich().fatigue * np.array([1.0, np.exp(-1), 0.0]))

    @pytest.mark.parametrize("make", [demo, rich])
    def test_many_pairs_at_once_are_as_each_alone(self, make: Callable[[], WorldConfig]) -> None:
        world = World(make(), seed=5)
        rng = np.random.default_rng(6)
        user, item = rng.integers(0, 50, 20), rng.integers(0, 50, 20)
        at_ms = rng.integers(0, 50 * HOUR_MS, 20)
        surface, device = rng.integers(0, len(SURFACES), 20), rng.integers(0, len(DEVICES), 20)
        alone = [
            world.click_logit(int(u), np.array([i]), int(t), surface=SURFACES[s], device=DEVICES[d])[0]
            for u, i, t, s, d in zip(user, item, at_ms, surface, device, strict=True)
        ]
        np.testing.assert_allclose(world.click_logit(user, item, at_ms, surface=surface, device=device), alone)

    def test_themes_are_dealt_out_evenly_over_topics(self) -> None:
        with pytest.raises(ValueError, match="multiple of the 8 topics"):
            replace(rich(), themes=50)


class TestCatalogue:
    def test_items_come_live_once_and_leave_and_others_take_their_place(self) -> None:
        world, life_ms = World(catalogue(), seed=1, start_ms=7 * HOUR_MS), round(1000 * catalogue().life_s)
        moments = world.start_ms + np.arange(0, 10 * life_ms, life_ms // 50)
        alive = np.stack([world.alive(int(now_ms)) for now_ms in moments])
        assert alive.any(axis=0).all()  # 10 lives of a tenth of the items each: all had their turn
        assert 370 < alive.sum(axis=1).min() <= alive.sum(axis=1).max() < 430
        turns = (alive & ~np.roll(alive, 1, axis=0)).sum(axis=0)
        assert set(turns.tolist()) == {1}
        lived = alive.sum(axis=0) / 50
        assert lived.mean() == pytest.approx(1.0, abs=0.02)
        assert 0.45 < lived.min() < 0.6 < 1.4 < lived.max() < 1.55
        np.testing.assert_array_equal(world.alive(world.start_ms), world.alive(world.start_ms + 10 * life_ms))

    def test_who_is_alive_depends_on_nothing_that_was_asked_before(self) -> None:
        busy, fresh = World(catalogue(), seed=2), World(catalogue(), seed=2)
        asked = [busy.alive(HOUR_MS * n) for n in (90, 0, 40)]
        np.testing.assert_array_equal(asked[2], fresh.alive(40 * HOUR_MS))
        items, at_ms = np.arange(100, 200), HOUR_MS * np.arange(100)
        one_by_one = [fresh.alive(int(ms))[i] for i, ms in zip(items.tolist(), at_ms, strict=True)]
        np.testing.assert_array_equal(busy.alive_of(items, at_ms), one_by_one)
        assert not np.array_equal(asked[0], World(catalogue(), seed=3).alive(90 * HOUR_MS))

    def test_in_other_worlds_all_items_always_are(self) -> None:
        assert World(rich(), seed=1).alive(10**12).all()

    def test_only_what_is_alive_competes(self) -> None:
        world = World(catalogue(), seed=3)
        traffic, met = Traffic(world), set[int]()
        for now_ms in range(0, 400 * HOUR_MS, HOUR_MS):
            items = traffic.next(now_ms).items
            assert len(items) >= world.config.candidates_min
            assert world.alive(now_ms)[items].all()
            met.update(items.tolist())
        assert len(met) > 1_500  # of ten lives of 400

    def test_a_few_items_are_always_there_even_when_all_campaigns_pause(self) -> None:
        few = replace(catalogue(), items=40, campaigns=2, advertisers=1, candidates_min=1, flight_share=0.05)
        world = World(few, seed=4)
        traffic = Traffic(world)
        for now_ms in range(0, 200 * HOUR_MS, HOUR_MS):
            items = traffic.next(now_ms).items
            assert len(items)
            assert world.alive(now_ms)[items].all()


class TestOldWorlds:
    @pytest.mark.parametrize(
        ("name", "digest"),
        [
            ("demo", "22b51d652c707bed"),
            ("steady", "a95033da7898ffa9"),
            ("large", "e1295cb3bea726c6"),
            ("rich", "d114df98fe2bf009"),
        ],
    )
    def test_their_visits_stay_as_they_were(self, name: str, digest: str) -> None:
        traffic, found = Traffic(World(WORLDS[name](), seed=0)), hashlib.blake2b(digest_size=8)
        for n in range(50):
            v = traffic.next(1_000 * n)
            found.update(repr((v.number, v.user, v.surface, v.device, v.search, v.items.tolist())).encode())
        assert found.hexdigest() == digest
