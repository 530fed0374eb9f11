"""A command whose flags are the fields of a settings model: the one place that names a setting and its meaning."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, Optional

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from judge.errors import JudgeError, printable


def settings_app(model: type[BaseModel], run: Callable[..., None]) -> typer.Typer:
    """Return an app with one command: the parameters of `run` but its last, and a flag for every field of `model`.

    Args:
        run: its docstring becomes the help; its last parameter, `given`, gets the fields whose flags were given.
    """
    hints = typing.get_type_hints(run, include_extras=True)
    own = [p.replace(annotation=hints[p.name]) for p in inspect.signature(run).parameters.values()][:-1]

    def command(**values: Any) -> None:
        mine = {parameter.name: values.pop(parameter.name) for parameter in own}
        run(**mine, given={name: _value(model, name, v) for name, v in values.items() if v not in (None, [])})

    flags = [_flag(name, field) for name, field in model.model_fields.items()]
    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in [*own, *flags]]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__ = run.__doc__
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.command()(command)
    return app


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    kind = _flag_type(field.annotation)
    shown = "" if field.is_required() else _shown(field.get_default(call_default_factory=True))
    shown = f" [default: {shown}]" if shown and "[default" not in str(field.description) else ""
    names = [f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]
    option = typer.Option(*names, help=f"{field.description}{shown}", show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Optional[kind], option],  # noqa: UP045 - made while running
    )


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value in (None, {}) else str(value)


def _flag_type(annotation: Any) -> Any:
    """Return the type that typer reads a field's flag with."""
    if typing.get_origin(annotation) is typing.Literal:
        return annotation
    if typing.get_origin(annotation) is dict:
        return list[str]
    options = [a for a in typing.get_args(annotation) if a is not type(None)]
    if typing.get_origin(annotation) is tuple:
        return list[str] if options[-1] is Ellipsis else annotation
    return _flag_type(options[0]) if options else annotation


def _value(model: type[BaseModel], name: str, value: Any) -> Any:
    """Return a flag's value as the field takes it: `NAME=WEIGHT` texts become a mapping."""
    if typing.get_origin(model.model_fields[name].annotation) is not dict:
        return value
    pairs = {}
    for text in value:
        key, _, number = str(text).rpartition("=")
        try:
            pairs[key] = float(number)
        except ValueError:
            key = ""
        if not key:
            raise JudgeError(f"--{name.replace('_', '-')}={printable(text)}: expected NAME=NUMBER")
    return pairs
