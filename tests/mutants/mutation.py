"""The mistakes: small changes of one place in a module's source, found in its syntax tree."""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_PAIRS = """min max, minimum maximum, amin amax, any all, ceil floor, zeros ones, log log1p,
exp expm1, zeros_like ones_like, logical_and logical_or"""
_BOTH = [pair.split() for pair in _PAIRS.split(",")]
CALLED = dict(_BOTH) | {b: a for a, b in _BOTH}
_TEXT = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp)  # sums of them are no arithmetic
_SILENT = {"log", "logger", "logging", "warnings"}  # their words are read by people only


@dataclass(frozen=True)
class Mutant:
    """One change: bytes ``start`` to ``end`` of the file at ``path`` become ``text``.

    ``function`` is the qualified name of the function or class around it, "" if none, and ``outer``
    that of the outermost function whose body it is in; ``number`` counts equal changes of one
    function; ``name`` is that of a mutant which has been named.
    """

    path: str
    function: str
    outer: str
    line: int
    start: int
    end: int
    before: str
    text: str
    number: int = 1
    name: str = ""

    @property
    def key(self) -> str:
        """Says which change it is, whatever line it stands in."""
        place = f"{self.path}::{self.function}"
        return self.name or f"{place} | {self.before} => {self.text} | {self.number}"

    def applied(self, source: bytes) -> bytes:
        """The source with this mistake in it."""
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """Every mistake known here that ``source`` can hold, in the order of its lines."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for node, text, function, outer in _changes(ast.parse(source), "", "", None):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        mutant = Mutant(
            path,
            function,
            outer,
            node.lineno,
            starts[node.lineno - 1] + node.col_offset,
            starts[node.end_lineno - 1] + node.end_col_offset,
            ast.unparse(node),
            text,
        )
        seen[mutant.key] = seen.get(mutant.key, 0) + 1
        found.append(replace(mutant, number=seen[mutant.key]))
    return found


Change = tuple[ast.expr | ast.stmt, str, str, str]


def _changes(
    node: ast.AST, function: str, outer: str, returns: ast.expr | None
) -> Iterator[Change]:
    """(what is replaced, by what, in which function, in which outermost), of ``node`` and below."""
    texts: list[str] = []
    if isinstance(node, ast.expr):
        texts = list(_expressions(node, bool(function)))
    elif isinstance(node, ast.stmt):
        texts = list(_statements(node, returns))
    if isinstance(node, ast.expr | ast.stmt):
        yield from ((node, text, function, outer) for text in texts)
    if isinstance(node, ast.If | ast.IfExp | ast.While) and _plain(node.test):
        yield node.test, f"(not {ast.unparse(node.test)})", function, outer
    body: list[ast.stmt] = []
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
        body = node.body
        returns = node.returns if isinstance(node, ast.FunctionDef) else None
    inner = outer or (function if isinstance(node, ast.FunctionDef) else "")
    for child in _children(node):
        # Defaults belong to the function, and are computed outside it.
        yield from _changes(child, function, inner if child in body else outer, returns)


def _plain(test: ast.expr) -> bool:
    """Whether nothing else turns this condition round."""
    negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    return not (isinstance(test, ast.Compare | ast.BoolOp) or negated)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What below ``node`` is run, and is not there for readers or for the type checker."""
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.Assert() | ast.Import() | ast.ImportFrom():
            return
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name)))) if (
            name in _SILENT
        ):
            return
        case ast.FunctionDef():
            yield from [*node.args.defaults, *(d for d in node.args.kw_defaults if d), *node.body]
        case ast.ClassDef():
            yield from node.body
        case ast.AnnAssign():
            yield from [node.value] if node.value else []
        case _:
            yield from ast.iter_child_nodes(node)


def _expressions(node: ast.expr, inside: bool) -> Iterator[str]:
    """Other expressions in the place of this one; ``inside`` a function ``|`` is no union."""
    match node:
        case ast.Compare():
            for position, op in enumerate(node.ops):
                for other in COMPARED[type(op)]:
                    ops = [*node.ops[:position], other(), *node.ops[position + 1 :]]
                    yield _unparsed(node, ops=ops)
        case ast.BinOp(op=op) if type(op) in COMPUTED:
            text = any(
                isinstance(side, _TEXT) or _is_text(side) for side in (node.left, node.right)
            )
            if not text and (inside or not isinstance(op, ast.BitOr)):
                yield _unparsed(node, op=COMPUTED[type(op)]())
        case ast.BoolOp(op=op):
            yield _unparsed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield f"({ast.unparse(node.operand)})"
        case ast.Constant(value=bool(value)):
            yield str(not value)
        case ast.Constant(value=int(value)):
            yield "0" if value == 1 else str(value + 1)
        case ast.Constant(value=float(value)):
            yield repr(2 * value if value else 1.0)
        case ast.Call():
            yield from _calls(node)
        case _:
            return


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _calls(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    owner, _, name = called.rpartition(".")
    if name in CALLED:
        other = CALLED[name] if not owner else f"{owner}.{CALLED[name]}"
        yield _unparsed(node, func=ast.Name(id=other))
    if name[:1].islower():  # a class needs its arguments
        for keyword in node.keywords:
            if keyword.arg:
                yield _unparsed(node, keywords=[k for k in node.keywords if k is not keyword])


def _unparsed(node: ast.expr, **changes: object) -> str:
    changed = copy.copy(node)
    for name, value in changes.items():
        setattr(changed, name, value)
    text = ast.unparse(changed)
    return text if isinstance(node, ast.Call) else f"({text})"


def _statements(node: ast.stmt, returns: ast.expr | None) -> Iterator[str]:
    """Other statements in the place of this one: mostly, that it was forgotten."""
    match node:
        case ast.Raise() | ast.AugAssign() | ast.Delete() | ast.Expr(value=ast.Call()):
            silent = isinstance(node, ast.Expr) and not list(_children(node))
            yield from [] if silent else ["pass"]
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            used = (n.id for n in ast.walk(value) if isinstance(n, ast.Name))
            yield from ["pass"] if name in used else []
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            kind = ast.unparse(returns) if returns else ""
            text = ast.unparse(value)
            forms = {"bool": f"not ({text})", "float": f"2 * ({text})", "int": f"({text}) + 1"}
            yield f"return {forms.get(kind, 'None')}"
        case ast.Break():
            yield "continue"
        case ast.Continue():
            yield "break"
        case _:
            return


def function_at(source: bytes, line: int) -> tuple[str, str]:
    """``function`` and ``outer`` of a :class:`Mutant` in ``line``."""
    name, outer, body = "", "", ast.parse(source).body
    while True:
        around = [
            node
            for node in body
            if isinstance(node, ast.FunctionDef | ast.ClassDef)
            and node.lineno <= line <= (node.end_lineno or 0)
        ]
        if not around:
            return name, outer
        name, body = f"{name}.{around[0].name}".lstrip("."), around[0].body
        outer = outer or (name if isinstance(around[0], ast.FunctionDef) else "")
