"""What a process needs to know to run: where things are, and the recipe. From the environment and the command line."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from streams.config.load import load_recipe
from streams.config.recipe import Recipe
from streams.errors import StartError
from streams.kafka.connection import BOOTSTRAP as BOOTSTRAP  # with the other names of the environment
from streams.kafka.connection import Kafka

REDIS_URL = "TIDERANK_REDIS_URL"
DATA = "TIDERANK_DATA"
RECIPE = "TIDERANK_RECIPE"
SNAPSHOTS = "TIDERANK_SNAPSHOTS"
SNAPSHOT_STREAMS = "TIDERANK_SNAPSHOT_STREAMS"
SNAPSHOT_CACHE = "TIDERANK_SNAPSHOT_CACHE"
SNAPSHOT_CACHE_SHARED = "TIDERANK_SNAPSHOT_CACHE_SHARED"
SNAPSHOT_CACHE_BYTES = "TIDERANK_SNAPSHOT_CACHE_BYTES"
INSTANCE = "TIDERANK_INSTANCE"
NEW_MODEL = "TIDERANK_NEW_MODEL"
COMPILED = "TIDERANK_COMPILED"


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    bootstrap: str
    redis_url: str
    recipe: Recipe
    snapshots: str
    """Where snapshots are: a folder or any fsspec URL."""
    instance: str
    """Name of this process in its group: the same one after a restart."""
    new_model: bool = False
    """Train may begin anew where the log tells of a trained model, and no snapshot is found."""

    @property
    def kafka(self) -> Kafka:
        return Kafka.from_environment(self.bootstrap)


def data_dir() -> Path:
    return Path(os.environ.get(DATA, ".data"))


def compiled_folder() -> Path:
    """Where compiled graphs are: at TIDERANK_COMPILED, or else in the user's cache. They are code that is run, so not
    beside the snapshots, which others may write."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(COMPILED) or Path(cache) / "tiderank" / "compiled")


def snapshots_url() -> str:
    """Where snapshots are: at TIDERANK_SNAPSHOTS, or else in the data folder. Raises StartError, as snapshot_store."""
    return snapshot_store(os.environ.get(SNAPSHOTS) or str(data_dir() / "snapshots"))


def from_environment(*, recipe: str | None = None, instance: str | None = None) -> Settings:
    """Reads the settings from the environment. Raises StartError naming the variable that is missing."""
    return Settings(
        bootstrap=required(BOOTSTRAP, "the broker's host:port"),
        redis_url=required(REDIS_URL, "redis://host:port/0"),
        recipe=named_recipe(recipe),
        snapshots=snapshots_url(),
        instance=instance or os.environ.get(INSTANCE) or socket.gethostname(),
        new_model=os.environ.get(NEW_MODEL) == "1",
    )


def named_recipe(name: str | None) -> Recipe:
    """The recipe of that name or file, else of TIDERANK_RECIPE, else the default one. Raises StartError."""
    return load_recipe(recipe_name(name))


def recipe_name(name: str | None) -> str:
    """That name or path, else that of TIDERANK_RECIPE, else the default recipe's."""
    return name or os.environ.get(RECIPE, "default")


def snapshot_store(url: str) -> str:
    """Returns `url` unchanged once fsspec can open it. Raises StartError for a URL of a kind that fsspec does not know,
    or whose package is missing."""
    if "://" in url:
        from fsspec.core import url_to_fs

        try:
            url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StartError(f"snapshots at {url} are out of reach: {error}; or name a folder") from error
    return url


def required(name: str, what: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise StartError(
            f"{name} must be set ({what}); start `tiderank up --workers` and paste the export line that it prints"
        )
    return value
