"""Expressions in definitions: Jinja's language in a sandbox of our own. Pure: no Django.

``{{ start.email }}`` alone keeps the type of its value; text around it makes text. A name that is not there is an error.

Jinja's sandbox reads a text, and nothing of Python is made of it: each node of an allow-list becomes a small function of
ours. So there is no attribute of a Python object to reach, no global, no loop and no format string, comparisons and slices
are charged like filters (`apps.lib.filters`), which Jinja's own code would not let us do, and values are never read back
from rendered text. What goes in is never changed, and what comes out is a copy of JSON's kinds.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateSyntaxError, nodes
from jinja2.lexer import Token, TokenStream
from jinja2.sandbox import ImmutableSandboxedEnvironment

from . import filters
from .filters import FILTERS, METHOD_NAMES, TESTS, Entry, ExpressionError, Missing, Work

__all__ = [
    "ExpressionError", "check", "fill", "has_expression", "is_one_expression", "is_true", "names_in", "render",
    "resolve_mentions", "unknown_mentions",
]  # fmt: skip

MOST_NODES = 400  # of one expression
MOST_NESTING = 100  # of nodes in one another
MOST_TOKENS = 50_000  # of one text
MOST_LITERAL = 1_000_000  # characters of a text that holds expressions
CACHED_UP_TO = 8_192  # characters: longer texts with expressions are compiled each time
MARKS = ("{{", "{%", "{#")
MENTION = re.compile(r"@\[([^\[\]\r\n]{1,200})\]")

Code = Callable[[Work], Any]


# -- Evaluating --------------------------------------------------------------------------------------------------------
def has_expression(value: Any) -> bool:
    """Whether a text, or any text inside of lists and objects, has an expression."""
    if isinstance(value, str):
        return any(mark in value for mark in MARKS)
    if isinstance(value, Mapping):
        return any(has_expression(member) for member in value.values())
    return isinstance(value, (list, tuple)) and any(has_expression(item) for item in value)


def fill(value: Any, names: Mapping[str, Any], *, load_file: Callable[[str], bytes] | None = None) -> Any:
    """A value with every expression inside of it evaluated, in lists and objects too; keys stay as they are written.

    A copy of JSON's kinds: dates and times become ISO 8601 texts. ``load_file`` gives a file's bytes by its id, or raises
    LookupError. All of it together is bounded to about a second. Raises `ExpressionError`.
    """
    try:
        return _filled(value, Work(names, load_file))
    except RecursionError:
        raise ExpressionError("Lists and objects stand in one another too deep.") from None


def _filled(value: Any, work: Work) -> Any:
    if isinstance(value, str):
        return _evaluated(value, work, final=True) if has_expression(value) else value
    if isinstance(value, Mapping):
        return {name: _filled(member, work) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(item, work) for item in value]
    return value


def render(text: str, names: Mapping[str, Any]) -> str:
    """A text with its expressions evaluated, as text also where it is a single expression. Raises `ExpressionError`."""
    work = Work(names)
    return filters.as_text(work, _evaluated(text, work, final=True) if has_expression(text) else text)


def is_true(value: Any, names: Mapping[str, Any]) -> bool:
    """The truth of a condition: an expression, or a boolean. Raises `ExpressionError`, also for a text beside it.

    Empty texts, lists and objects, zero and null are false.
    """
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or not is_one_expression(value):
        raise ExpressionError("A condition is true, false or one expression in {{ }}, without text around it.")
    return bool(_evaluated(value, Work(names), final=False))


def _evaluated(text: str, work: Work, *, final: bool) -> Any:
    compiled = _compiled(text)
    try:
        if compiled.single is not None:
            value = compiled.single(work)
            return filters.plain(work, value) if final else value
        return "".join(part if isinstance(part, str) else _shown(part, work) for part in compiled.parts)
    except ExpressionError as error:
        raise _located(str(error), text) from None
    except RecursionError:
        raise _located("lists and objects stand in one another too deep", text) from None
    except (TypeError, ValueError, ArithmeticError, LookupError, MemoryError):
        # Without the error's own words, which may hold what the values are.
        raise _located("this cannot be done with these values", text) from None


def _shown(code: Code, work: Work) -> str:
    return filters.as_text(work, code(work))


def _located(reason: str, text: str) -> ExpressionError:
    shown = " ".join(text[:1000].split())
    shown = shown if len(shown) <= 100 else f"{shown[:99]}…"
    return ExpressionError(f"{shown}: {reason}")


# -- Before it runs ----------------------------------------------------------------------------------------------------
def check(text: str) -> str | None:
    """What is wrong with the expressions in a text, without evaluating them; None where nothing is."""
    try:
        _compiled(text)
    except ExpressionError as error:
        return str(error)
    return None


def is_one_expression(text: str) -> bool:
    """Whether this is a single expression, which keeps its type; line breaks after it, as YAML's blocks have, do not count.

    Raises `ExpressionError`.
    """
    return has_expression(text) and _compiled(text).single is not None


def names_in(text: str) -> set[tuple[str, ...]]:
    """Paths of names that a text's expressions use: ``{("steps", "issue", "output", "number"), ("start", "email")}``.

    A path ends at what is known only when it is evaluated. Raises `ExpressionError`.
    """
    return set(_compiled(text).names) if has_expression(text) else set()


def resolve_mentions(text: str, names: Mapping[str, str]) -> str:
    """Replaces ``@[Employee Name]`` by ``{{ start.employee_name }}``, and by the bare name inside of ``{{ }}``.

    ``names`` are API names by display names. Raises `ExpressionError` that names all of those it does not know.
    """
    if unknown := unknown_mentions(text, names):
        raise ExpressionError(f"There is no start parameter named {', '.join(unknown)}.")
    outside = {name: f"{{{{ start.{api_name} }}}}" for name, api_name in names.items()}
    inside = {name: f"start.{api_name}" for name, api_name in names.items()}
    return "".join(_with_mentions(piece, inside if is_inside else outside) for piece, is_inside in _pieces(text))


def _with_mentions(text: str, meant: Mapping[str, str]) -> str:
    return MENTION.sub(lambda match: meant[match[1].strip()], text)


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, each with whether it is a ``{{ … }}``. Each character is looked at once, whatever is not closed."""
    at = 0
    while (begin := text.find("{{", at)) >= 0 and (end := text.find("}}", begin + 2)) >= 0:
        yield text[at:begin], False
        yield text[begin : end + 2], True
        at = end + 2
    yield text[at:], False


