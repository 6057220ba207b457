"""What ``fedmed site init`` writes: keys that Flower reads, a policy, data, nothing overwritten."""

import stat
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from flwr.cli.supernode.register import try_load_public_key
from support import refuses

from fedmed.cli import commands as cli
from fedmed.privacy.ledger.policy import read_policy
from fedmed.site.connection import read_connection, read_key, split_address
from fedmed.site.file import read_site
from fedmed.site.init import Wish, app_hash, make_site, steps


@pytest.fixture
def wish(tmp_path: Path) -> Wish:
    table = tmp_path / "data" / "cohort.csv"
    table.parent.mkdir()
    table.write_text("image,label,patient_id\na.png,1,p1\n")
    return Wish(name="st-mary", server="fl.example.org:8000", data=table, public_size=500)


def test_flower_reads_the_key_pair(tmp_path: Path, wish: Wish) -> None:
    site = tmp_path / "site"
    public = make_site(site, wish)
    key = load_ssh_private_key((site / "keys" / "node").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    # Flower's own reader, as flwr supernode register calls it.
    try_load_public_key(site / "keys" / "node.pub")
    told = load_ssh_public_key(public.encode())
    assert isinstance(told, ec.EllipticCurvePublicKey)
    assert told.public_numbers() == key.public_key().public_numbers()
    assert read_key(site / "keys" / "node").private_numbers() == key.private_numbers()


def test_what_is_written_is_what_its_readers_take(tmp_path: Path, wish: Wish) -> None:
    site = tmp_path / "site"
    make_site(site, wish)
    file = read_site(site / "site.toml")
    assert (file.name, file.peers) == ("st-mary", (10001,))
    assert file.ledger == site / "state" / "ledger.sqlite"
    assert file.data["data.path"] == str(wish.data)
    assert file.data["data.images"] == str(wish.data.parent)
    assert file.data["data.split"] == "patient"  # the table has no such column
    policy = read_policy(file.policy)
    assert (policy.maximum_epsilon, policy.unit, policy.arms) == (8.0, "patient", ["dp-sgd"])
    assert (policy.minimum_cohort, policy.public_size) == (100, 500)
    connection = read_connection(site / "connection.toml")
    assert connection.address == "fl.example.org:8000"
    assert connection.key == site / "keys" / "node"
    assert stat.S_IMODE((site / "keys" / "node").stat().st_mode) == 0o600
    assert stat.S_IMODE((site / "state").stat().st_mode) == 0o700


def mounted(service: dict[str, object]) -> set[str]:
    volumes = service["volumes"]
    assert isinstance(volumes, list)
    return {str(volume).partition(":")[0] for volume in volumes}


def test_the_supernode_sees_neither_data_nor_ledger_and_the_guard_no_network(
    tmp_path: Path, wish: Wish
) -> None:
    make_site(tmp_path / "site", wish)
    content = yaml.safe_load((tmp_path / "site" / "compose.yaml").read_text())
    node, guard = content["services"]["node"], content["services"]["guard"]
    assert mounted(node) == {"./connection.toml", "./ca.crt", "./keys/node", "./run"}
    assert mounted(guard) == {
        "./site.toml", "./policy.toml", "./state", "./run", str(wish.data.parent)
    }  # fmt: skip
    assert guard["network_mode"] == "none"
    assert node["user"].partition(":")[0] != guard["user"].partition(":")[0]
    for service in (node, guard):
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    assert f"{wish.data.parent}:{wish.data.parent}:ro" in guard["volumes"]


def test_nothing_is_overwritten(tmp_path: Path, wish: Wish) -> None:
    site = tmp_path / "site"
    make_site(site, wish)
    before = (site / "keys" / "node").read_bytes()
    refuses(lambda: make_site(site, wish), "site.toml", "not overwritten")
    (site / "site.toml").unlink()
    refuses(lambda: make_site(site, wish), "policy.toml", "not overwritten")
    assert (site / "keys" / "node").read_bytes() == before


def test_a_wrong_wish_leaves_nothing_behind(tmp_path: Path, wish: Wish) -> None:
    from dataclasses import replace

    site = tmp_path / "site"
    for change, words in (
        ({"server": "https://fl.example.org"}, ("--server", "HOST:PORT")),
        ({"data": tmp_path / "none.csv"}, ("--data", "none.csv")),
        ({"images": tmp_path / "none"}, ("--images",)),
        ({"arms": ("dp-sdg",)}, (str(site), "did you mean 'dp-sgd'")),
        ({"unit": "person"}, (str(site), "unit")),
        ({"epsilon": -1.0}, ("maximum-epsilon",)),
        ({"name": ""}, ("name",)),
        ({"ca": tmp_path / "none.crt"}, ("--ca",)),
        ({"app": "abc"}, ("--app",)),
    ):
        refuses(lambda c=change: make_site(site, replace(wish, **c)), *words)  # type: ignore[misc]  # bound by default; mypy infers no type
        assert not site.exists(), change


def test_data_may_be_a_toml_of_keys(tmp_path: Path, wish: Wish) -> None:
    from dataclasses import replace

    mapping = wish.data.parent / "mine.toml"
    mapping.write_text(
        'source = "table"\npath = "cohort.csv"\nimages = "."\nsplit = "patient"\n'
        '[columns]\npatient-id = "patient_id"\n'
    )
    make_site(tmp_path / "site", replace(wish, data=mapping))
    file = read_site(tmp_path / "site" / "site.toml")
    assert file.data["data.path"] == str(wish.data)
    assert file.data["data.columns.patient-id"] == "patient_id"


def test_an_app_is_known_by_its_hash(tmp_path: Path) -> None:
    bundle = tmp_path / "x.fab"
    bundle.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert app_hash(str(bundle)) == known == app_hash(known.upper())
    assert app_hash("") == ""


def test_addresses() -> None:
    assert split_address("[::1]:8000", "x") == ("::1", 8000)
    for wrong in ("a", "a:", ":1", "::1:8000", "a:0", "a:70000", "https://a:1"):
        refuses(lambda w=wrong: split_address(w, "server"), "HOST:PORT")  # type: ignore[misc]  # bound by default; mypy infers no type


def test_the_command_prints_the_key_and_the_next_steps(
    tmp_path: Path, wish: Wish, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site"
    arguments = ["--name=st-mary", "--server=fl.example.org:8000", f"--data={wish.data}"]
    with pytest.raises(SystemExit) as caught:
        cli.main(["site", "init", str(site), *arguments])
    assert not caught.value.code
    printed = capsys.readouterr()
    assert printed.out.strip() == (site / "keys" / "node.pub").read_text().strip()
    assert "public-size" in printed.err
    assert "flwr supernode register" in printed.err
    assert "fedmed doctor" in steps(site, wish)[-2]
    private = (site / "keys" / "node").read_text()
    assert private.splitlines()[1] not in printed.out + printed.err
