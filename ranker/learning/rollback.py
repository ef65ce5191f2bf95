"""Going back: which snapshots are void, and the learner and the image as they were at one that is good."""

import logging

from fsspec.core import url_to_fs

from ranker.learning.learner import Learner
from ranker.learning.state import restore
from ranker.snapshots.snapshot import MANIFEST, Snapshot, list_snapshots, load_image, load_training_state
from ranker.updates.image import Image
from ranker.updates.log import Position

log = logging.getLogger(__name__)

VOID = "manifest.void.json"
"""What the manifest of a snapshot that was gone back from is called: it can be looked at, and is never loaded."""


def go_back(snapshot: Snapshot, learner: Learner, image: Image) -> None:
    """Both as they were there. Raises SnapshotError, with the learner unchanged, if it cannot be read."""
    state = load_training_state(snapshot)
    load_image(snapshot, image)
    restore(learner, state)


def void_after(root: str, digest: str, position: Position) -> list[Snapshot]:
    """Those newer than `position` are no snapshots any more; returns them."""
    newer = [s for s in list_snapshots(root, digest) if s.manifest.position.place > position.place]
    for snapshot in newer:
        fs, path = url_to_fs(snapshot.url)
        fs.mv(f"{path}/{MANIFEST}", f"{path}/{VOID}")
        log.warning("snapshot %s is void", snapshot.url)
    return newer