def unknown_mentions(text: str, names: Mapping[str, str]) -> list[str]:
    """The display names that a text mentions and that are not there, each once."""
    found = (match[1].strip() for match in MENTION.finditer(text))
    return list(dict.fromkeys(name for name in found if name not in names))


# -- Compiling ---------------------------------------------------------------------------------------------------------
class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox as a reader: bounded in what it reads, without a global, filter or test of Jinja's own."""

    def _tokenize(
        self, source: str, name: str | None, filename: str | None = None, state: str | None = None
    ) -> TokenStream:
        return TokenStream(_at_most(super()._tokenize(source, name, filename, state)), name, filename)


def _at_most(tokens: Iterator[Token]) -> Iterator[Token]:
    for number, token in enumerate(tokens):
        if number > MOST_TOKENS:
            raise ExpressionError("the expressions are too long")
        yield token


ENVIRONMENT = _Environment(keep_trailing_newline=True, cache_size=0)
ENVIRONMENT.globals.clear()
ENVIRONMENT.filters.clear()
ENVIRONMENT.tests.clear()


@dataclass(frozen=True)
class Compiled:
    """A text made ready: ``single`` is its one expression, where it is nothing else."""

    parts: tuple[str | Code, ...]
    names: frozenset[tuple[str, ...]]

    @property
    def single(self) -> Code | None:
        first, rest = (self.parts[0] if self.parts else ""), self.parts[1:]
        return None if isinstance(first, str) or any(rest) else first


def _compiled(text: str) -> Compiled:
    return _compiled_and_kept(text) if len(text) <= CACHED_UP_TO else _compile_text(text)


@lru_cache(maxsize=4096)
def _compiled_and_kept(text: str) -> Compiled:
    return _compile_text(text)


def _compile_text(text: str) -> Compiled:
    if len(text) > MOST_LITERAL:
        raise ExpressionError(f"A text with expressions has {MOST_LITERAL:,} characters at most")
    try:
        tree = ENVIRONMENT.parse(text)
        outputs = [node for statement in tree.body for node in _printed(statement)]
        for node in outputs:
            _measure(node)
        parts: list[str | Code] = [
            node.data if isinstance(node, nodes.TemplateData) else _strict(node) for node in outputs
        ]
        return Compiled(_without_end(parts), frozenset(path for node in outputs for path in _paths(node)))
    except ExpressionError as error:
        raise _located(str(error), text) from None
    except TemplateSyntaxError as error:
        raise _located((error.message or "this is no expression").rstrip("."), text) from None
    except RecursionError:
        raise _located("brackets stand in one another too deep", text) from None
    except ValueError:  # a literal of thousands of digits, an escape that is none
        raise _located("a literal cannot be read", text) from None


