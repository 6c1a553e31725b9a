"""Frozen dataclasses whose fields are checked when they are made, and read from JSON.

pydantic checks types, ranges and unknown names; its errors become a UserError that names the field,
what was expected and what was found. Ranges stand in the annotations, beside the fields:

    @checked("optim")
    class OptimConfig:
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from .errors import UserError

T = TypeVar("T")

MAX_TEXT = 4096
"""Longest text of any field, in characters: Linux has no longer paths."""
_LARGEST = 2**31 - 1

Count = Annotated[int, Field(ge=0, le=_LARGEST)]
PositiveInt = Annotated[int, Field(ge=1, le=_LARGEST)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]
"""A share that must leave something over."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_EXPECTED = {
    "int_type": "whole number",
    "int_from_float": "whole number",
    "float_type": "number",
    "string_type": "text",
    "bool_type": "true or false",
    "string_too_short": "a text",
    "dataclass_type": "a group of fields",
    "dataclass_exact_type": "a group of fields",
    "finite_number": "a finite number",
    "string_unicode": "a text in Unicode",
    "greater_than_equal": "{ge:.10g} or more",
    "greater_than": "more than {gt:.10g}",
    "less_than_equal": "{le:.10g} or less",
    "less_than": "less than {lt:.10g}",
}
"""pydantic's type of error -> what was expected."""

_brief = reprlib.Repr()
"""Shows a value in a message, however long or nested it is."""
_brief.maxstring = _brief.maxother = _brief.maxlong = 60
_brief.maxlevel = 2


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def checked(name: str) -> Callable[[type[T]], type[T]]:
    """Make a frozen dataclass that raises UserError for a value of the wrong type or range.

    `name` precedes the field's name in messages ("optim.momentum"); empty for none.
    """

    def decorate(cls: type[T]) -> type[T]:
        def check(cls: Any, data: Any, build: Callable[[Any], Any]) -> Any:
            if isinstance(data, dict):  # from JSON, which has no tuples
                data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
            try:
                made = build(data)
            except ValidationError as error:
                raise UserError(_explain(cls, name, error)) from None
            for field, value in vars(made).items():
                if not all(map(_is_usable, _texts(value))):
                    whole = f"{name}.{field}".lstrip(".")
                    raise UserError(
                        f"{whole}: expected at most {MAX_TEXT} characters and no NUL among them, "
                        f"got {_brief.repr(value)}"
                    )
            return made

        validator = model_validator(mode="wrap")(classmethod(check))  # type: ignore[arg-type]
        setattr(cls, "_check", validator)  # noqa: B010 (pydantic looks for it there)
        return cast(type[T], dataclass(frozen=True, config=_STRICT)(cls))

    return decorate


def from_dict(cls: type[T], data: Any, name: str = "") -> T:
    """Build a checked dataclass from plain data, as JSON has it.

    Raises UserError naming the field (below `name`) for an unknown name or a wrong value.
    """
    name = name or "config"
    try:
        return TypeAdapter(cls).validate_json(json.dumps(data))
    except ValidationError as error:  # of what is not a group at all
        raise UserError(_explain(cls, name, error)) from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply") from None


def _texts(value: Any) -> Iterator[str]:
    """The texts in a field's value."""
    return (v for v in (value if isinstance(value, tuple) else (value,)) if isinstance(v, str))


def _is_usable(text: str) -> bool:
    return len(text) <= MAX_TEXT and "\0" not in text


def _explain(cls: Any, group: str, error: ValidationError) -> str:
    """Return the first problem on one line: field, what was expected, what was found."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    field = str(first["loc"][0])[:60] if first["loc"] else ""
    name = ".".join(part for part in (group, field) if part)
    hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
    options = typing.get_args(hints.get(field))
    if type(None) in options:  # optional: the type beside None
        options = typing.get_args(options[0])
    if kind == "json_invalid":
        return f"{name}: expected texts in Unicode and few levels of nesting"
    if kind == "unexpected_keyword_argument":
        return f"{name}: no such field; the fields here are {', '.join(hints)}"
    if kind == "missing" and len(first["loc"]) == 1:
        return f"{name}: missing"
    if kind == "literal_error":
        expected = f"one of {', '.join(map(str, options))}"
    elif kind in ("missing", "too_long", "tuple_type"):
        item = {int: "whole numbers", float: "numbers"}.get(options[0], "texts")
        expected = f"a list of {item}" if options[-1] is Ellipsis else f"{len(options)} {item}"
    elif kind == "value_error":
        expected = str(context["error"])
    else:
        known = _EXPECTED.get(kind, "")
        expected = known.format(**context) or first["msg"].removeprefix("Input should be ")
    return f"{name}: expected {expected}, got {_brief.repr(first['input'])}"
