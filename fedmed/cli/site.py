"""``fedmed site`` and ``fedmed doctor``: a hospital's way into a federation."""

import json
import os
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmed.base.terminal import say
from fedmed.cli.helping import Command, group

if TYPE_CHECKING:
    from fedmed.site.reach import Check

site_app = group("Make and start a hospital's part.")

SiteToml = Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's own file.")]


@site_app.command(cls=Command)
def certs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write them.")],
    host: Annotated[
        list[str],
        typer.Option(help="Name or address of the server, as hospitals know it (repeatable)."),
    ],
    days: Annotated[int, typer.Option(help="For how many days they are valid.")] = 90,
) -> None:
    """Make a private CA and a server certificate, for trials."""
    from fedmed.site.authority import fingerprint
    from fedmed.site.certs import make_certificates

    for path in make_certificates(folder, host, days):
        say(path)
    mark = fingerprint((folder / "ca.crt").read_bytes())
    say(
        "for trials only: in production use certificates of the institution's own CA\n"
        f"each hospital gets {folder / 'ca.crt'} and, by telephone, its SHA-256 fingerprint: "
        f"{mark}\n"
        f"{folder / 'ca.key'} and {folder / 'server.key'} go nowhere",
        err=True,
    )


@site_app.command(cls=Command)
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    name: Annotated[str, typer.Option(help="The hospital's name in the federation.")],
    server: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Address of the coordinator's server.")
    ],
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="A table of images, or a TOML of data.* keys."),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder or zip of a table's images; by default beside it.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option(
            help="Certificate (PEM) of the CA that signed the server's; it is checked and copied."
        ),
    ] = None,
    app: Annotated[
        str, typer.Option(metavar="FILE_OR_SHA256", help="The only app bundle that may run here.")
    ] = "",
    epsilon: Annotated[
        float, typer.Option(help="The most that all runs together may spend.")
    ] = 8.0,
    delta: Annotated[float, typer.Option(help="Delta at which that epsilon holds.")] = 1e-5,
    unit: Annotated[
        str, typer.Option(help="What epsilon protects: patient, image, pixels or hospital.")
    ] = "patient",
    arm: Annotated[list[str], typer.Option(help="An arm that may be asked for (repeatable).")] = [  # noqa: B006 -- typer reads it only
        "dp-sgd"
    ],
    minimum_cohort: Annotated[
        int, typer.Option(help="Fewest training patients; below it the site takes no part.")
    ] = 100,
    public_size: Annotated[
        int,
        typer.Option(help="Number of training patients that everybody may know; 0: set it later."),
    ] = 0,
) -> None:
    """Write a hospital's key, policy and compose file.

    Prints the public key, and what to do next with the fingerprints to compare.
    """
    from fedmed.site.init import Wish, make_site, steps

    wish = Wish(
        name=name,
        server=server,
        data=data,
        images=images,
        ca=ca,
        app=app,
        epsilon=epsilon,
        delta=delta,
        unit=unit,
        arms=tuple(arm),
        minimum_cohort=minimum_cohort,
        public_size=public_size,
    )
    say(make_site(folder, wish))
    say("the line above is the public key. Next:", err=True)
    for number, step in enumerate(steps(folder, wish), start=1):
        say(f"{number}. {step}", err=True)


@site_app.command(cls=Command)
def join(
    connection: Annotated[
        Path, typer.Argument(metavar="CONNECTION.toml", help="As fedmed site init writes it.")
    ],
    guard: Annotated[Path, typer.Option(help="Socket of the site's guard, run/guard.sock.")],
    port: Annotated[
        int, typer.Option(help="Port of the SuperNode's interface on the loopback.")
    ] = 9094,
) -> None:
    """Check the connection and become the SuperNode.

    A server that is away is waited for.
    """
    from fedmed.site.connection import read_connection
    from fedmed.site.join import await_server, environment, supernode

    server = read_connection(connection)
    command = supernode(server, guard.absolute(), port)
    await_server(server, lambda line: say(line, err=True))
    os.execve(command[0], command, environment())  # noqa: S606 -- it gets its signals itself


def doctor(
    site: SiteToml,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check a hospital's site before it joins.

    Each line says what is ok, what to do, or why a check was skipped; exit code 2 if any is not ok.
    In the container: docker compose run --rm doctor.
    """
    from fedmed.site.doctor import examine, summary

    checks = examine(site)
    if json_:
        say(json.dumps([check.to_json() for check in checks], indent=2))
    else:
        for lead, text in lines(checks):
            say(f"{lead:<7} {text}")
        say(summary(checks))
    if not all(check.ok for check in checks):
        raise typer.Exit(2)


def lines(checks: "list[Check]") -> list[tuple[str, str]]:
    """What the doctor prints: a mark and a text; neighbours skipped for one reason share a line."""
    rows: list[tuple[str, str]] = []
    for (skipped, text), alike in groupby(checks, lambda check: (check.skipped, check.text)):
        several = list(alike)
        names = ", ".join(check.name for check in several)
        if skipped:
            rows.append(("skipped", f"{names}: {text}, which is not ok"))
        else:
            mark = "note" if several[0].note else "ok" if several[0].ok else "NOT OK"
            rows += [(mark, f"{check.name}: {text}") for check in several]
    return rows