def _printed(statement: nodes.Node) -> list[nodes.Expr]:
    if isinstance(statement, nodes.Output):
        return statement.nodes
    raise ExpressionError("statements are not there: only {{ expressions }}, as in {{ a if b else c }}")


def _without_end(parts: list[str | Code]) -> tuple[str | Code, ...]:
    """Without the line breaks after a single expression."""
    if len(parts) == 2 and not isinstance(parts[0], str) and isinstance(parts[1], str) and not parts[1].strip("\r\n"):
        return (parts[0],)
    return tuple(parts)


def _measure(node: nodes.Node) -> None:
    """Raises `ExpressionError` for what is too large, before anything walks it."""
    count, level = 0, [node]
    for _ in range(MOST_NESTING):
        count += len(level)
        if count > MOST_NODES:
            raise ExpressionError(f"an expression has {MOST_NODES} parts at most")
        level = [child for parent in level for child in parent.iter_child_nodes()]
        if not level:
            return
    raise ExpressionError(f"an expression is nested {MOST_NESTING} deep at most")


def _strict(node: nodes.Node) -> Code:
    """What evaluates a node and fails where it is missing."""
    code = _code(node)
    if not isinstance(node, LENIENT):
        return code

    def strict(work: Work) -> Any:
        value = code(work)
        if value.__class__ is Missing:
            raise ExpressionError(f"{value.path} is not there")
        return value

    return strict


def _code(node: nodes.Node) -> Code:
    """What evaluates a node; of `LENIENT` ones it may give `Missing`."""
    make = COMPILERS.get(type(node))
    if make is None:
        raise ExpressionError("this is not there")
    return make(node)


def _const(node: nodes.Const) -> Code:
    value = filters.bounded(node.value)
    return lambda work: value


def _name(node: nodes.Name) -> Code:
    name, missing = node.name, Missing(node.name)
    return lambda work: work.names.get(name, missing)


def _getattr(node: nodes.Getattr) -> Code:
    inner, name, path = _code(node.node), node.attr, _shown_path(node)
    missing = Missing(path)

    def code(work: Work) -> Any:
        value = inner(work)
        if value.__class__ is dict:
            return value.get(name, missing)
        return filters.attribute(value, name, path)

    return code


def _getitem(node: nodes.Getitem) -> Code:
    if isinstance(node.arg, nodes.Slice):
        return _slice(node, node.arg)
    inner, argument, path = _code(node.node), _strict(node.arg), _shown_path(node)
    return lambda work: _item(inner(work), argument(work), path)


def _item(value: Any, key: Any, path: str) -> Any:
    if isinstance(value, (str, list, tuple)):
        if isinstance(key, int) and not isinstance(key, bool):
            return value[key] if -len(value) <= key < len(value) else Missing(path)
    elif isinstance(value, dict):
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key) if key.bit_length() < 64 else ""
        return value.get(key, Missing(path)) if isinstance(key, str) else Missing(path)
    return value if isinstance(value, Missing) else Missing(path)


def _slice(node: nodes.Getitem, cut: nodes.Slice) -> Code:
    inner = _strict(node.node)
    bounds = [_strict(bound) if bound is not None else None for bound in (cut.start, cut.stop, cut.step)]

    def code(work: Work) -> Any:
        value = inner(work)
        if not isinstance(value, (str, list, tuple)):
            raise ExpressionError(f"only texts and lists have slices, not {filters.kind(value)}")
        work.charge(len(value))
        return value[slice(*(bound(work) if bound is not None else None for bound in bounds))]

    return code


def _list(node: nodes.List | nodes.Tuple) -> Code:
    items = [_strict(item) for item in node.items]
    return lambda work: [item(work) for item in items]


def _dict(node: nodes.Dict) -> Code:
    pairs = [(_strict(pair.key), _strict(pair.value)) for pair in node.items]

    def code(work: Work) -> Any:
        made = {key(work): value(work) for key, value in pairs}
        if not all(isinstance(key, str) for key in made):
            raise ExpressionError("an object's keys are texts")
        return made

    return code


def _choice(node: nodes.CondExpr) -> Code:
    test, one = _strict(node.test), _code(node.expr1)
    missing = Missing("the value of an if without else")
    other = _code(node.expr2) if node.expr2 is not None else lambda work: missing
    return lambda work: one(work) if test(work) else other(work)


def _and(node: nodes.And) -> Code:
    left, right = _strict(node.left), _strict(node.right)
    return lambda work: left(work) and right(work)


