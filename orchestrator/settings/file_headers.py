"""Checks the keys of a method's, backbone's or data set's file that are no settings of its own.

Settings are checked where they are used; these would be misread, or ignored, in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.errors import UsageError
from orchestrator.settings.complaints import complaint

Order = Literal[
    "given",
    "random",
    "kmeans_filled",
    "kmeans_unequal",
    "kmeans_balanced",
    "hierarchical",
    "reversed_kmeans",
]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Checked(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Cost(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class _MethodCost(_Cost):
    trains: str | None = None  # the forecast knows which there are
    grows: bool = False
    side_by_side: bool = False
    packable: bool = False
    passes: _Positive | None = None
    squares: _Positive | None = None
    steps_share: Annotated[float, Field(gt=0, le=1)] | None = None


class _DatasetCost(_Cost):
    tokens_per_row: _Positive | None = None
    prompts_per_edit: _Positive | None = None
    records: _Positive | None = None


class _Method(_Checked):
    module: str = ""
    published_on: str | None = None
    order: Order | None = None
    batches: Literal["one"] | None = None
    presets: dict[str, dict[str, dict[str, Any]]] | None = None
    presets_from: str | None = None
    reading: Literal["working", "printed"] | None = None
    printed: dict[str, Any] | None = None
    cost: _MethodCost | None = None
    tune: dict[str, list[Any] | dict[str, Any]] | None = None


class _Dataset(_Checked):
    module: str = ""
    source: Literal["file"] | None = None
    version: Annotated[int, Field(ge=1)] | None = None
    keep_unchanged: bool = False
    known_only: bool = False
    answers: str | None = None
    locality: Literal["far", "near", "same"] | None = None
    cost: _DatasetCost | None = None


_HEADERS: Mapping[str, type[BaseModel]] = {"method": _Method, "dataset": _Dataset}


def check_header(group: str, file: str, content: Mapping[Any, Any]) -> None:
    """Checks one file, without what it inherits.

    Args:
        group: Its folder.
        file: Its name.
        content: What it holds.

    Raises:
        UsageError: For the first key that is no word or whose value is of the wrong kind.
    """
    label = f"{group}/{file}.yaml"
    for key in content:
        if not isinstance(key, str):
            raise UsageError(f"{label}: {key}: a key must be a word")
    if content.get("name", file) != file:
        raise UsageError(f"{label}: name={content['name']}: must be {file}, as the file is called")
    if group not in _HEADERS:
        return
    header = _HEADERS[group]
    try:
        header.model_validate(dict(content))
    except ValidationError as error:
        raise UsageError(f"{label}: {complaint(error, header, (), (), content)}") from error
