"""Parses and evaluates the conditions of an ablation's `where`, without eval()."""

from __future__ import annotations

import ast
import itertools
import operator
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import UsageError

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Condition:
    """A condition such as `method.top_k <= method.num_experts and method.lora_rank * 2 <= 128`.

    Raises:
        UsageError: From the constructor, for anything but comparisons of keys, numbers and quoted
            words, joined by + - * / and, or; from `is_met`, if the values cannot be compared.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise UsageError(
                f"where: {text!r} is not a comparison like 'method.top_k <= 5'"
            ) from error
        if not isinstance(self._tree, ast.Compare | ast.BoolOp):
            raise UsageError(f"where: {text!r} compares nothing; write 'a <op> b'")
        self.keys: frozenset[str] = frozenset(self._names(self._tree))

    def is_met(self, lookup: Callable[[str], Any]) -> bool:
        """Whether the condition holds; also true if a key is absent (KeyError) or null."""
        try:
            values = {key: lookup(key) for key in self.keys}
        except KeyError:
            return True
        if any(value is None for value in values.values()):
            return True
        try:
            return bool(self._value(self._tree, values))
        except (TypeError, ZeroDivisionError) as error:
            raise UsageError(f"where: {self.text!r} fails for {values}: {error}") from error

    def _names(self, node: ast.expr) -> set[str]:
        match node:
            case ast.Name() | ast.Attribute():
                return {self._dotted(node)}
            case ast.Constant(value=int() | float() | str()):
                return set()
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return self._names(inner)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return self._names(left) | self._names(right)
            case ast.BoolOp(values=parts):
                return set().union(*(self._names(part) for part in parts))
            case ast.Compare(left=left, ops=ops, comparators=rest) if all(
                type(op) in _COMPARISONS for op in ops
            ):
                return self._names(left).union(*(self._names(part) for part in rest))
        raise UsageError(
            f"where: {self.text!r}: {ast.unparse(node)!r} is not allowed; allowed: "
            "dotted keys, numbers, + - * /, < <= > >= == !=, and, or"
        )

    def _dotted(self, node: ast.expr) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        raise UsageError(f"where: {self.text!r}: {ast.unparse(node)!r} is not a dotted key")

    def _value(self, node: ast.expr, values: Mapping[str, Any]) -> Any:
        match node:
            case ast.Name() | ast.Attribute():
                return values[self._dotted(node)]
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(operand=inner):
                return -self._value(inner, values)
            case ast.BinOp(left=left, op=op, right=right):
                return _ARITHMETIC[type(op)](self._value(left, values), self._value(right, values))
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(self._value(part, values) for part in parts)
            case ast.BoolOp(values=parts):
                return any(self._value(part, values) for part in parts)
            case ast.Compare(left=left, ops=ops, comparators=rest):
                sides = [self._value(part, values) for part in (left, *rest)]
                pairs = zip(ops, itertools.pairwise(sides), strict=True)
                return all(_COMPARISONS[type(op)](a, b) for op, (a, b) in pairs)
        raise AssertionError(f"{ast.dump(node)} passed the constructor")
