"""Imports single names of this package's modules without the heavy imports beside them.

A method's Config is in the file of its method, which imports torch: that takes two seconds, and a
plan must be checked in half a second. `PartialImport` reads the file's syntax tree, takes the
statements that define a name and those that they refer to, and runs these alone, in their order,
as a module of its own. Names from other modules of the package are taken in the same way; one that
needs no torch is imported as usual, so that its classes are the same for all. What cannot be taken
apart, because it needs torch after all or because its module does more at its top than define
names, is not guessed at: it is imported as usual.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_LIGHT = frozenset({"annotated_types", "pydantic"})  # other packages that need no second
_ANNOTATIONS = annotations.compiler_flag  # that of the line at the top of all files


class PartialImport:
    """Loads single names of modules; each statement runs once, so that no class is made twice."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._parts: dict[str, _Part] = {}
        self._are_light: dict[str, bool] = {}

    def name(self, module: str, name: str) -> Any:
        """What `name` is in `module`.

        Raises:
            AttributeError: If the module does not define it.
        """
        if module not in sys.modules:
            try:
                return self._taken(module, name)
            except _NeedsImportError:
                pass
        return getattr(importlib.import_module(module), name)

    def _taken(self, module: str, name: str) -> Any:
        part = self._part(module)
        for statement in part.left_for(name):
            if isinstance(statement, ast.ImportFrom) and _is_own(statement.module):
                self._import(part, statement)
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                _refuse_foreign(statement)
                part.run(statement)
            else:
                part.run(statement)
        return getattr(part.module, name)

    def _import(self, part: _Part, statement: ast.ImportFrom) -> None:
        assert statement.module is not None
        if self._is_light(statement.module):
            part.run(statement)
            return
        for alias in statement.names:
            own = alias.asname or alias.name
            if own in part.wanted and not hasattr(part.module, own):
                setattr(part.module, own, self._taken(statement.module, alias.name))

    def _is_light(self, module: str) -> bool:
        """Whether a module of the package imports light modules alone, and they do too."""
        if module not in self._are_light:
            self._are_light[module] = all(
                self._is_light(name) if _is_own(name) else _is_at_hand(name)
                for name in self._part(module).imported()
            )
        return self._are_light[module]

    def _part(self, module: str) -> _Part:
        if module not in self._parts:
            self._parts[module] = _Part(module)
        return self._parts[module]


class _NeedsImportError(Exception):
    """A name that only an ordinary import can give."""


class _Part:
    """The part of one module that has been run so far."""

    def __init__(self, name: str) -> None:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"no module named {name!r}", name=name)
        self._path = Path(spec.origin)
        # Dataclasses and type hints look a class's module up by its name. That is another one than
        # the file's, so that an ordinary import later on does not find this part in its place.
        self.module = ModuleType(f"{name} (in part)")
        self._statements = ast.parse(self._path.read_bytes(), spec.origin).body
        self._places: dict[str, list[int]] = {}  # of the statements that define a name
        self._have_run: set[int] = set()
        self.wanted: set[str] = set()
        for place, statement in enumerate(self._statements):
            for defined in _defined(statement):
                self._places.setdefault(defined, []).append(place)

    def left_for(self, name: str) -> list[ast.stmt]:
        """The statements that `name` needs and that have not run yet, in their order.

        Raises:
            AttributeError: If nothing here defines it.
            _NeedsImportError: If the module does more than define names.
        """
        if name not in self._places:
            raise AttributeError(f"{self._path} defines no {name}")
        if not all(map(_only_defines, self._statements)):
            raise _NeedsImportError
        names, needed = [name], set[int]()
        while names:
            wanted = names.pop()
            self.wanted.add(wanted)
            for place in set(self._places.get(wanted, ())) - needed:
                needed.add(place)
                names += _referred(self._statements[place])
        left = sorted(
            place
            for place in needed
            if place not in self._have_run
            or isinstance(self._statements[place], ast.Import | ast.ImportFrom)
        )
        self._have_run |= needed
        return [self._statements[place] for place in left]

    def run(self, statement: ast.stmt) -> None:
        """Run one statement of the file as it stands there."""
        sys.modules[self.module.__name__] = self.module
        tree = ast.Module([statement], [])
        # As in the files themselves: no annotation is evaluated before somebody asks for it.
        code = compile(tree, str(self._path), "exec", _ANNOTATIONS, dont_inherit=True)
        exec(code, vars(self.module))

    def imported(self) -> Iterator[str]:
        """Modules that are imported along with this one."""
        for statement in self._statements:
            for node in ast.walk(statement):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    yield node.module or ""


def _only_defines(statement: ast.stmt) -> bool:
    definitions = (
        *(ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign),
        *(ast.Import, ast.ImportFrom),
    )
    is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_docstring or isinstance(statement, definitions)


def _defined(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement gives a value."""
    match statement:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in aliases)
        case _:
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id


def _referred(statement: ast.stmt) -> list[str]:
    """Names that a statement reads, now or when what it defines is called.

    The annotations of functions are never read; those of a class's fields are, by dataclasses.
    """
    names = list[str]()
    nodes: list[ast.AST] = [statement]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Name):
            names.append(node.id)
        unread = ("returns", "annotation") if isinstance(node, ast.FunctionDef | ast.arg) else ()
        for key, value in ast.iter_fields(node):
            if key not in unread:
                nodes += [
                    each
                    for each in (value if isinstance(value, list) else [value])
                    if isinstance(each, ast.AST)
                ]
    return names


def _refuse_foreign(statement: ast.Import | ast.ImportFrom) -> None:
    """Raises _NeedsImportError where heavy modules are imported."""
    names = (
        [statement.module or ""]
        if isinstance(statement, ast.ImportFrom)
        else [alias.name for alias in statement.names]
    )
    if not all(map(_is_at_hand, names)):
        raise _NeedsImportError


def _is_own(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == _PACKAGE


def _is_at_hand(module: str) -> bool:
    """True of Python's own modules and of packages that any command imports."""
    return module.partition(".")[0] in sys.stdlib_module_names | _LIGHT
