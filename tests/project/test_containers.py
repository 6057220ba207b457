"""The compose file and the Dockerfiles keep what they promise; `make e2e-containers` runs them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import goes_red

from fedmed.site.compose import compose

ROOT = Path(__file__).resolve().parents[2]
HOSPITALS = ("north", "south", "west")


def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def places(service: dict[str, Any]) -> dict[str, str]:
    """Place in the container -> how it is mounted."""
    parts = [volume.split(":") for volume in service["volumes"]]
    return {part[1]: (part[2] if len(part) > 2 else "rw") for part in parts}


def closed(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service["user"].startswith("0")


def apart(node: dict[str, Any], guard: dict[str, Any]) -> None:
    """The app from outside reaches neither data, ledger, policy, nor another user's process."""
    assert set(places(node)) == {
        "/site/connection.toml", "/site/ca.crt", "/site/keys/node", "/site/run"
    }  # fmt: skip
    assert guard["network_mode"] == "none"
    assert node["user"].partition(":")[0] != guard["user"].partition(":")[0]
    assert places(guard)["/site/data"] == "ro"
    assert places(guard)["/site/policy.toml"] == "ro"
    assert not any("keys" in place for place in places(guard))


def test_every_container_is_closed() -> None:
    assert len(services()) == 8
    for service in services().values():
        closed(service)
        goes_red(closed, service | {"cap_add": ["SYS_ADMIN"]})
        goes_red(closed, service | {"read_only": False})


def limited(found: dict[str, Any]) -> None:
    for name, service in found.items():
        assert re.fullmatch(r"\$\{FEDMED_\w+_MEMORY:-\d+g\}", str(service["mem_limit"])), name


def test_no_container_takes_all_memory_of_the_machine() -> None:
    """Whatever comes from outside: also in the file that a hospital's site init writes."""
    limited(services())
    limited(yaml.safe_load(compose("a b", []))["services"])
    goes_red(limited, {**services(), "server": {"mem_limit": None}})


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_a_node_is_apart_from_its_guard(hospital: str) -> None:
    node, guard = services()[hospital], services()[f"{hospital}-guard"]
    apart(node, guard)
    goes_red(apart, node | {"volumes": [*node["volumes"], "./trial/x:/site/state"]}, guard)
    mine = [v for v in node["volumes"] + guard["volumes"] if f"./trial/{hospital}/" not in v]
    assert not mine  # no hospital sees another's files


@pytest.mark.parametrize("name", ["clients/Dockerfile", "server/Dockerfile"])
def test_images_are_pinned_and_run_as_nobody_special(name: str) -> None:
    text = (ROOT / name).read_text()
    base = re.search(r"^ARG BASE=(\S+)$", text, re.MULTILINE)
    assert base
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base[1])
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    users = re.findall(r"^USER (\d+):\d+$", text, re.MULTILINE)
    assert users
    assert int(users[-1]) >= 10000
    assert "HEALTHCHECK" in text
    told = re.search(r"^ARG TORCH=(\S+)$", text, re.MULTILINE)
    assert told
    assert f'"torch=={told[1]}"' in (ROOT / "pyproject.toml").read_text()


def test_nothing_that_is_shipped_turns_tls_off_or_names_an_index() -> None:
    paths = [ROOT / "compose.yaml", ROOT / "Makefile", *(ROOT / "containers").iterdir()]
    paths += [ROOT / "clients/Dockerfile", ROOT / "server/Dockerfile", ROOT / ".dockerignore"]
    paths += [*ROOT.glob("fedmed/site/*.py")]
    for path in paths:
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert "--insecure" not in text, path
            elsewhere = [u for u in re.findall(r"https?://[\w.:]+", text) if "127.0.0.1" not in u]
            assert not elsewhere, (path, elsewhere)
    server = (ROOT / "server/Dockerfile").read_text()
    for option in ("--ssl-certfile", "--ssl-keyfile", "--enable-supernode-auth"):
        assert option in server
