"""A jinja2 sandbox that bounds what templates do and what they build.

Not everything is: a list that holds itself many times over, written out as text, still grows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

from jinja2 import Environment, nodes
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MOST_STEPS = 100_000  # rounds of loops and calls of macros in one rendering
MOST_CHARACTERS = 16 << 20  # printed in one rendering, blocks that are set and macros included
MOST_SIZE = 4 << 20  # of one value that an operator, a filter or a method makes: characters, items or bits
GROWING = ("center", "format", "indent", "join", "replace", "wordwrap")  # filters
METHODS = ("center", "expandtabs", "format", "format_map", "join", "ljust", "replace", "rjust", "zfill")
NUMBER = re.compile(r"\d{6,}")  # a width in a format


class _Counting(NodeTransformer):
    """Puts a call into every loop and macro, and another in place of `~`; templates cannot reach either."""

    def _counted(self, node: Any) -> Any:
        self.generic_visit(node)
        literal = sum(len(t.data) for body in node.body for t in _texts(body))
        step = _call("count_step", [nodes.Const(literal)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _counted

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("join_texts", node.nodes, node.lineno)


def _texts(node: nodes.Node) -> list[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else list(node.find_all(nodes.TemplateData))


def _call(name: str, values: list[nodes.Expr], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), values, [], None, None, lineno=line)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """For one rendering: it counts. What exceeds a bound is a SecurityError."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=self._print, **options)
        self._steps = self._characters = 0
        for name in GROWING:
            self.filters[name] = _guarded(name, self.filters[name])

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = _Counting().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree  # type: ignore[no-any-return]

    def count_step(self, literal: int) -> None:
        """One more round of a loop or call of a macro, which holds that many characters of text."""
        self._steps += 1
        self._characters += literal
        if self._steps > MOST_STEPS:
            raise SecurityError(f"it takes more than {MOST_STEPS} steps")
        self._check_printed()

    def join_texts(self, *values: Any) -> str:
        """The `~` of templates."""
        texts = [str(v) for v in values]
        _check(sum(map(len, texts)))
        return "".join(texts)

    def _print(self, value: Any) -> str:
        text = str(value)
        self._characters += len(text)
        self._check_printed()
        return text

    def _check_printed(self) -> None:
        if self._characters > MOST_CHARACTERS:
            raise SecurityError(f"it writes more than {MOST_CHARACTERS} characters")

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuses an operation before it makes something huge."""
        if operator == "**":
            _check(_bits(left) * abs(right) if isinstance(right, int) else 0)
        elif operator == "*" and isinstance(left, int) and isinstance(right, int):
            _check(_bits(left) + _bits(right))
        elif operator == "*" and (hasattr(left, "__len__") or hasattr(right, "__len__")):
            _check(_size(left) * _size(right))
        elif operator == "+":
            _check(_size(left) + _size(right) if hasattr(left, "__len__") else 0)
        elif operator == "%" and isinstance(left, str):
            _check_format(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Refuses a call of a text's method before it makes something huge."""
        method = getattr(__obj, "__wrapped__", __obj)  # jinja2 wraps `str.format`
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str) and method.__name__ in METHODS:
            _check_call(method.__name__, [owner, *args, *kwargs.values()])
        return super().call(__context, __obj, *args, **kwargs)


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is refused before it makes something huge."""

    @wraps(function)  # with jinja2's marks of what the filter gets first
    def checked(*values: Any, **named: Any) -> Any:
        plain = [list(v) if isinstance(v, Iterator) else v for v in values]
        given = [v for v in (*plain, *named.values()) if not isinstance(v, EvalContext | Environment)]
        _check_call(name, given)
        return function(*plain, **named)

    return checked


def _check_call(name: str, values: Sequence[Any]) -> None:
    """Bounds what a method or filter makes of a text and further values."""
    subject, *rest = values
    sizes = [_size(v) for v in rest]
    if name == "replace" and len(rest) > 1:
        _check(_size(subject) + (_size(subject) // max(1, sizes[0]) + 1) * sizes[1])
    elif name == "join":
        items, separator = (rest[0], subject) if isinstance(subject, str) and rest else (subject, "".join(rest[:1]))
        _check(_size(items) + (len(items) if hasattr(items, "__len__") else 1) * len(separator))
    elif name.startswith("format"):
        _check_format(str(subject), rest)
    else:  # a width, or what stands before each line
        breaks = 1 + str(subject).count("\n") + str(subject).count("\t")
        _check(_size(subject) + breaks * max(sizes, default=0))


def _check_format(form: str, values: Any) -> None:
    if "*" in form or any(int(n) > MOST_SIZE for n in NUMBER.findall(form)):
        raise SecurityError("it formats with a width that is too large")
    _check(len(form) + (form.count("%") + form.count("{")) * _size(values))


def _size(value: Any) -> int:
    """Characters of a text, items and their characters of a list, a number itself."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(len(v) if isinstance(v, str) else 1 for v in value)
    if isinstance(value, int):
        return abs(value)
    return len(value) if hasattr(value, "__len__") else 1


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 64


def _check(size: int) -> None:
    if size > MOST_SIZE:
        raise SecurityError(f"it makes a value of more than {MOST_SIZE} characters, items or bits")
