"""A trial's certificates: what they are good for, who may read the keys, nothing overwritten."""

import datetime
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from support import refuses

from fedmed.cli import commands as cli
from fedmed.site.authority import fingerprint
from fedmed.site.certs import make_certificates


def test_the_certificate_names_every_host_and_is_the_ca_s(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["fl.example.org", "127.0.0.1", "::1"], days=10)
    ca, server = (
        x509.load_pem_x509_certificate((tmp_path / name).read_bytes())
        for name in ("ca.crt", "server.crt")
    )
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    constraints = x509.BasicConstraints
    assert ca.extensions.get_extension_for_class(constraints).value.ca
    # A stolen server key must not sign certificates for other hosts.
    assert not server.extensions.get_extension_for_class(constraints).value.ca
    assert server.not_valid_after_utc - server.not_valid_before_utc == datetime.timedelta(days=10)
    assert server.not_valid_before_utc < datetime.datetime.now(datetime.UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"])
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {"ca.key": 0o600, "server.key": 0o600, "ca.crt": 0o644, "server.crt": 0o644}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    refuses(lambda: make_certificates(tmp_path, ["localhost"]), "ca.key", "not overwritten")
    (tmp_path / "ca.key").unlink()
    refuses(lambda: make_certificates(tmp_path, ["localhost"]), "ca.crt")
    del before["ca.key"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("host", ["https://x.org", "x.org:8000", "a b", ""])
def test_a_host_is_a_name_alone(host: str, tmp_path: Path) -> None:
    refuses(lambda: make_certificates(tmp_path, [host]), "--host", "without port")
    refuses(lambda: make_certificates(tmp_path, ["x.org"], days=0), "--days 0")
    refuses(lambda: make_certificates(tmp_path, ["x.org"], days=10**52), "--days 1000", "3650")
    assert not list(tmp_path.iterdir())


def test_the_command_says_what_they_are_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["site", "certs", str(tmp_path / "pki"), "--host", "localhost"])
    assert not caught.value.code
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 4
    mark = fingerprint((tmp_path / "pki" / "ca.crt").read_bytes())
    assert f"by telephone, its SHA-256 fingerprint: {mark}\n" in printed.err
    assert "the institution's own CA" in printed.err
