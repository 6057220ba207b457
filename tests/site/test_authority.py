"""Which file ``fedmed site init --ca`` takes: certificates of CAs that hold now, nothing else."""

import datetime
import hashlib
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from support import refuses
from support.site import cohort

from fedmed.cli import commands as cli
from fedmed.federation.node_keys import fingerprint as key_fingerprint
from fedmed.site.authority import fingerprint, read_authority
from fedmed.site.certs import make_certificates
from fedmed.site.init import Wish, make_site, steps

START = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    """A trial's certificates for 30 days from ``START``."""
    make_certificates(tmp_path / "pki", ["fl.example.org"], days=30, start=START)
    return tmp_path / "pki"


def said(path: Path, now: datetime.datetime = START + DAY) -> str:
    with pytest.raises(Exception, match="--ca") as caught:
        read_authority(path, "--ca", now)
    return str(caught.value)


def test_a_ca_that_holds_is_read_as_it_is(pki: Path) -> None:
    for now in (START, START + 30 * DAY):
        assert read_authority(pki / "ca.crt", "--ca", now) == (pki / "ca.crt").read_bytes()


def test_a_day_too_late_and_a_minute_too_early(pki: Path) -> None:
    assert said(pki / "ca.crt", START + 31 * DAY) == (
        "--ca: CN=fedmed trial CA expired on 2026-03-31; ask the coordinator for the certificate "
        "of the CA that holds now, or set this machine's clock right (it says 2026-04-01)"
    )
    assert said(pki / "ca.crt", START - datetime.timedelta(minutes=1)) == (
        "--ca: CN=fedmed trial CA holds from 2026-03-01 00:00 UTC only; set this machine's clock "
        "right (it says 2026-02-28 23:59 UTC), or wait"
    )


def test_the_servers_certificate_is_no_ca_alone_or_behind_one(pki: Path) -> None:
    line = (
        "--ca: CN=fl.example.org is no CA, which signs others; ask the coordinator for the "
        "certificate of the CA"
    )
    assert said(pki / "server.crt") == line
    both = pki / "both.crt"
    both.write_bytes((pki / "ca.crt").read_bytes() + (pki / "server.crt").read_bytes())
    assert said(both) == line


def test_a_private_key_is_never_copied(pki: Path) -> None:
    line = "--ca: holds a private key; give the certificate alone"
    assert said(pki / "ca.key") == line
    both = pki / "both.pem"
    both.write_bytes((pki / "ca.crt").read_bytes() + (pki / "ca.key").read_bytes())
    assert said(both) == line


def test_another_format_says_how_to_convert_it(pki: Path) -> None:
    certificate = x509.load_pem_x509_certificate((pki / "ca.crt").read_bytes())
    der = pki / "ca.der"
    der.write_bytes(certificate.public_bytes(serialization.Encoding.DER))
    assert said(der) == (
        f"--ca: is DER, and PEM is needed; convert it with openssl x509 -inform der -in {der} "
        "-out ca.crt"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
)
def test_what_is_no_certificate(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(content)
    assert said(path) == (
        "--ca: holds no certificate that can be read; ask the coordinator for the certificate of "
        "the CA"
    )


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert said(tmp_path / "none.crt") == (
        "--ca: cannot be read (No such file or directory); correct the path"
    )
    assert "is a folder" in said(tmp_path)


def test_the_fingerprint_is_the_one_that_openssl_prints(pki: Path) -> None:
    """SHA-256 of the certificate's DER, in pairs of capitals."""
    der = ssl.PEM_cert_to_DER_cert((pki / "ca.crt").read_text())
    pairs = [f"{byte:02X}" for byte in hashlib.sha256(der).digest()]
    assert fingerprint((pki / "ca.crt").read_bytes()) == ":".join(pairs)


def test_init_refuses_it_in_one_line_and_writes_nothing(
    pki: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = cohort(tmp_path / "data")
    arguments = ["--name=st-mary", "--server=fl.example.org:8000", f"--data={table}"]
    with pytest.raises(SystemExit) as caught:
        cli.main(["site", "init", str(tmp_path / "site"), *arguments, f"--ca={pki / 'ca.key'}"])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert printed.err == (
        f"error: --ca {pki / 'ca.key'}: holds a private key; give the certificate alone\n"
    )
    assert printed.out == ""
    assert not (tmp_path / "site").exists()
    before = datetime.datetime.now(datetime.UTC) - 60 * DAY
    make_certificates(tmp_path / "old", ["a"], days=30, start=before)
    wish = Wish(name="st-mary", server="a:1", data=table, ca=tmp_path / "old" / "ca.crt")
    refuses(lambda: make_site(tmp_path / "site", wish), "--ca", "expired")


def test_the_next_steps_have_both_fingerprints_and_the_commands_of_compose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificates(tmp_path / "now", ["fl.example.org"])
    monkeypatch.chdir(tmp_path)
    wish = Wish(name="x", server="a:1", data=cohort(tmp_path / "data"), public_size=9)
    wish = replace(wish, ca=tmp_path / "now" / "ca.crt")
    public = make_site(Path("st mary"), wish)
    *before, send, tell, check, start = steps(Path("st mary"), wish)
    mark = fingerprint((tmp_path / "now" / "ca.crt").read_bytes())
    assert f"compare the CA's SHA-256 fingerprint with the coordinator's: {mark}" in before
    assert send.startswith("send st mary/keys/node.pub to the coordinator")
    assert tell == (
        f"tell the coordinator its fingerprint by telephone: {key_fingerprint(public.encode())}"
    )
    assert check == (
        "check: cd 'st mary' && docker compose run --rm doctor (without containers: fedmed doctor "
        "'st mary/site.toml')"
    )
    assert start == "start: cd 'st mary' && docker compose up --detach"