def _or(node: nodes.Or) -> Code:
    left, right = _strict(node.left), _strict(node.right)
    return lambda work: left(work) or right(work)


def _not(node: nodes.Not) -> Code:
    inner = _strict(node.node)
    return lambda work: not inner(work)


def _signed(node: nodes.Neg | nodes.Pos) -> Code:
    inner, sign = _strict(node.node), -1 if isinstance(node, nodes.Neg) else 1
    return lambda work: sign * _number(inner(work), node.operator)


def _compare(node: nodes.Compare) -> Code:
    first = _strict(node.expr)
    rest = [(COMPARISONS[operand.op], _strict(operand.expr)) for operand in node.ops]

    def code(work: Work) -> bool:
        left = first(work)
        for compare, operand in rest:
            right = operand(work)
            if not compare(work, left, right):
                return False
            left = right
        return True

    return code


COMPARISONS: dict[str, Callable[[Work, Any, Any], bool]] = {
    "eq": filters.equal,
    "ne": lambda work, a, b: not filters.equal(work, a, b),
    "lt": filters.less,
    "gt": lambda work, a, b: filters.less(work, b, a),
    "lteq": lambda work, a, b: not filters.less(work, b, a),
    "gteq": lambda work, a, b: not filters.less(work, a, b),
    "in": lambda work, a, b: filters.contains(work, b, a),
    "notin": lambda work, a, b: not filters.contains(work, b, a),
}


def _number(value: Any, sign: str) -> Any:
    if isinstance(value, (int, float)):
        return value
    raise ExpressionError(f"{sign} takes numbers, not {filters.kind(value)}")


def _add(node: nodes.Add) -> Code:
    left, right = _strict(node.left), _strict(node.right)

    def code(work: Work) -> Any:
        one, other = left(work), right(work)
        if isinstance(one, str) and isinstance(other, str):
            work.charge(len(one) + len(other))
            return one + other
        if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
            work.charge(10 * (len(one) + len(other)))
            return [*one, *other]
        if isinstance(one, (int, float)) and isinstance(other, (int, float)):
            return filters.bounded(one + other)
        raise ExpressionError(
            f"+ joins two numbers, two texts or two lists, not {filters.kind(one)} and {filters.kind(other)}"
        )

    return code


def _concat(node: nodes.Concat) -> Code:
    """``a ~ b``: what both sides are among text, as one text."""
    parts = [_strict(part) for part in node.nodes]

    def code(work: Work) -> str:
        texts = [filters.as_text(work, part(work)) for part in parts]
        work.charge(sum(map(len, texts)))
        return "".join(texts)

    return code


def _arithmetic(node: nodes.BinExpr) -> Code:
    left, right, act = _strict(node.left), _strict(node.right), ARITHMETIC[type(node)]
    sign = node.operator

    def code(work: Work) -> Any:
        one, other = _number(left(work), sign), _number(right(work), sign)
        try:
            return filters.bounded(act(one, other))
        except ZeroDivisionError:
            raise ExpressionError("a number is divided by zero") from None
        except OverflowError:
            raise ExpressionError("the number is too large") from None

    return code


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and abs(base) > 1:
        if exponent * base.bit_length() > 2 * filters.MOST_BITS:
            raise OverflowError
        if exponent < 0:
            base = float(base)
    return base**exponent


ARITHMETIC: dict[Any, Callable[[Any, Any], Any]] = {
    nodes.Sub: operator.sub,
    nodes.Mul: operator.mul,
    nodes.Div: operator.truediv,
    nodes.FloorDiv: operator.floordiv,
    nodes.Mod: operator.mod,
    nodes.Pow: _power,
}


def _arguments(
    node: nodes.Filter | nodes.Test | nodes.Call, compile_one: Callable[[nodes.Node], Code]
) -> tuple[list[Code], dict[str, Code]]:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise ExpressionError("arguments are written one by one, without * and **")
    words = _words(node)
    named = {word.key: compile_one(word.value) for word in words}
    if len(named) < len(words):
        raise ExpressionError("an argument is given twice")
    return [compile_one(argument) for argument in node.args], named


def _words(node: nodes.Filter | nodes.Test | nodes.Call) -> list[nodes.Keyword]:
    return [word for word in node.kwargs if isinstance(word, nodes.Keyword)]  # of the grammar's two kinds this one


