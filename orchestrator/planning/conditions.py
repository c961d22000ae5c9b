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
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise UsageError(
                f"where: {text!r} is not a comparison like 'method.top_k <= 5'"
            ) from error
        if not isinstance(tree, ast.Compare | ast.BoolOp):
            raise UsageError(f"where: {text!r} compares nothing; write 'a <op> b'")
        keys = set[str]()
        self._holds = self._compiled(tree, keys)
        self.keys: frozenset[str] = frozenset(keys)

    def is_met(self, lookup: Callable[[str], Any]) -> bool:
        """Whether the condition holds; also true if a key is absent (KeyError) or null."""
        try:
            values = {key: lookup(key) for key in self.keys}
        except KeyError:
            return True
        if any(value is None for value in values.values()):
            return True
        try:
            return bool(self._holds(values))
        except (TypeError, ZeroDivisionError) as error:
            raise UsageError(f"where: {self.text!r} fails for {values}: {error}") from error

    def _compiled(self, node: ast.expr, keys: set[str]) -> Callable[[Mapping[str, Any]], Any]:
        """What computes the node from the values of its keys, which join `keys`."""
        match node:
            case ast.Name() | ast.Attribute():
                keys.add(key := self._dotted(node))
                return operator.itemgetter(key)
            case ast.Constant(value=int() | float() | str() as constant):
                return lambda values: constant
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._compiled(operand, keys)
                return lambda values: -inner(values)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                one, other = self._compiled(left, keys), self._compiled(right, keys)
                computes = _ARITHMETIC[type(op)]
                return lambda values: computes(one(values), other(values))
            case ast.BoolOp(op=joint, values=parts):
                joined = all if isinstance(joint, ast.And) else any
                held = [self._compiled(part, keys) for part in parts]
                return lambda values: joined(part(values) for part in held)
            case ast.Compare(left=left, ops=ops, comparators=rest) if all(
                type(op) in _COMPARISONS for op in ops
            ):
                sides = [self._compiled(part, keys) for part in (left, *rest)]
                pairs = [
                    (_COMPARISONS[type(op)], one, other)
                    for op, (one, other) in zip(ops, itertools.pairwise(sides), strict=True)
                ]
                return lambda values: all(
                    holds(one(values), other(values)) for holds, one, other in pairs
                )
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
