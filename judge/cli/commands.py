"""How functions become commands: flags from settings models, one `--debug` for all, groups with whole sentences."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Optional, TypeVar

import typer
from typer.core import TyperGroup

from judge.errors import JudgeError, parse_settings, printable, suggestion
from judge.version import __version__

if typing.TYPE_CHECKING:
    from pydantic.fields import FieldInfo

CONTEXT = {"help_option_names": ["-h", "--help"]}
Run = TypeVar("Run", bound=Callable[..., None])


class CommandGroup(TyperGroup):
    """A group of commands whose help shows one whole sentence for each."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Print the help where nothing is asked for."""
        if not args:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the command and its arguments.

        Raises:
            JudgeError: there is no such command.
        """
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            raise JudgeError(f"unknown command {printable(args[0])!r}{suggestion(args[0], known)}")
        return super().resolve_command(ctx, args)

    def sections(self, ctx: Any) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Yield the titles of the help's sections, each with the names of its commands and what they do."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        yield "Commands", [(name, first_sentence(command)) for name, command in commands]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        sections = list(self.sections(ctx))
        width = max(len(name) for _, rows in sections for name, _ in rows)
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


def first_sentence(command: Any) -> str:
    """Return the first paragraph of a command's help as one line."""
    return " ".join(str(command.help).split("\n\n")[0].split())


def _remember_debug(context: typer.Context, value: bool) -> bool:
    if value:
        context.ensure_object(dict)["debug"] = True
    return value


Debug = Annotated[
    bool,
    typer.Option("--debug", callback=_remember_debug, is_eager=True, help="Show the traceback of an error."),
]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"judge {__version__}")
        raise typer.Exit


def _before_the_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Debug = False,
) -> None:
    """The options that stand before the command's name; their callbacks do all."""


def _debug_before_the_command(debug: Debug = False) -> None:
    """`Debug` does all by its callback."""


# rich would draw boxes around the help, and is slow to import
_PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


def group(text: str, kind: type[CommandGroup] = CommandGroup) -> typer.Typer:
    """Return a group to which `command` adds commands; `text` is what its help begins with."""
    app = typer.Typer(cls=kind, help=text, context_settings=CONTEXT, **_PLAIN)
    app.callback()(_debug_before_the_command if kind is CommandGroup else _before_the_command)
    return app


def command(
    app: typer.Typer, name: str | None = None, context: Mapping[str, Any] | None = None
) -> Callable[[Run], Run]:
    """Return a decorator that adds a function to a group, as a command with `--debug`.

    Parameters that are annotated with `Flags` become a flag for each field of a settings model.
    """

    def add(run: Run) -> Run:
        app.command(name, context_settings={**CONTEXT, **(context or {})})(_with_flags(run))
        return run

    return add


def single(run: Callable[..., None], context: Mapping[str, Any] | None = None) -> Any:
    """Return a function as a command that belongs to no group yet."""
    app = typer.Typer(**_PLAIN)
    command(app, context=context)(run)
    return typer.main.get_command(app)


@dataclass(frozen=True)
class Flags:
    """Marks the parameter of a command that gets settings, which the user gives as flags.

    A parameter annotated with a settings model gets one of these. A parameter annotated with `dict` gets the fields
    whose flags were given, unchecked: a command that also reads a file checks both together.

    Attributes:
        names: the fields that become flags, in the order of the help; `*` stands for all that are not named.
        model: the settings model, for a parameter that gets a `dict`.
        several: each flag may be given more than once, and its field gets a list.
    """

    names: str = "*"
    model: Any = None
    several: bool = False


