"""``python -m fedmed.site.health SOCKET``: exit code 0 where the guard there could answer, else 1.

For health checks of containers: it asks the guard itself, and loads nothing that takes long.
"""

import sys

from fedmed.base.terminal import say
from fedmed.site.wire import BadFrame, exchange

SECONDS = 5.0


def main() -> int:
    """Ask, and say in one line what was heard."""
    if len(sys.argv) != 2:
        say("error: give the guard's socket: python -m fedmed.site.health SOCKET")
        return 2
    try:
        status, _ = exchange(sys.argv[1], {"kind": "status"}, seconds=SECONDS)
    except (OSError, BadFrame) as error:
        say(f"no guard answers on {sys.argv[1]}: {error}")
        return 1
    if "error" in status:
        say(f"the guard cannot answer ({status['error']}); its own log says why")
        return 1
    say(f"ready: {status.get('hospital')}, fedmed {status.get('version')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
