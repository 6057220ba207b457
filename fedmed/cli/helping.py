"""The commands' help, and what is said in one line of a word that no command knows."""

from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import click
import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.models import ParameterInfo

_ORDER = ("run", "plan", "report", "evaluate", "data", "ledger", "site", "doctor", "guard")


class Command(TyperCommand):
    """A command whose help describes its arguments and shows brackets as they are."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        told = _descriptions(attributes.get("callback"))
        for parameter in self.params:
            # typer gives an argument its help before click's own constructor empties it again.
            if isinstance(parameter, TyperArgument) and not parameter.help:
                parameter.help = told.get(str(parameter.name))

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Nothing: typer lists the arguments with the options, and click would once more."""

    def get_help(self, ctx: click.Context) -> str:
        """The help; typer escapes its brackets for a reader of markup, which is not used here."""
        return super().get_help(ctx).replace("\\[", "[")


def _descriptions(callback: Callable[..., Any] | None) -> dict[str, str]:
    """What ``Annotated`` says of a command's parameters, by name."""
    hints = {} if callback is None else get_type_hints(callback, include_extras=True)
    return {
        name: entry.help
        for name, hint in hints.items()
        for entry in getattr(hint, "__metadata__", ())
        if isinstance(entry, ParameterInfo) and entry.help
    }


class Group(TyperGroup):
    """Commands in the order in which they are met, and one suggestion for one that is unknown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help; those of no place of their own come last."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; a word that is no command raises ``UsageError`` with the nearest one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"unknown command '{args[0]}'{_meant(self, ctx, args[0])}", ctx)
        return super().resolve_command(ctx, args)


def group(about: str, epilog: str = "") -> typer.Typer:
    """Commands under one name, which without a further word print their help."""
    return typer.Typer(
        cls=Group,
        help=about,
        epilog=epilog or None,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # a mistaken word is shown as it is, on one line
    )


def explained(error: click.ClickException) -> str:
    """The error in one line, with the option that is nearest to an unknown one, and where to look.

    >>> explained(click.UsageError("give one file"))
    'give one file'
    """
    from fedmed.config import nearest

    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        known = context.command.get_params(context) if context else []
        names = [name for option in known for name in option.opts if name.startswith("--")]
        said = f"unknown option '{error.option_name}'{nearest(error.option_name, names)}"
    else:
        said = error.format_message().rstrip(".")
    if context is None:
        return said
    return f"{said}{' See' if said.endswith('?') else '; see'} {context.command_path} --help"


def _meant(group: click.Group, ctx: click.Context, word: str) -> str:
    """The nearest of a group's own commands, else the place of a command with just that name."""
    from fedmed.config import nearest

    near = nearest(word, group.list_commands(ctx))
    if near:
        return near
    root = ctx.find_root()
    places = [path for path in _paths(root.command, root) if path.split()[-1] == word]
    return f"; did you mean '{root.info_name} {places[0]}'?" if places else ""


def _paths(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """Every command below ``command``, as it is written after the program's name."""
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            if below is not None:
                yield name
                yield from (f"{name} {rest}" for rest in _paths(below, ctx))
