"""The sandbox that chat templates run in: jinja2's immutable one, without clock or randomness, and with a budget.

Every loop, call, operator and output of a template is charged to the budget of its render, so that no template can hold
the process or exhaust its memory. A budget is generous: many times what the templates of real models spend.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.sandbox

MAX_INPUT_CHARS = 1 << 22
MAX_RENDERED_CHARS = 1 << 24


class Template:
    """A compiled template. Raises whatever jinja2 does on malformed source."""

    def __init__(self, source: str) -> None:
        environment = _environment()
        self._template = environment.from_string(source)
        self._weight = _weight(environment.parse(source))

    def render(self, variables: dict[str, Any]) -> str:
        """The output for `variables`, which hold plain JSON values and functions.

        Raises jinja2.TemplateError, or what the template's own operations raise.
        """
        token = _budget.set(_Budget(variables, self._weight))
        try:
            return "".join(_limited(self._template.generate(variables)))
        finally:
            _budget.reset(token)


def _limited(chunks: Iterator[str]) -> Iterator[str]:
    length = 0
    for chunk in chunks:
        length += len(chunk)
        if length > MAX_RENDERED_CHARS:
            raise jinja2.TemplateError(f"its output is over {MAX_RENDERED_CHARS} characters")
        yield chunk


class _TooMuch(jinja2.TemplateError):
    """A template spends more than its budget."""

    def __init__(self) -> None:
        super().__init__("it does more work than its messages allow for; the template loops or grows without end")


class _Budget:
    """What one render may still spend, in units of about one step of the interpreter."""

    BASE = 1 << 24  # whatever the input
    PER_CHARACTER = 16  # of the input
    CALL = 16
    MACRO_CALL = 256  # beside the weight of what the macro may run
    CHARACTERS = 16  # that one unit copies or compares
    MAX_RESULT = 1 << 26  # characters or elements that one step may make
    MAX_INTEGER_BITS = 1 << 10

    def __init__(self, variables: dict[str, Any], weight: int) -> None:
        self._sizes: dict[int, int] = {}  # of the containers in the input, which live as long as this
        self._remember(variables)
        size = self._sizes[id(variables)]
        if size > MAX_INPUT_CHARS:
            raise jinja2.TemplateError(f"the messages have {size} characters; at most {MAX_INPUT_CHARS} are taken")
        self._units = self.BASE + self.PER_CHARACTER * size
        self._macro_call = self.MACRO_CALL + weight

    def charge(self, units: int) -> None:
        self._units -= units
        if self._units < 0:
            raise _TooMuch

    def charge_call(self, macro: bool) -> None:
        self.charge(self._macro_call if macro else self.CALL)

    def charge_values(self, *values: object) -> None:
        """Charges the handling of values that exist."""
        for value in values:
            if isinstance(value, (str, bytes)):
                self.charge(1 + len(value) // self.CHARACTERS)
            else:
                self.charge(1 + (len(value) if isinstance(value, (list, tuple, dict)) else 0))

    def allow_text(self, *values: object) -> None:
        """Refuses values that are too large to be written out or compared."""
        if sum(self.size(value) for value in values) > self.MAX_RESULT:
            raise _TooMuch

    def allow_growth(self, *values: object) -> None:
        """Refuses what a function of `values` could blow up.

        Text can be repeated by a number, a list joined by a text, a pattern replaced by a longer one.
        """
        sizes = sorted((self.size(value, number=True) for value in values), reverse=True) or [0]
        if (1 + sizes[0]) * (1 + sum(sizes[1:])) > self.MAX_RESULT:
            raise _TooMuch

    def size(self, value: object, number: bool = False) -> int:
        """Characters plus elements in `value`, parts that are shared counted each time.

        With `number`, an integer counts as its magnitude. Visiting an element is charged, since lists that share their
        parts can be exponentially large.
        """
        size, stack = 0, [value]
        while stack:
            item = stack.pop()
            size += 1
            if isinstance(item, (str, bytes)):
                size += len(item)
            elif isinstance(item, int):
                size += abs(int(item)) if number else item.bit_length() // 3
            elif isinstance(item, (list, tuple, dict)):
                known = self._sizes.get(id(item))
                if known is not None:
                    size += known
                    continue
                self.charge(1 + len(item))
                stack.extend(item)
                if isinstance(item, dict):
                    stack.extend(item.values())
            elif isinstance(item, range):
                size += len(item)
        return size

    def _remember(self, value: Any) -> None:
        if isinstance(value, (list, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                self._remember(item)
            parts = [*value, *value.values()] if isinstance(value, dict) else value
            self._units = len(parts) + 1
            self._sizes[id(value)] = sum(self.size(part) for part in parts)


_budget: ContextVar[_Budget] = ContextVar("chat_template_budget")
# Methods that make nothing longer than the text they are called on.
_FLAT = frozenset(
    (
        *("split", "rsplit", "splitlines", "partition", "rpartition", "strip", "lstrip", "rstrip", "lower", "upper"),
        *("count", "startswith", "endswith", "find", "rfind", "index", "rindex", "get", "items", "keys", "values"),
        "length",
    )
)
_LONG_WIDTH = re.compile(r"[0-9]{5}")


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The sandbox of Hugging Face's chat templates, with a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation], finalize=_output
        )
        for name in ("random", "pprint"):  # their results differ from run to run
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters["tojson"] = _tojson
        self.filters = {name: _charged(function) for name, function in self.filters.items()}
        self.filters.update({_ITERATED: _iterated, _JOINED: _joined, _MEASURED: _measured})
        self.globals["raise_exception"] = _raise_exception

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in list(tree.find_all(jinja2.nodes.For)):
            loop.iter = _apply(_ITERATED, loop.iter, jinja2.nodes.Const(_weight(loop)))
        return _meter_operators(tree)

    def call(self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        budget = _running()
        if isinstance(function, (jinja2.runtime.Macro, jinja2.runtime.LoopContext)):
            budget.charge_call(macro=True)
            return super().call(context, function, *args, **kwargs)
        owner = getattr(getattr(function, "__wrapped__", function), "__self__", None)  # the sandbox wraps str.format
        _allow_call(function, owner if isinstance(owner, (str, list, dict)) else None, *args, *kwargs.values())
        result = super().call(context, function, *args, **kwargs)
        budget.charge_values(result)
        return result

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        budget = _running()
        budget.charge_values(left, right)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            if bits > budget.MAX_INTEGER_BITS:
                raise _TooMuch
        elif operator == "%" and isinstance(left, str):
            _allow_call(str.format, left, right)
        elif operator == "*":
            budget.allow_growth(left, right)
        result = super().call_binop(context, operator, left, right)
        budget.charge_values(result)
        return result


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training; for a prompt its body is plain content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


# Names that no template can write, for filters that only the rewritten syntax tree uses.
_ITERATED, _JOINED, _MEASURED = " iterated", " joined", " measured"


def _apply(name: str, argument: jinja2.nodes.Node, *more: jinja2.nodes.Expr) -> jinja2.nodes.Filter:
    assert argument.environment is not None  # the parser sets it
    node = jinja2.nodes.Filter(argument, name, list(more), [], None, None, lineno=argument.lineno)
    node.set_environment(argument.environment)
    return node


def _weight(node: jinja2.nodes.Node) -> int:
    """What running `node` once costs, in units: a loop over a long body is more work than one over a short."""
    return sum(1 for _ in node.find_all(jinja2.nodes.Node))


def _meter_operators(tree: jinja2.nodes.Template) -> jinja2.nodes.Template:
    """Sends concatenations and comparisons through filters, since the sandbox has no hook for them."""

    def visit(node: Any) -> Any:
        if not isinstance(node, jinja2.nodes.Node):
            return node
        for field, value in node.iter_fields():
            setattr(node, field, [visit(item) for item in value] if isinstance(value, list) else visit(value))
        if isinstance(node, jinja2.nodes.Concat):
            operands = jinja2.nodes.Tuple(node.nodes, "load", lineno=node.lineno, environment=node.environment)
            return _apply(_JOINED, operands)
        if isinstance(node, (jinja2.nodes.Compare, jinja2.nodes.Operand)):
            node.expr = _apply(_MEASURED, node.expr)
        return node

    visit(tree)
    return tree


def _iterated(iterable: Any, weight: int) -> Any:
    budget = _running()
    if not hasattr(iterable, "__len__"):
        iterable = list(iterable)
    budget.charge(1 + weight * len(iterable))
    return iterable


def _joined(operands: tuple[Any, ...]) -> str:
    budget = _running()
    budget.allow_text(*operands)
    result = "".join(map(str, operands))
    budget.charge_values(result)
    return result


def _measured(value: Any) -> Any:
    budget = _running()
    budget.allow_text(value)
    budget.charge_values(value)
    return value


def _output(value: Any) -> Any:
    """Runs on every value that a template prints, and on constants when it is compiled."""
    return value if _budget.get(None) is None else _measured(value)


def _running() -> _Budget:
    """The budget of this render. While a template is compiled there is none, and nothing is computed in advance."""
    budget = _budget.get(None)
    if budget is None:
        raise jinja2.nodes.Impossible
    return budget


def _allow_call(function: object, *arguments: object) -> None:
    budget, name = _running(), getattr(function, "__name__", "").removeprefix("do_")
    budget.charge_call(macro=False)
    budget.charge_values(*(argument for argument in arguments if isinstance(argument, str)))
    if name.startswith("format") and any(isinstance(text, str) and _LONG_WIDTH.search(text) for text in arguments):
        raise jinja2.TemplateError("it formats to a width of 10000 or more")
    if name not in _FLAT:
        budget.allow_growth(*arguments)


def _charged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        budget = _running()
        _allow_call(function, *args, *kwargs.values())
        result = function(*args, **kwargs)
        budget.charge_values(result)
        return result

    return call


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja's own filter escapes HTML and sorts keys.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


_DIRECTIVE = re.compile(r"(?:[^%]|%-?[A-Za-z%])*")  # no widths


def strftime(now: datetime) -> Callable[[str], str]:
    """The function `strftime_now` of a template, at a given time."""

    def strftime_now(format: str) -> str:
        if len(format) > 100 or not _DIRECTIVE.fullmatch(format):
            raise jinja2.TemplateError(f"strftime_now: the format {format[:100]!r} is not supported")
        return now.strftime(format)

    return strftime_now


@functools.cache
def _environment() -> _Environment:
    return _Environment()
