"""``fedmed site`` and ``fedmed doctor``: a hospital's way into a federation."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from fedmed.base.terminal import say

site_app = typer.Typer(
    help="Make and start a hospital's part.", no_args_is_help=True, rich_markup_mode=None
)

SiteToml = Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's own file.")]


@site_app.command()
def certs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write them.")],
    host: Annotated[
        list[str],
        typer.Option(help="Name or address of the server, as hospitals know it (repeatable)."),
    ],
    days: Annotated[int, typer.Option(help="How long they hold.")] = 90,
) -> None:
    """Make a private CA and a server certificate, for trials."""
    from fedmed.site.certs import make_certificates

    for path in make_certificates(folder, host, days):
        say(path)
    say(
        "for trials only: in production use certificates of the institution's own CA\n"
        f"each hospital gets {folder / 'ca.crt'}; {folder / 'ca.key'} and "
        f"{folder / 'server.key'} go nowhere",
        err=True,
    )


@site_app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write it.")],
    name: Annotated[str, typer.Option(help="The hospital's name in the federation.")],
    server: Annotated[str, typer.Option(metavar="HOST:PORT", help="Of the coordinator.")],
    data: Annotated[
        Path,
        typer.Option(metavar="FILE", help="A table of images, or a TOML of data.* keys."),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder or zip of a table's images; by default beside it.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Certificate of the CA that signed the server's; copied.")
    ] = None,
    app: Annotated[
        str, typer.Option(metavar="FILE_OR_SHA256", help="The only app bundle to be served.")
    ] = "",
    epsilon: Annotated[float, typer.Option(help="The most, over all runs together.")] = 8.0,
    delta: Annotated[float, typer.Option(help="At which epsilon holds.")] = 1e-5,
    unit: Annotated[str, typer.Option(help="What epsilon protects.")] = "patient",
    arm: Annotated[list[str], typer.Option(help="An arm that may be asked for (repeatable).")] = [  # noqa: B006 -- typer reads it only
        "dp-sgd"
    ],
    minimum_cohort: Annotated[int, typer.Option(help="Training patients; fewer: refuse.")] = 100,
    public_size: Annotated[
        int, typer.Option(help="Training patients as anybody may know them; 0: set it later.")
    ] = 0,
) -> None:
    """Write what a hospital needs: node key, policy, data, compose file."""
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


@site_app.command()
def join(
    connection: Annotated[
        Path, typer.Argument(metavar="CONNECTION.toml", help="As fedmed site init writes it.")
    ],
    guard: Annotated[Path, typer.Option(help="Socket of the site's guard.")],
    port: Annotated[int, typer.Option(help="Of the SuperNode's interface on the loopback.")] = 9094,
) -> None:
    """Check the connection and become the SuperNode; a server that is away is waited for."""
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
    """Check a site before it joins: each line is ok, or what to do; exit code 2 if any is not."""
    from fedmed.site.doctor import examine

    checks = examine(site)
    if json_:
        say(json.dumps([check.to_json() for check in checks], indent=2))
    else:
        for check in checks:
            say(f"{'ok ' if check.ok else 'NOT OK'} {check.name}: {check.text}")
    if not all(check.ok for check in checks):
        raise typer.Exit(2)
