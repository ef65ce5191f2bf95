"""Updates, images, snapshots and the engine together: what every replica must agree on."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.linear_compress import bind
from ranker.config import ModelConfig
from ranker.engine import Engine, NotReady
from ranker.learning.learner import Learner
from ranker.learning.state import restore, training_state
from ranker.recipes import demo_model
from ranker.snapshots.retention import Retention
from ranker.snapshots.snapshot import SnapshotError, list_snapshots, load_image, load_training_state, write_snapshot
from ranker.updates.changes import Changes
from ranker.updates.encoding import Encoded
from ranker.updates.image import Image, NotApplicable, new_image
from ranker.updates.log import Dirty, UpdateFollower
from ranker.updates.record import Open, Update, decode_record, encode_open, encode_update
from tests.ranker.samples import COMPRESS, at, labelled, request, tiny_learner, tiny_model, traffic, update_of

SMALL = tiny_model(rows=12)
"""So few rows that keys are evicted all the time."""


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def opened(config: ModelConfig, epoch: int = 1, base: tuple[int, int] | None = None) -> bytes:
    return encode_open(Open(epoch=epoch, digest=config.digest, trainer="t", created_ms=0, base=base))


def catch_up(target: Engine | Image, follower: UpdateFollower, log: list[bytes], first_offset: int = 0) -> None:
    for offset, data in enumerate(log[first_offset:], first_offset):
        update = follower.feed(data, offset)
        if update is not None:
            assert follower.position is not None
            target.apply(update, follower.position)
    assert follower.fault is None


def published(learner: Learner, batches: int, *, seed: int = 0, epoch: int = 1, first: int = 1) -> list[bytes]:
    """The records of one update a batch, small enough that most are cut."""
    log = []
    for number, examples in enumerate(traffic(seed, batches), first):
        assert learner.learn(examples).applied
        log += encode_update(update_of(learner, number, epoch), max_bytes=20_000)
    return log


def test_old_replica_fresh_replica_and_trainers_image_are_equal_bit_for_bit() -> None:
    learner = tiny_learner(SMALL)
    image, old = new_image(SMALL, COMPRESS), Engine(SMALL, COMPRESS)
    old_follower = UpdateFollower(SMALL.digest)
    log, evicted = [opened(SMALL)], 0
    catch_up(old, old_follower, log)
    for number, examples in enumerate(traffic(0, 60), 1):
        evicted += learner.learn(examples).evicted
        update = update_of(learner, number)
        read = len(log)
        log += encode_update(update, max_bytes=20_000)
        image.apply(update, at(number))
        catch_up(old, old_follower, log, read)
        assert equal(old.image.tensors(), image.tensors())
    assert evicted > 100
    fresh = Engine(SMALL, COMPRESS)
    catch_up(fresh, UpdateFollower(SMALL.digest), log)
    assert equal(fresh.image.tensors(), old.image.tensors())
    probe = [request("u1", ["i1", "i2", "i3"], log=["i4"])]
    for tier in ("light", "heavy"):
        assert fresh.score(tier, probe)[0].pctr.tobytes() == old.score(tier, probe)[0].pctr.tobytes()
    assert (old.position, old.watermark_ms, old.image.offsets) == (
        fresh.position,
        image.watermark_ms,
        {"0": 600},
    )


def test_the_wire_loses_only_precision() -> None:
    learner = tiny_learner(tiny_model())
    image = new_image(learner.config, COMPRESS)
    for number, examples in enumerate(traffic(0, 20), 1):
        learner.learn(examples)
        image.apply(update_of(learner, number), at(number))
    for name, weights in learner.tables.weights.items():
        keys, rows = learner.tables.key_maps[name].items()
        assert [a.tolist() for a in image.tables.key_maps[name].items()] == [keys.tolist(), rows.tolist()]
        torch.testing.assert_close(image.tables.weights[name][rows], weights[rows], rtol=2**-8, atol=1e-6)
        tail = learner.tables.key_maps[name].num_rows
        torch.testing.assert_close(image.tables.weights[name][tail:], weights[tail:], rtol=2**-8, atol=1e-6)
    for name, parameter in learner.parameters.items():
        torch.testing.assert_close(image.dense[name], parameter.detach(), rtol=2**-8, atol=1e-6)


def test_updates_are_applied_in_place_and_twice_is_harmless() -> None:
    learner, engine = tiny_learner(SMALL), Engine(SMALL, COMPRESS)
    addresses = {name: t.data_ptr() for name, t in (engine.image.dense | engine.image.tables.weights).items()}
    for number, examples in enumerate(traffic(0, 10), 1):
        learner.learn(examples)
        update = update_of(learner, number)
        engine.apply(update, at(number))
        once = {name: t.clone() for name, t in engine.image.tensors().items()}
        engine.apply(update, at(number))
        assert equal(engine.image.tensors(), once)
    assert {n: t.data_ptr() for n, t in (engine.image.dense | engine.image.tables.weights).items()} == addresses


def test_a_new_epoch_from_an_older_snapshot_reaches_every_replica(tmp_path: Path) -> None:
    """A trainer dies with updates in the log that its last snapshot lacks; its successor learns something else."""
    first, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
    log = [opened(SMALL), *published(first, 10)]
    follower = UpdateFollower(SMALL.digest)
    catch_up(image, follower, log)
    write_snapshot(str(tmp_path), image, training_state(first), digest=SMALL.digest, created_ms=0)
    log += published(first, 10, seed=1, first=11)
    old = Engine(SMALL, COMPRESS)
    old_follower = UpdateFollower(SMALL.digest)
    catch_up(old, old_follower, log)

    (snapshot,) = list_snapshots(str(tmp_path), SMALL.digest)
    second = tiny_learner(SMALL)
    restore(second, load_training_state(snapshot))
    dirty, own = Dirty(), new_image(SMALL, COMPRESS)
    load_image(snapshot, own)
    read = len(log)
    for data in log[snapshot.manifest.position.offset :]:
        dirty.add(decode_record(data))
    second.mark_dirty(dirty)
    log.append(opened(SMALL, epoch=2, base=(1, 10)))
    for number, examples in enumerate(traffic(2, 5), 1):
        second.learn(examples)
        update = update_of(second, number, epoch=2)
        update = Update(msgspec.structs.replace(update.header, reset=False), update.changes)
        own.apply(update, at(number, epoch=2))
        log += encode_update(update)
    catch_up(old, old_follower, log, read)
    newcomer = Engine(SMALL, COMPRESS)
    load_image(snapshot, newcomer.image)
    catch_up(newcomer, UpdateFollower(SMALL.digest, newcomer.position), log, snapshot.manifest.position.offset)
    assert equal(old.image.tensors(), own.tensors())
    assert equal(newcomer.image.tensors(), own.tensors())


def test_a_new_model_in_a_new_epoch_leaves_nothing_of_the_old() -> None:
    old, log = Engine(SMALL, COMPRESS), [opened(SMALL), *published(tiny_learner(SMALL), 10)]
    log += [opened(SMALL, epoch=2), *published(tiny_learner(SMALL), 3, seed=5, epoch=2)]
    catch_up(old, UpdateFollower(SMALL.digest), log)
    fresh = Engine(SMALL, COMPRESS)
    learner = tiny_learner(SMALL)
    catch_up(fresh, UpdateFollower(SMALL.digest), [opened(SMALL, epoch=2), *published(learner, 3, seed=5, epoch=2)])
    assert equal(old.image.tensors(), fresh.image.tensors())


class TestSnapshots:
    def test_an_image_comes_back_bit_for_bit_and_goes_on(self, tmp_path: Path) -> None:
        learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
        log = [opened(SMALL), *published(learner, 10)]
        follower = UpdateFollower(SMALL.digest)
        catch_up(image, follower, log)
        state = training_state(learner)
        written = write_snapshot(str(tmp_path), image, state, digest=SMALL.digest, created_ms=7)
        (listed,) = list_snapshots(str(tmp_path), SMALL.digest)
        assert listed == written
        assert listed.manifest.position == follower.position
        assert listed.manifest.offsets == {"0": 100}
        engine = Engine(SMALL, COMPRESS)
        load_image(listed, engine.image)
        assert equal(engine.image.tensors(), image.tensors())
        assert (engine.position, engine.watermark_ms) == (image.position, image.watermark_ms)
        assert equal(load_training_state(listed), state)
        log += published(learner, 5, seed=3, first=11)
        catch_up(engine, UpdateFollower(SMALL.digest, engine.position), log, listed.manifest.position.offset)
        catch_up(image, follower, log, listed.manifest.position.offset)
        assert equal(engine.image.tensors(), image.tensors())

    def test_only_whole_ones_of_this_model_exist_and_the_newest_are_kept(self, tmp_path: Path) -> None:
        root = f"file://{tmp_path}/deep/down"
        assert list_snapshots(root, SMALL.digest) == []
        learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
        for number, examples in enumerate(traffic(0, 5), 1):
            learner.learn(examples)
            image.apply(update_of(learner, number), at(number))
            write_snapshot(
                root, image, training_state(learner), digest=SMALL.digest, created_ms=0, keep=Retention(newest=2)
            )
        assert [s.manifest.position.number for s in list_snapshots(root, SMALL.digest)] == [4, 5]
        assert len(list((tmp_path / "deep/down").iterdir())) == 2
        assert list_snapshots(root, "other") == []
        newest = max((tmp_path / "deep/down").iterdir())
        (newest / "manifest.json").rename(newest / "manifest.json.half")
        assert [s.manifest.position.number for s in list_snapshots(root, SMALL.digest)] == [4]

    def test_what_was_changed_or_lost_is_noticed(self, tmp_path: Path) -> None:
        learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
        learner.learn(traffic(0, 1)[0])
        image.apply(update_of(learner, 1), at(1))
        snapshot = write_snapshot(str(tmp_path), image, training_state(learner), digest=SMALL.digest, created_ms=0)
        (shard,) = tmp_path.glob("*/image-*.safetensors")
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
        with pytest.raises(SnapshotError, match="not what was written"):
            load_image(snapshot, new_image(SMALL, COMPRESS))
        shard.unlink()
        with pytest.raises(SnapshotError, match="lacks image"):
            load_image(snapshot, new_image(SMALL, COMPRESS))

    def test_large_parts_are_cut_into_shards(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ranker.snapshots.shards.MAX_SHARD_BYTES", 4_000)
        learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
        learner.learn(traffic(0, 1)[0])
        image.apply(update_of(learner, 1), at(1))
        snapshot = write_snapshot(str(tmp_path), image, training_state(learner), digest=SMALL.digest, created_ms=0)
        assert len(snapshot.manifest.parts["image"]) > 2
        loaded = new_image(SMALL, COMPRESS)
        load_image(snapshot, loaded)
        assert equal(loaded.tensors(), image.tensors())

    def test_another_store_than_files(self) -> None:
        learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
        learner.learn(traffic(0, 1)[0])
        image.apply(update_of(learner, 1), at(1))
        write_snapshot("memory://snapshots", image, training_state(learner), digest=SMALL.digest, created_ms=0)
        (snapshot,) = list_snapshots("memory://snapshots", SMALL.digest)
        loaded = new_image(SMALL, COMPRESS)
        load_image(snapshot, loaded)
        assert equal(loaded.tensors(), image.tensors())

    def test_an_image_without_a_position_is_no_snapshot(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="position"):
            write_snapshot(str(tmp_path), new_image(SMALL, COMPRESS), {}, digest=SMALL.digest, created_ms=0)

    def test_manifests_never_change_their_form(self, tmp_path: Path) -> None:
        learner, image = tiny_learner(SMALL), new_image(SMALL, COMPRESS)
        learner.learn(traffic(0, 1)[0])
        image.apply(update_of(learner, 1), at(1))
        write_snapshot(str(tmp_path), image, training_state(learner), digest=SMALL.digest, created_ms=3)
        (path,) = tmp_path.glob("e00000001-n000000000001/manifest.json")
        manifest = json.loads(path.read_text())
        parts = manifest.pop("parts")
        assert manifest == {
            "format": 1,
            "digest": SMALL.digest,
            "position": {"epoch": 1, "number": 1, "trainer": "t", "offset": 1},
            "offsets": {"0": 10},
            "watermark_ms": image.watermark_ms,
            "created_ms": 3,
            "gate_closed": False,
        }
        assert {name: [sorted(s) for s in shards] for name, shards in parts.items()} == {
            "image": [["blake2b", "file", "size"]],
            "training": [["blake2b", "file", "size"]],
        }


class TestEngine:
    @pytest.fixture
    def engine(self) -> Engine:
        learner, engine = tiny_learner(tiny_model()), Engine(tiny_model(), COMPRESS)
        for number, examples in enumerate(traffic(0, 10), 1):
            learner.learn(examples)
            engine.apply(update_of(learner, number), at(number))
        return engine

    def test_it_does_not_score_without_weights(self) -> None:
        engine = Engine(SMALL, COMPRESS)
        engine.warm_up()
        with pytest.raises(NotReady):
            engine.score("light", [request()])

    def test_a_score_does_not_depend_on_what_was_sent_with_it(self, engine: Engine) -> None:
        first, second = request("u1", ["i1", "i2", "i3"], log=["i4", "i5"]), request("u2", ["i1"], log=[])
        for tier in ("light", "heavy"):
            together = engine.score(tier, [first, request("u9", []), second])
            assert [len(s.pctr) for s in together] == [3, 0, 1]
            for i in range(3):
                (alone,) = engine.score(tier, [first.subset([i])])
                np.testing.assert_allclose(alone.pctr[0], together[0].pctr[i], rtol=1e-5)
                np.testing.assert_allclose(alone.pcvr[0], together[0].pcvr[i], rtol=1e-5)
            np.testing.assert_allclose(engine.score(tier, [second])[0].pctr, together[2].pctr, rtol=1e-5)

    def test_scores_are_probabilities_in_float32_and_tell_candidates_apart(self, engine: Engine) -> None:
        (scores,) = engine.score("light", [request("u1", [f"i{k}" for k in range(30)])])
        assert scores.pctr.dtype == scores.pcvr.dtype == np.float32
        assert 0 < scores.pctr.min() < scores.pctr.max() < 1
        assert len(set(scores.pctr.tolist())) > 20

    def test_nothing_to_score(self, engine: Engine) -> None:
        assert engine.score("light", []) == []
        assert engine.score("light", [request(items=[])])[0].pctr.shape == (0,)

    def test_an_unknown_tier_is_named(self, engine: Engine) -> None:
        with pytest.raises(ValueError, match="no tier 'huge'"):
            engine.score("huge", [request()])

    @pytest.mark.parametrize("what", ["digest", "tier", "shape", "nan", "table", "row", "tail", "held"])
    def test_an_update_that_does_not_fit_changes_nothing(self, engine: Engine, what: str) -> None:
        learner = tiny_learner(tiny_model())
        learner.learn([labelled(0, request("stranger", ["strange"]), [1])])
        update = update_of(learner, 1)
        header, changes = msgspec.structs.replace(update.header, number=11, previous=10, reset=False), update.changes
        items = changes.tables["items"]
        if what == "digest":
            header = msgspec.structs.replace(header, digest="0" * 16)
        elif what == "tier":
            changes = Changes(changes.tables, {"huge/w": Encoded(torch.zeros(1))})
        elif what == "shape":
            changes = Changes(changes.tables, {"light/heads.out_bias": Encoded(torch.zeros(3))})
        elif what == "nan":
            items.values_KD.data[0, 0] = torch.nan
        elif what == "table":
            changes = Changes({"strange": items}, {})
        elif what == "row":
            items.rows_K[0] = 256
        elif what == "tail":
            items.tails_W[0] = 8
        else:
            assert engine.image.tables.key_maps["items"].has_key(items.rows_K).all()  # by another key
        before = {name: t.clone() for name, t in engine.image.tensors().items()}
        with pytest.raises(NotApplicable):
            engine.apply(Update(header, changes), at(11))
        assert equal(engine.image.tensors(), before)
        assert engine.position == at(10)

    def test_the_first_update_must_be_a_whole_model(self) -> None:
        learner, engine = tiny_learner(SMALL), Engine(SMALL, COMPRESS)
        learner.learn(traffic(0, 1)[0])
        update = update_of(learner, 1)
        with pytest.raises(NotApplicable, match="load an image first"):
            engine.apply(Update(msgspec.structs.replace(update.header, reset=False), update.changes), at(1))
        with pytest.raises(NotApplicable, match="lacks"):
            engine.apply(Update(update.header, Changes(update.changes.tables, {})), at(1))

    def test_serving_needs_no_torchrec(self) -> None:
        code = "import sys, ranker.engine, ranker.snapshots.snapshot; sys.exit(int('torchrec' in sys.modules))"
        assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0

    def test_ids_and_configurations_need_no_torch(self) -> None:
        modules = "ranker.inputs.hashing, ranker.recipes, ranker.inputs.requests"
        code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_an_update_of_the_demo_stays_in_one_record() -> None:
    learner = Learner(demo_model(), tiny_learner(SMALL)._settings, COMPRESS)
    for examples in traffic(0, 5, items=500, users=100):
        learner.learn(examples)
    (record,) = encode_update(update_of(learner, 1))
    assert len(record) < 450_000


@pytest.mark.gpu
def test_a_gpu_scores_as_the_cpu_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    learner, config = tiny_learner(tiny_model()), tiny_model()
    there, here = Engine(config, bind("triton"), torch.device("cuda")), Engine(config, COMPRESS)
    for number, examples in enumerate(traffic(0, 3), 1):
        learner.learn(examples)
        update = update_of(learner, number)
        there.apply(update, at(number))
        here.apply(update, at(number))
    assert equal(there.image.tensors(), here.image.tensors())
    for tier in ("light", "heavy"):
        asked = [request("u1", ["i1", "i2"], log=["i3"])]
        (on_gpu,), (on_cpu,) = there.score(tier, asked), here.score(tier, asked)
        np.testing.assert_allclose(on_gpu.pctr, on_cpu.pctr, rtol=1e-4)
        np.testing.assert_allclose(on_gpu.pcvr, on_cpu.pcvr, rtol=1e-4)
