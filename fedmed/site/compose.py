"""The compose file of one hospital: the guard and the SuperNode, apart from each other."""

import json
from pathlib import Path
from typing import Final

NODE: Final = 10001
"""User id of the SuperNode's container; see clients/Dockerfile."""
GUARD: Final = 10002
"""User id of the guard's."""
GROUP: Final = 10000
"""Group of both: the socket's."""

_TEMPLATE: Final = """\
# One hospital. What came from outside runs in `node`, which sees the socket, the key of the
# connection and the CA's certificate. Data, ledger and policy are in `guard`, which has no network.
name: {project}

x-closed: &closed
  image: ${{FEDMED_CLIENT:-localhost/fedmed-client}}
  read_only: true
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  tmpfs: ["/tmp:mode=1777"]
  restart: unless-stopped
  logging: {{driver: json-file, options: {{max-size: 10m, max-file: "5"}}}}

services:
  guard:
    <<: *closed
    user: "{guard}:{group}"
    network_mode: none
    mem_limit: ${{FEDMED_GUARD_MEMORY:-16g}}
    command: [fedmed, guard, /site/site.toml]
    volumes:
      - ./site.toml:/site/site.toml:ro
      - ./policy.toml:/site/policy.toml:ro
      - ./state:/site/state
      - ./run:/site/run
{data}
    healthcheck:
      test: [CMD, python, -m, fedmed.site.health, /site/run/guard.sock]
      interval: 5s
      start_period: 30s

  node:
    <<: *closed
    user: "{node}:{group}"
    command: [fedmed, site, join, /site/connection.toml, --guard, /site/run/guard.sock]
    depends_on:
      guard: {{condition: service_healthy}}
    pids_limit: 256
    mem_limit: ${{FEDMED_NODE_MEMORY:-4g}}
    volumes:
      - ./connection.toml:/site/connection.toml:ro
      - ./ca.crt:/site/ca.crt:ro
      - ./keys/node:/site/keys/node:ro
      - ./run:/site/run

  # docker compose run --rm doctor
  doctor:
    <<: *closed
    profiles: [tools]
    restart: "no"
    user: "0:0"
    cap_add: [DAC_OVERRIDE]  # files of both users
    mem_limit: ${{FEDMED_GUARD_MEMORY:-16g}}
    command: [fedmed, doctor, /site/site.toml]
    healthcheck: {{disable: true}}
    volumes:
      - .:/site
{data}
"""


def compose(name: str, paths: list[Path]) -> str:
    """Text of ``compose.yaml`` for the hospital ``name``, whose data lie at ``paths``."""
    project = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")
    return _TEMPLATE.format(
        project=f"fedmed-{project}" if project else "fedmed",
        guard=GUARD,
        node=NODE,
        group=GROUP,
        data="\n".join(f"      - {json.dumps(f'{path}:{path}:ro')}" for path in paths),
    )
