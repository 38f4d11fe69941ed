"""Small changes to a function, one at a time."""

import __future__

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mod,),
    ast.Mod: (ast.FloorDiv,),
}
CALLS = {"min": "max", "max": "min", "floor": "ceil", "ceil": "floor"}
SIBLINGS = {"NO_LEGS": "LIVE_LEGS", "LIVE_LEGS": "TRIGGERED", "TRIGGERED": "NO_LEGS"}


@dataclass(frozen=True)
class Mutant:
    """One change: where it is, how the statement reads before and after, and what runs instead."""

    place: str  # module.function
    file: str
    line: int
    before: str
    after: str
    code: CodeType


def mutants(module: ModuleType, function: FunctionType) -> Iterator[Mutant]:
    """All changes of one function of a module."""
    lines, first = inspect.getsourcelines(function)
    (tree,) = ast.parse(textwrap.dedent("".join(lines))).body
    assert isinstance(tree, ast.FunctionDef)
    tree.decorator_list = []
    ast.increment_lineno(tree, first - 1)
    root = Path(__file__).parents[2]
    file = str(Path(inspect.getfile(function)).relative_to(root))
    place = f"{module.__name__}.{function.__name__}"
    for holder, key, old, statement in _slots(tree):
        for new in _variants(old, vars(module)):
            before = _text(statement)
            _put(holder, key, ast.fix_missing_locations(ast.copy_location(new, old)))
            after = _text(new if old is statement else statement)
            code = _compiled(tree, file)
            _put(holder, key, old)
            if before != after:
                yield Mutant(place, file, old.lineno, before, after, code)


def _slots(tree: ast.FunctionDef) -> Iterator[tuple[Any, Any, Any, ast.stmt]]:
    """Each statement and expression in the body: who holds it, where, itself, and its statement."""
    for k, statement in enumerate(tree.body):
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):  # docstring
            yield tree.body, k, statement, statement
            yield from _inside(statement, statement)


def _inside(node: ast.AST, statement: ast.stmt) -> Iterator[tuple[Any, Any, Any, ast.stmt]]:
    for name, value in ast.iter_fields(node):
        children = list(enumerate(value)) if isinstance(value, list) else [(name, value)]
        holder = value if isinstance(value, list) else node
        for key, child in children:
            if isinstance(child, ast.stmt):
                yield holder, key, child, child
                yield from _inside(child, child)
            elif isinstance(child, ast.expr) and name != "annotation":
                yield holder, key, child, statement
                yield from _inside(child, statement)


def _put(holder: Any, key: Any, node: ast.AST) -> None:
    if isinstance(holder, list):
        holder[key] = node
    else:
        setattr(holder, key, node)


def _compiled(tree: ast.FunctionDef, file: str) -> CodeType:
    scope: dict[str, Any] = {}
    module = ast.fix_missing_locations(ast.Module([tree], []))
    flags = __future__.annotations.compiler_flag  # names in annotations are not looked up
    exec(compile(module, file, "exec", flags=flags, dont_inherit=True), scope)  # noqa: S102  (a def, no more)
    code: CodeType = scope[tree.name].__code__
    return code


def _text(node: ast.AST) -> str:
    """A statement on one line; of a compound one its head."""
    match node:
        case ast.If(test=test):
            return f"if {ast.unparse(test)}:"
        case ast.While(test=test):
            return f"while {ast.unparse(test)}:"
        case ast.For(target=target, iter=over):
            return f"for {ast.unparse(target)} in {ast.unparse(over)}:"
        case _:
            return ast.unparse(node)


def _variants(node: ast.AST, names: dict[str, Any]) -> Iterator[ast.AST]:
    """What may stand instead of a node."""
    if isinstance(node, ast.stmt):
        yield ast.Pass()
    match node:
        case ast.Assign(targets=[ast.Tuple(elts=left)], value=ast.Tuple(elts=right)):
            for k in range(len(left)):  # one of `a, b = x, y` is forgotten
                one, other = (ast.Tuple(e[:k] + e[k + 1 :]) for e in (left, right))
                yield ast.Assign([_as(one, ast.Store())], _as(other, ast.Load()))
        case ast.Assign(targets=targets, value=value) if len(targets) > 1:
            for k in range(len(targets)):
                yield ast.Assign(targets[:k] + targets[k + 1 :], value)
        case ast.AugAssign(target=target, op=op, value=value):
            for other in OPERATORS.get(type(op), ()):
                yield ast.AugAssign(target, other(), value)
            yield ast.Assign([target], value)
        case ast.Compare(left=left, ops=ops, comparators=right):
            for k, op in enumerate(ops):
                for other in COMPARISONS.get(type(op), ()):
                    yield ast.Compare(left, [*ops[:k], other(), *ops[k + 1 :]], right)
        case ast.BinOp(left=left, op=op, right=right):
            for other in OPERATORS.get(type(op), ()):
                yield ast.BinOp(left, other(), right)
            if isinstance(op, ast.FloorDiv):  # the other direction
                yield ast.UnaryOp(ast.USub(), ast.BinOp(ast.UnaryOp(ast.USub(), left), op, right))
            yield left
            yield right
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for k in range(len(values)):
                rest = values[:k] + values[k + 1 :]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield ast.IfExp(test, orelse, body)
            yield body
            yield orelse
        case ast.Call(func=function, args=args, keywords=keywords):
            yield from _calls(function, args, keywords)
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Attribute(value=ast.Name(id=kind), attr=name) if _is_codes(names.get(kind)):
            members = list(names[kind])
            place = (members.index(names[kind][name]) + 1) % len(members)
            yield ast.Attribute(node.value, members[place].name, ast.Load())
        case ast.Name(id=name, ctx=ast.Load()) if name in SIBLINGS:
            yield ast.Name(SIBLINGS[name], ast.Load())
        case ast.Name(id=name, ctx=ast.Load()) if name.isupper() and isinstance(names.get(name), int):
            yield ast.BinOp(node, ast.Add(), ast.Constant(1))
            yield ast.BinOp(node, ast.Sub(), ast.Constant(1))
    if isinstance(node, ast.If | ast.While):
        opposite = ast.UnaryOp(ast.Not(), node.test)
        yield type(node)(opposite, node.body, node.orelse)


def _calls(function: ast.expr, args: list[ast.expr], keywords: list[ast.keyword]) -> Iterator[ast.AST]:
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    if name in CALLS:
        other = (
            ast.Name(CALLS[name], ast.Load())
            if isinstance(function, ast.Name)
            else ast.Attribute(function.value, CALLS[name], ast.Load())  # type: ignore[attr-defined]
        )
        yield ast.Call(other, args, keywords)
    if name in ("min", "max") and len(args) > 1:
        for k in range(len(args)):
            rest = args[:k] + args[k + 1 :]
            yield ast.Call(function, rest, keywords) if len(rest) > 1 else rest[0]
    if name == "round":
        yield ast.BinOp(args[0], ast.FloorDiv(), ast.Constant(1))


def _as(node: ast.Tuple, ctx: ast.expr_context) -> ast.expr:
    node.ctx = ctx
    return node.elts[0] if len(node.elts) == 1 else node


def _is_codes(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, IntEnum)
