"""Types for the fields of a method's Config, and the decorator that refuses other values.

`checked` makes a frozen dataclass whose values pydantic checks against their declarations. An error
is one line that names the setting as it was typed, the value, and what is allowed.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Interval
from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from trainables.errors import ConfigError

Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
PositiveOrZero = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
ShareBelowOne = Annotated[float, Interval(ge=0, lt=1)]
Cosine = Annotated[float, Interval(ge=-1, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]

_C = TypeVar("_C", bound=type[Any])

# Neither "3" nor 2.5 nor true is a whole number; a whole number will do for a float.
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_OUT_OF_RANGE = frozenset(
    {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}  # pydantic's names
)
_LARGEST = 2**63  # what int64 holds; nothing means more


@dataclass_transform(frozen_default=True, kw_only_default=True)
def checked(declared: _C) -> _C:
    """`declared` as a frozen dataclass that refuses what its fields are not declared with.

    A list stands for a tuple, as in YAML. A rule between fields belongs into `__post_init__`,
    which finds each value of its kind and in its range.

    Raises:
        ConfigError: When one is made; for the first field, in their order, that does not fit.
    """
    kinds = get_type_hints(declared, include_extras=True)
    made: Any = dataclass(declared, frozen=True, kw_only=True, config=_STRICT)
    fill = made.__init__

    def fill_checked(self: Any, **values: Any) -> None:
        for key, value in values.items():
            if key in kinds and isinstance(value, int) and abs(value) >= _LARGEST:
                raise _complaint(key, value, kinds[key])
        listed = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            fill(self, **listed)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            key = str(first["loc"][0])
            if key not in values or key not in kinds:
                raise  # the call is wrong, not a setting
            out = first["type"] in _OUT_OF_RANGE
            raise _complaint(key, values[key], kinds[key], is_out_of_range=out) from None

    made.__init__ = fill_checked
    return made


def _complaint(key: str, value: Any, kind: Any, *, is_out_of_range: bool = False) -> ConfigError:
    if get_origin(kind) is Literal:
        allowed = f"allowed: {', '.join(map(str, get_args(kind)))}"
    else:
        say = _range if is_out_of_range else _words
        alternatives = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        first, *more = map(say, alternatives)
        allowed = " or ".join([f"it must {first}", *(word.removeprefix("be ") for word in more)])
    return ConfigError(f"method.{key} is {value!r}; {allowed}")


def _words(kind: Any) -> str:
    """What a value of `kind` must be."""
    if get_origin(kind) is Annotated:
        return _words(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return f"be one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return f"be a list, each {_words(get_args(kind)[0]).removeprefix('be ')}"
    named = {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "a word",
        NoneType: "null",
    }
    return f"be {named.get(kind, kind)}"


def _range(kind: Any) -> str:
    """Where a value of `kind` must lie; as `_words` where it may lie anywhere."""
    ends = {
        name: end
        for mark in (get_args(kind)[1:] if get_origin(kind) is Annotated else ())
        for name in ("ge", "gt", "le", "lt")
        if (end := getattr(mark, name, None)) is not None
    }
    low, high = ends.get("ge", ends.get("gt")), ends.get("le", ends.get("lt"))
    if low is not None and high is not None:
        return f"lie in {'[' if 'ge' in ends else '('}{low}, {high}{']' if 'le' in ends else ')'}"
    named = {"ge": "be at least", "gt": "be above", "le": "be at most", "lt": "be below"}
    return next((f"{named[name]} {end}" for name, end in ends.items()), _words(kind))