class _Fields:
    """The fields of a settings model as flags."""

    def __init__(self, flags: Flags, kind: Any) -> None:
        self._flags = flags
        self._checked = flags.model is None
        self._model = kind if self._checked else flags.model
        fields: dict[str, FieldInfo] = self._model.__pydantic_fields__
        named = flags.names.split()
        others = [name for name in fields if name not in named]
        names = [name for word in named for name in (others if word == "*" else [word])]
        self._fields = {name: fields[name] for name in names}

    def parameters(self) -> list[inspect.Parameter]:
        """Return a keyword parameter for each flag."""
        return [self._parameter(name, field) for name, field in self._fields.items()]

    def value(self, values: dict[str, Any]) -> Any:
        """Take the flags' values out of `values` and return what the command gets.

        Raises:
            JudgeError: impossible values.
        """
        read = {name: values.pop(name) for name in self._fields}
        given = {name: self._as_field(name, value) for name, value in read.items() if value not in (None, [], ())}
        if not self._checked:
            return given
        return parse_settings(self._model, given, spelled=lambda name: _flag(name, self._fields[name]))

    def _parameter(self, name: str, field: FieldInfo) -> inspect.Parameter:
        flag, kind = _flag(name, field), _flag_type(field.annotation)
        default = None if field.is_required() or self._flags.several else field.get_default(call_default_factory=True)
        shown = _shown(default) if "[default" not in str(field.description) else ""
        # a file may have turned on what is off by default
        negatable = kind is bool and (default is not False or not self._checked)
        names = [f"{flag}/--no-{flag[2:]}"] if negatable else [flag]
        text = f"{field.description}{f' [default: {shown}]' if shown else ''}"
        metavar = None
        if self._flags.several:  # typer reads no lists of choices
            choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
            kind = list[str if choices else kind]  # type: ignore[misc]
            metavar = f"<{'|'.join(choices)}>" if choices else None
        if typing.get_origin(kind) is list:
            pairs = typing.get_origin(field.annotation) is dict
            metavar = metavar or ("<name=number>" if pairs else f"<{typing.get_args(kind)[0].__name__}>")
        return inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Optional[kind],  # noqa: UP045
                typer.Option(*names, help=text, metavar=metavar, show_default=False),
            ],
        )

    def _as_field(self, name: str, value: Any) -> Any:
        """Return a flag's value as the field takes it: texts such as `NAME=WEIGHT` become a mapping."""
        if typing.get_origin(self._fields[name].annotation) is not dict:
            return value
        pairs = {}
        for text in value:
            key, _, number = str(text).rpartition("=")
            try:
                pairs[key] = float(number)
            except ValueError:
                key = ""
            if not key:
                raise JudgeError(f"{_flag(name, self._fields[name])}={printable(text)}: expected NAME=NUMBER")
        return pairs


def _flag(name: str, field: FieldInfo) -> str:
    """Return how a field is given: `--batch-tokens`, or what the field names as its flag."""
    extra = field.json_schema_extra
    return str(extra["flag"]) if isinstance(extra, dict) and "flag" in extra else "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    """Return a default as the help shows it; nothing for what a sentence says better."""
    if isinstance(value, bool):
        return "on" if value else ""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))
    return "" if value in (None, {}) else str(value)


def _flag_type(annotation: Any) -> Any:
    """Return the type with which typer reads a field's flag."""
    if typing.get_origin(annotation) is Annotated:
        return _flag_type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Literal, list):
        return annotation
    if typing.get_origin(annotation) is dict:
        return list[str]
    options = [option for option in typing.get_args(annotation) if option is not type(None)]
    if typing.get_origin(annotation) is tuple:
        return list[options[0]] if options[-1] is Ellipsis else annotation  # type: ignore[valid-type]
    return _flag_type(options[0]) if options else annotation


def _with_flags(run: Callable[..., None]) -> Callable[..., None]:
    """Return `run` as a function whose parameters typer can read: flags in place of settings, and `debug`."""
    hints = typing.get_type_hints(run, include_extras=True)
    parameters: list[inspect.Parameter] = []
    made: dict[str, _Fields] = {}
    for name, parameter in inspect.signature(run).parameters.items():
        marks = [mark for mark in getattr(hints[name], "__metadata__", ()) if isinstance(mark, Flags)]
        if marks:
            made[name] = _Fields(marks[0], typing.get_args(hints[name])[0])
            parameters += made[name].parameters()
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY))
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    parameters.append(debug)

    def command(**values: Any) -> None:
        del values["debug"]
        settings = {name: fields.value(values) for name, fields in made.items()}
        run(**values, **settings)

    command.__name__, command.__doc__ = run.__name__, run.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
