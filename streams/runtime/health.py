"""Is the worker on this machine that serves metrics at this port alive? Exit 0 or 1.

    python -m streams.runtime.health PORT

For the health check of a container: needs no program beside Python, and imports nothing heavy.
"""

import sys
import urllib.error
import urllib.request

TIMEOUT_S = 3.0

__all__ = ["healthy"]


def healthy(port: int, host: str = "127.0.0.1") -> tuple[bool, str]:
    """Whether /healthz says so within a few seconds, and what it said."""
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/healthz", timeout=TIMEOUT_S) as reply:
            return True, reply.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            return False, error.read().decode(errors="replace").strip()
    except OSError as error:
        return False, str(error)


if __name__ == "__main__":
    well, said = healthy(int(sys.argv[1]))
    sys.stdout.write(f"{said}\n")
    sys.exit(not well)
