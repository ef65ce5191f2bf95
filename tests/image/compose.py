"""The compose file as a test needs it: the services that are built from our image, and what each is to be run with."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent.parent
COMPOSE = ROOT / "docker-compose.yml"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0}

__all__ = ["COMPOSE", "ROOT", "HealthCheck", "Service", "in_profile", "load", "our_services", "profiles", "seconds"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthCheck:
    command: tuple[str, ...]
    interval_s: float
    timeout_s: float
    retries: int
    start_period_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    user: str | None
    """None: the image's."""
    volumes: tuple[tuple[str, str], ...]
    """Names with the paths where they are mounted."""
    healthcheck: HealthCheck | None
    stop_signal: str | None
    """None: the image's, else SIGTERM."""
    stop_grace_s: float
    after_success_of: tuple[str, ...]
    """Services that must have ended with status 0 before this one starts."""
    one_off: bool
    """Ends by itself."""
    restarts: bool
    """Is started again whenever it ends unasked."""


def load(path: Path = COMPOSE) -> dict[str, Any]:
    """The parsed file, with the environment's values, or the defaults, in the place of `${NAME:-default}`."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: os.environ.get(found[1]) or found[2], path.read_text())
    if unknown := re.findall(r"(?<!\$)\$\{?\w+[^\s\"']*", text):
        raise ValueError(f"{path.name}: only ${{NAME:-default}} is understood here, got {', '.join(unknown)}")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def profiles(compose: Mapping[str, Any]) -> set[str]:
    return {profile for service in compose["services"].values() for profile in service.get("profiles", [])}


def in_profile(compose: Mapping[str, Any], profile: str) -> dict[str, dict[str, Any]]:
    """What `--profile` starts: the services of that profile, and those of none."""
    services = compose["services"].items()
    return {name: service for name, service in services if profile in service.get("profiles", [profile])}


def our_services(compose: Mapping[str, Any], profile: str) -> list[Service]:
    """Those of the profile that are built from this repository, in an order in which they can be started."""
    ours = [_service(name, raw) for name, raw in in_profile(compose, profile).items() if "build" in raw]
    return sorted(ours, key=lambda service: (len(service.after_success_of), service.name))


def _service(name: str, raw: Mapping[str, Any]) -> Service:
    depends = raw.get("depends_on", {})
    return Service(
        name=name,
        command=tuple(raw["command"]),
        environment={key: str(value) for key, value in raw["environment"].items()},
        user=raw.get("user"),
        volumes=tuple((source, target) for source, _, target in (v.partition(":") for v in raw.get("volumes", []))),
        healthcheck=_healthcheck(raw.get("healthcheck", {"disable": True})),
        stop_signal=raw.get("stop_signal"),
        stop_grace_s=seconds(raw.get("stop_grace_period", "10s")),
        after_success_of=tuple(n for n, d in depends.items() if d["condition"] == "service_completed_successfully"),
        one_off=raw.get("restart") in ("on-failure", "no"),
        restarts=raw.get("restart") in ("always", "unless-stopped"),
    )


def _healthcheck(raw: Mapping[str, Any]) -> HealthCheck | None:
    if raw.get("disable"):
        return None
    how, *command = raw["test"]
    if how != "CMD":
        raise ValueError(f"a health check is to be a list that begins with CMD, got {raw['test']}")
    return HealthCheck(
        command=tuple(command),
        interval_s=seconds(raw["interval"]),
        timeout_s=seconds(raw["timeout"]),
        retries=raw["retries"],
        start_period_s=seconds(raw["start_period"]),
    )


def seconds(duration: str) -> float:
    """Returns the seconds of a compose duration: 1m30s is 90."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    if "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"a duration is numbers with h, m, s or ms, got {duration!r}")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)