def _applied(node: nodes.Filter | nodes.Test, entry: Entry) -> Code:
    """A filter or test on what stands before it."""
    if node.node is None:
        raise ExpressionError("a filter stands behind a value")
    entry.check(node.name, len(node.args), [word.key for word in _words(node)])
    inner = _code(node.node) if entry.lenient else _strict(node.node)
    args, named = _arguments(node, _code if entry.function is filters.default else _strict)
    _check_inner(node, entry)
    function = entry.function
    if not args and not named:
        return lambda work: function(work, inner(work))
    return lambda work: function(
        work, inner(work), *[code(work) for code in args], **{name: code(work) for name, code in named.items()}
    )


# Filters that are given the name of a filter or test: at which place, and in which table it stands.
TAKES_NAME: dict[Callable[..., Any], tuple[int, Mapping[str, Entry], str]] = {
    filters.map_items: (0, FILTERS, "filter"),
    filters.select: (0, TESTS, "test"),
    filters.reject: (0, TESTS, "test"),
    filters.select_by: (1, TESTS, "test"),
    filters.reject_by: (1, TESTS, "test"),
}


def _check_inner(node: nodes.Filter | nodes.Test, entry: Entry) -> None:
    place, table, what = TAKES_NAME.get(entry.function, (0, {}, ""))
    given = node.args[place] if what and len(node.args) > place else None
    if isinstance(given, nodes.Const):
        name = given.value
        filters.named(table, name, what).check(name, len(node.args) - place - 1, [])


def _filter(node: nodes.Filter) -> Code:
    return _applied(node, filters.named(FILTERS, node.name, "filter"))


def _test(node: nodes.Test) -> Code:
    return _applied(node, filters.named(TESTS, node.name, "test"))


def _call(node: nodes.Call) -> Code:
    if not isinstance(node.node, nodes.Getattr):
        raise ExpressionError("there are no functions, only filters, as in {{ value | filter }}, and a few methods")
    name, path = node.node.attr, _shown_path(node.node)
    if name not in METHOD_NAMES:
        raise ExpressionError(f"there is no method {name[:50]!r}")
    inner = _strict(node.node.node)
    args, named = _arguments(node, _strict)

    def code(work: Work) -> Any:
        value = inner(work)
        if isinstance(value, dict) and name in value:
            raise ExpressionError(f"{path} is a member, not a method")
        entry = filters.method_of(value, name)
        if entry is None:
            raise ExpressionError(f"{path} is not there: {filters.kind(value)} has no such method")
        entry.check(name, len(args), list(named))
        return entry.function(
            work, value, *[code(work) for code in args], **{word: code(work) for word, code in named.items()}
        )

    return code


COMPILERS: dict[Any, Callable[[Any], Code]] = {
    nodes.Const: _const, nodes.Name: _name, nodes.Getattr: _getattr, nodes.Getitem: _getitem, nodes.List: _list,
    nodes.Tuple: _list, nodes.Dict: _dict, nodes.CondExpr: _choice, nodes.And: _and, nodes.Or: _or, nodes.Not: _not,
    nodes.Neg: _signed, nodes.Pos: _signed, nodes.Compare: _compare, nodes.Add: _add, nodes.Concat: _concat,
    nodes.Filter: _filter, nodes.Test: _test, nodes.Call: _call,
} | dict.fromkeys(ARITHMETIC, _arithmetic)  # fmt: skip
LENIENT = (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.CondExpr, nodes.Filter)


# -- Paths -------------------------------------------------------------------------------------------------------------
def _steps_of(node: nodes.Node) -> tuple[str, ...] | None:
    """The path that a chain of names is, as far as it is written; None for what does not begin with a name."""
    if isinstance(node, nodes.Name):
        return (node.name,)
    if isinstance(node, nodes.Getattr):
        before = _steps_of(node.node)
        return (*before, node.attr) if before else None
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, (str, int)):
        before = _steps_of(node.node)
        return (*before, str(node.arg.value)) if before else None
    return None


def _shown_path(node: nodes.Getattr | nodes.Getitem) -> str:
    """How an error names it."""
    steps = _steps_of(node)
    if steps:
        return ".".join(steps)[:300]
    last = f".{node.attr}" if isinstance(node, nodes.Getattr) else "[…]"
    before = _steps_of(node.node)
    return f"{'.'.join(before)[:300] if before else 'the value'}{last}"


def _paths(node: nodes.Node) -> Iterator[tuple[str, ...]]:
    """The longest path of every chain of names; a method's name is none of it."""
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        yield from _paths(node.node.node)
        for child in (*node.args, *node.kwargs):
            yield from _paths(child)
        return
    steps = _steps_of(node)
    if steps:
        yield steps
        return
    for child in node.iter_child_nodes():
        yield from _paths(child)
