"""The ``fedmed`` command."""

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, NoReturn

import click
import typer

from fedmed import __version__
from fedmed.base import files
from fedmed.base.errors import RunError, UserError
from fedmed.base.holding import held
from fedmed.base.opening import is_folder
from fedmed.base.terminal import Formatter, one_line, say
from fedmed.cli.helping import Command, explained, group
from fedmed.cli.site import doctor, site_app

INTERRUPTED: Final = 130  # exit code after Ctrl-C

_EPILOG: Final = """\b
Example, in the folder of the source; then open runs/quickstart/report.html:
  fedmed run experiments/quickstart.toml

\b
Guides, in the same folder: docs/index.md; for a hospital docs/deploy.md.
"""


app = group("What does privacy cost a network of hospitals?", _EPILOG)
data_app = group("Look at a cohort before training.")
app.add_typer(data_app, name="data")
ledger_app = group("Read and check a hospital's ledger.")
app.add_typer(ledger_app, name="ledger")
app.add_typer(site_app, name="site")
app.command(cls=Command)(doctor)

Path_ = Annotated[Path, typer.Argument(metavar="EXPERIMENT.toml", help="The comparison to run.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change one setting (repeatable).")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        say(f"fedmed {__version__}")
        raise typer.Exit


@app.command(cls=Command)
def run(
    experiment: Path_,
    arm: Annotated[list[str], typer.Option(help="Run this arm only (repeatable).")] = [],  # noqa: B006 -- typer reads it only
    seed: Annotated[list[int], typer.Option(help="Run this seed only (repeatable).")] = [],  # noqa: B006 -- typer reads it only
    set_: Set = [],  # noqa: B006 -- typer reads it only
    engine: Annotated[
        str, typer.Option(help="inline (this process) or ray (flwr run).")
    ] = "inline",
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; by default runs/NAME.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train the arms of a comparison and write its report.

    Every arm at every seed, then summary.csv and report.html. An interrupted comparison resumes
    after its last completed round when the same command is run again.
    """
    from fedmed.cli.progress import make_progress
    from fedmed.data.remarks import remarks
    from fedmed.experiment.file import load_experiment
    from fedmed.experiment.run import run_experiment
    from fedmed.launch import RaySimulation, run_inline
    from fedmed.report import build, write_summary
    from fedmed.trackers import check, followed, publish

    if engine not in ("inline", "ray"):
        raise UserError(f"--engine {engine}: use inline or ray")
    loaded = load_experiment(experiment, arms=arm, seeds=seed, assignments=set_)
    folder = out if out is not None else Path("runs") / loaded.name
    check(loaded.base)
    if not quiet:
        for note in remarks(loaded.base.data):
            say(f"note: {note}")
    with _resumable(), held(folder), make_progress(loaded, quiet) as shown:
        progress = followed(shown, loaded, folder)
        if engine == "ray":
            with RaySimulation() as simulation:
                run_experiment(loaded, folder, simulation.run, progress)
        else:
            run_experiment(loaded, folder, run_inline, progress)
        summary = write_summary(folder)
        page = build(folder)
    say(f"summary: {summary}")
    say(f"report:  {page}")
    logged = publish(loaded, folder)
    if logged:
        say(f"mlflow:  {logged}")


@app.command(cls=Command)
def report(
    directory: Annotated[Path, typer.Argument(help="Folder of an experiment's results.")],
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Also write figures, tables, Methods and .bib for a paper."),
    ] = False,
) -> None:
    """Write a comparison's report again.

    summary.csv and report.html, from the files in its folder; nothing is trained.
    """
    from fedmed.evaluation.comparison import compare
    from fedmed.report import build, write_summary

    if not is_folder(directory):
        raise UserError(f"{directory}: no such folder; give the folder that fedmed run wrote")
    with held(directory):
        try:
            compare.write(directory)
        except UserError as error:  # what is there is reported all the same
            say(f"no comparison of arms: {error}", err=True)
        say(f"summary: {write_summary(directory)}")  # with the intervals of the comparison
        say(f"report:  {build(directory, paper=paper)}")
    if paper:
        say(f"paper:   {directory / 'paper'}")


@app.command(cls=Command)
def evaluate(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="TABLE_OR_FOLDER",
            help="Predictions (.parquet or .csv), a run's folder, or a comparison's.",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(help="Compare with this table, or, in a comparison's folder, with this arm."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file as well.")] = None,
    resamples: Annotated[
        int, typer.Option(help="How often patients are resampled; 0: no intervals.")
    ] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the resamples.")] = 20131,
    redraw_threshold: Annotated[
        bool,
        typer.Option(
            "--redraw-threshold", help="Choose the threshold anew in every resample, too."
        ),
    ] = False,
) -> None:
    """Measure predictions: AUROC, calibration and fairness.

    Of anybody's table of predictions, of a run or of a comparison, with intervals.
    """
    from fedmed.cli.evaluate import answer, show
    from fedmed.cli.waiting import bar

    with bar(f"{resamples} resamples") as progress:
        found = answer(
            table,
            baseline,
            resamples=resamples,
            seed=seed,
            redraw_threshold=redraw_threshold,
            progress=progress,
        )
    if out is not None:
        files.write_json(out, found)
    if json_:
        say(json.dumps(found, indent=2, allow_nan=False))
    else:
        show(found, str(table))


@app.command(cls=Command)
def guard(
    site: Annotated[Path, typer.Argument(metavar="SITE.toml", help="The site's own file.")],
) -> None:
    """Guard a site's data and ledger until a signal.

    It answers the app's requests on a socket.
    """
    from fedmed.hospital.guard.process import run as stand_guard

    logging.getLogger("fedmed").setLevel(logging.INFO)
    stand_guard(site, lambda its: say(f"ready: {its.name} on {its.socket}"))


@app.command(cls=Command)
def plan(
    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="[EXPERIMENT.toml]", help="The comparison to plan.", show_default=False
        ),
    ] = None,
    arm: Annotated[list[str], typer.Option(help="Plan this arm only (repeatable).")] = [],  # noqa: B006 -- typer reads it only
    set_: Set = [],  # noqa: B006 -- typer reads it only
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; what its ledgers hold counts.")
    ] = None,
    patients: Annotated[
        int | None, typer.Option(help="Without an experiment: number of patients.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Expected number of patients in a batch.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the patients.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Target; with everything given, the limit.")
    ] = None,
    noise_multiplier: Annotated[
        float | None, typer.Option(help="Standard deviation of the noise over the clipping norm.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta of the guarantee; 1e-5 unless given.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    no_time: Annotated[bool, typer.Option("--no-time", help="Do not time a step.")] = False,
) -> None:
    """Say epsilon, noise and time before any training.

    Of a comparison; or, without one, solve for one of epsilon, noise, batch and epochs.
    """
    from fedmed.cli import planning

    numbers = planning.Numbers(
        patients=patients,
        batch=batch,
        epochs=epochs,
        epsilon=epsilon,
        noise_multiplier=noise_multiplier,
        delta=delta,
    )
    if experiment is None:
        given = {"--arm": arm, "--set": set_, "--out": out, "--no-time": no_time}
        planning.solve(numbers, given, as_json=json_)
    else:
        numbers.refuse_any()
        planning.plan_experiment(
            experiment, arms=arm, changes=set_, out=out, timed=not no_time, as_json=json_
        )


Ledgers = Annotated[
    Path, typer.Argument(metavar="PATH", help="A ledger, or a folder that holds ledgers.")
]


@ledger_app.command(cls=Command)
def show(
    path: Ledgers,
    delta: Annotated[float, typer.Option(help="Delta at which epsilon is given.")] = 1e-5,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what each account has spent."""
    from fedmed.cli.tables import print_accounts
    from fedmed.privacy.ledger.report import accounts, find

    found = [row for file in find(path) for row in accounts(file, delta)]
    if json_:
        say(json.dumps([row.to_json() for row in found], indent=2))
    else:
        print_accounts(found)


@ledger_app.command(cls=Command)
def verify(
    path: Ledgers,
    anchor: Annotated[
        str, typer.Option(help="ROWS:HEAD as an earlier verify printed it; finds a rollback.")
    ] = "",
) -> None:
    """Find edits, cuts and rollbacks.

    Every row is checked against the chain of hashes and the audit log.
    """
    from fedmed.privacy.ledger.report import check, find

    found = find(path)
    if anchor and len(found) > 1:
        raise UserError(f"--anchor belongs to one ledger, and {path} holds {len(found)}; name one")
    for file in found:
        say(f"{file.path}: {check(file, anchor)}")


@ledger_app.command(cls=Command)
def export(
    path: Ledgers,
    out: Annotated[
        Path | None, typer.Option(help="File to write; by default standard out.")
    ] = None,
) -> None:
    """Write every row as JSON lines, for one's own records."""
    from fedmed.privacy.ledger.report import find, lines

    text = "".join(line for file in find(path) for line in lines(file))
    if out is None:
        say(text, end=False)
    else:
        files.write_text(out, text)
        say(f"rows: {out}")


@data_app.command(cls=Command)
def inspect(
    experiment: Path_,
    set_: Set = [],  # noqa: B006 -- typer reads it only
    sheet: Annotated[
        Path | None,
        typer.Option(help="Where to write the sheet of images; by default runs/NAME-cohort.png."),
    ] = None,
) -> None:
    """Count a cohort and draw some of its images.

    Counts by hospital, split, label, sex and age band, and sheets of images to look at.
    """
    from fedmed.cli.tables import print_table
    from fedmed.data.form import Form
    from fedmed.data.inspect import contact_sheet, describe, look
    from fedmed.data.network import load_network
    from fedmed.data.remarks import remarks
    from fedmed.experiment.file import load_experiment

    loaded = load_experiment(experiment, assignments=set_)
    network = load_network(loaded.base.data)
    say(f"{network.cohort.name}: {len(network.cohort)} images")
    for note in remarks(loaded.base.data):
        say(f"note: {note}")
    print_table(describe(network.cohort.table.assign(hospital=network.hospital)))
    # Beside the results' folder: in it, fedmed run would find a folder that is not an experiment's.
    path = sheet if sheet is not None else Path("runs") / f"{loaded.name}-cohort.png"
    form = Form.of(loaded.base.data)
    seen = look(network, form)
    for line in seen.findings():
        say(f"note: {line}")
    contact_sheet(network.cohort, path, form=form)
    say(f"sheet: {path}")
    brightness = path.with_name(f"{path.stem}-brightness.png")
    seen.sheet(brightness)
    say(f"brightness of {len(seen.pictures)} images, by hospital: {brightness}")


class _Stopped(Exception):
    """Ctrl-C, where there is more to say of it than that."""


@contextlib.contextmanager
def _resumable() -> Iterator[None]:
    """Tell who interrupts a comparison how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise _Stopped(
            "interrupted; run the same command again to go on from the last round"
        ) from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command; a user's mistake prints one line and exits with 2, a failed run with 1."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    _log()
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        code = app(args=arguments, prog_name="fedmed", standalone_mode=False) or 0
        if code == INTERRUPTED:  # typer catches Ctrl-C and says nothing
            raise KeyboardInterrupt
        sys.exit(code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(explained(error), error.exit_code)
    except _Stopped as stopped:
        say(stopped, err=True)
        sys.exit(INTERRUPTED)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", INTERRUPTED)
    except UserError as error:
        _fail(str(error), 2)
    except RunError as error:
        _fail(str(error), 1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; check the path, its rights and the disk", 2)
    except MemoryError:
        _fail("out of memory; give smaller files or a smaller model, or use a larger machine", 2)


def _log() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("flwr").setLevel(logging.WARNING)
    logging.getLogger("absl").setLevel(logging.ERROR)


def _fail(message: str, code: int) -> NoReturn:
    say(f"error: {one_line(message)}", err=True)
    sys.exit(code)
