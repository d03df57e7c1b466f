"""Recipes in the words of LLM Compressor: stages of modifiers in YAML. docs/RECIPES.md says which are understood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

from intact import recipes
from intact.errors import RequestError

if TYPE_CHECKING:
    from intact.recipes import Matrix, Recipe

MAX_DEPTH = 16
FEEDBACK = {"QuantizationModifier": False, "GPTQModifier": True}
"""Modifiers, and whether they ask for error feedback."""
KEYS = ("targets", "scheme", "ignore")

Value: TypeAlias = "str | list[Node] | dict[str, Node]"


@dataclass(frozen=True)
class Node:
    """A value with the place that messages name."""

    value: Value
    where: str

    def fault(self, problem: str) -> RequestError:
        """An error of this value."""
        return RequestError(f"{self.where}: {problem}")

    def mapping(self) -> dict[str, Node]:
        """A mapping with at least one key.

        Raises:
            RequestError: It is something else.
        """
        if not isinstance(self.value, dict) or not self.value:
            raise self.fault("it is no mapping with a key")
        return self.value

    def text(self) -> str:
        """A text.

        Raises:
            RequestError: It is something else.
        """
        if not isinstance(self.value, str):
            raise self.fault("it is no text")
        return self.value

    def texts(self) -> list[Node]:
        """A list of texts, or a single one.

        Raises:
            RequestError: It is something else.
        """
        items = self.value if isinstance(self.value, list) else [self]
        for item in items:
            item.text()
        return items


def parse(text: str, path: str) -> Node:
    """The content of a YAML file.

    Raises:
        RequestError: It is no YAML, holds anchors, aliases or anything else than mappings, lists and texts, gives a key
            twice, or is too deep.
    """
    try:
        depth = 0
        # Before anything is built: events come one at a time, whatever the document would grow to.
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark is not None else 1
            if getattr(event, "anchor", None) is not None:
                raise RequestError(f"{path}: line {line}: anchors and aliases are not allowed; write the value out")
            opened = isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent))
            depth += opened - isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent))
            if depth > MAX_DEPTH:
                raise RequestError(f"{path}: line {line}: more than {MAX_DEPTH} levels, which no recipe has")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}: line {mark.line + 1}" if mark is not None else path
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise RequestError(f"{place}: no YAML: {problem}") from error
    if root is None:
        raise RequestError(f"{path}: it is empty; a recipe has stages or `modifiers`")
    return _node(root, path, "")


def _node(node: yaml.Node, path: str, field: str) -> Node:
    where = f"{path}: line {node.start_mark.line + 1}" + (f": {field}" if field else "")
    if isinstance(node, yaml.MappingNode):
        content: dict[str, Node] = {}
        for key, value in node.value:
            name = _node(key, path, field).text()
            if name in content:
                raise RequestError(f"{path}: line {key.start_mark.line + 1}: {name}: the key occurs twice")
            content[name] = _node(value, path, f"{field}.{name}" if field else name)
        return Node(content, where)
    if isinstance(node, yaml.SequenceNode):
        return Node([_node(item, path, f"{field}[{i}]") for i, item in enumerate(node.value)], where)
    if node.tag != "tag:yaml.org,2002:str":
        raise RequestError(f"{where}: {node.value!r} is no text")
    return Node(str(node.value), where)


def wrap(value: Any, field: str = "", depth: int = 0) -> Node:
    """The same structure in Python's own mappings, lists and texts.

    Raises:
        RequestError: It holds anything else than mappings, lists and texts, or is too deep.
    """
    where = f"recipe: {field}" if field else "recipe"
    if depth > MAX_DEPTH:
        raise RequestError(f"{where}: more than {MAX_DEPTH} levels, which no recipe has")
    if isinstance(value, str):
        return Node(value, where)
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        inner = {key: wrap(item, f"{field}.{key}" if field else key, depth + 1) for key, item in value.items()}
        return Node(inner, where)
    if isinstance(value, (list, tuple)):
        return Node([wrap(item, f"{field}[{i}]", depth + 1) for i, item in enumerate(value)], where)
    raise RequestError(f"{where}: {value!r} is no text, list or mapping")


def apply(root: Node, matrices: Sequence[Matrix], out: Recipe) -> None:
    """Adds to a recipe what the modifiers decide, the later over the earlier.

    Raises:
        RequestError: A key, a modifier or a scheme is unknown, or a target or an ignored name fits no matrix.
    """
    modifiers = list(_modifiers(root))
    if not modifiers:
        raise root.fault("there is no modifier")
    for name, modifier in modifiers:
        if name not in FEEDBACK:
            raise modifier.fault(f"{name} is no modifier that Intact knows; use {' or '.join(FEEDBACK)}")
        settings = modifier.mapping()
        for key, value in settings.items():
            if key not in KEYS:
                raise value.fault(f"{key} is no key of {name} that Intact knows; use {', '.join(KEYS)}")
        if "scheme" not in settings:
            raise modifier.fault("the scheme is missing; give a weight format, such as P30b4")
        scheme = settings["scheme"]
        format = recipes.checked_format(scheme.text(), scheme.where)
        targets = settings["targets"].texts() if "targets" in settings else [Node("Linear", modifier.where)]
        ignored = settings["ignore"].texts() if "ignore" in settings else []
        chosen = {found for target in targets for found in _found(target, matrices)}
        chosen -= {found for target in ignored for found in _found(target, matrices)}
        out.formats.update(dict.fromkeys(sorted(chosen), format))
        out.feedback |= FEEDBACK[name]


def _modifiers(root: Node) -> Iterator[tuple[str, Node]]:
    """All modifiers in order, by name."""
    for stage, content in root.mapping().items():
        if stage == "modifiers":
            yield from _group(content)
        elif stage.endswith("_stage"):
            for group, inner in content.mapping().items():
                if not group.endswith("modifiers"):
                    raise inner.fault("it is no group of modifiers; end its name in `modifiers`")
                yield from _group(inner)
        else:
            raise content.fault("it is neither a stage, whose name ends in `_stage`, nor `modifiers`")


def _group(group: Node) -> Iterator[tuple[str, Node]]:
    for part in group.value if isinstance(group.value, list) else [group]:
        yield from part.mapping().items()


def _found(target: Node, matrices: Sequence[Matrix]) -> list[str]:
    """The matrices that a target names: a class of layers, `re:` and an expression from the name's start, or a name."""
    text = target.text()
    tied = all(role != "embedding" for _, role, *_ in matrices)
    if text == "Linear":
        names = [name for name, role, *_ in matrices if role != "embedding"]
    elif text == "Embedding":
        names = [name for name, role, *_ in matrices if role == ("head" if tied else "embedding")]
    elif text.startswith("re:"):
        pattern = recipes.compiled(text[3:], target.where)
        names = [matrix[0] for matrix in matrices if any(pattern.match(name) for name in recipes.names_of(matrix))]
    else:
        names = [matrix[0] for matrix in matrices if text in recipes.names_of(matrix)]
    if not names:
        raise target.fault(f"{text!r} fits no matrix; one name is {matrices[0][0]}")
    return names
