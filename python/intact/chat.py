"""Chat templates: messages to prompt text, by the rules of Hugging Face's `apply_chat_template`.

A template comes with the model, so it is untrusted code; `chat_sandbox` is where it runs. It is compiled when it is
first used, since many programs that load a model never chat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from intact.errors import TokenizerError

if TYPE_CHECKING:
    from intact import chat_sandbox

MAX_TEMPLATE_CHARS = 1 << 18
_MAX_DEPTH = 32  # nesting of a message's values


class ChatTemplate:
    """The chat templates of one model.

    `templates` maps names to jinja sources; `default` is used, or `tool_use` where it exists and tools are given.
    `special_tokens` (`bos_token`, `eos_token`, …) are visible to them as variables.
    """

    def __init__(self, templates: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self._special_tokens = dict(special_tokens)
        self._sources = dict(templates)
        self._compiled: dict[str, chat_sandbox.Template] = {}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        now: datetime | None = None,
        **extra: Any,
    ) -> str:
        """The prompt for `messages`, each a mapping with `role` and `content`.

        `content` is a string, or a list of `{"type": "text", "text": …}` parts, which are joined by newlines; it may be
        absent beside `tool_calls`. `add_generation_prompt` asks for the opening of the assistant's answer. `now` gives
        the template `strftime_now`; without it a template that asks for the date finds the function undefined, since
        a prompt has to be the same whenever it is made. `extra` (`tools`, `enable_thinking`, …) holds further
        variables, of plain JSON types. Raises TokenizerError.
        """
        variables: dict[str, Any] = {"tools": None, "documents": None, **self._special_tokens}
        variables.update({key: _plain(value, key) for key, value in extra.items()})
        variables["messages"] = _messages(messages)
        variables["add_generation_prompt"] = bool(add_generation_prompt)
        if now is not None:
            from intact import chat_sandbox

            variables["strftime_now"] = chat_sandbox.strftime(now)

        template = self._template(self._choose(variables["tools"] is not None))
        try:
            return template.render(variables)
        except Exception as error:
            raise TokenizerError(f"chat template: {error or type(error).__name__}{_hint(error)}") from error

    def _template(self, name: str) -> chat_sandbox.Template:
        template = self._compiled.get(name)
        if template is None:
            template = self._compiled[name] = _compile(name, self._sources[name])
        return template

    def _choose(self, tools: bool) -> str:
        for name in ("tool_use", "default") if tools else ("default",):
            if name in self._sources:
                return name
        if len(self._sources) == 1:
            return next(iter(self._sources))
        names = ", ".join(sorted(self._sources)) or "none"
        raise TokenizerError(f"chat template: the model has no template named `default` (it has: {names})")


def _messages(messages: object) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes)) or not isinstance(messages, Sequence):
        raise TokenizerError("messages: expected a list of {role, content} mappings")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: object, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TokenizerError(f"{where}: expected a mapping with role and content, not {type(message).__name__}")
    plain: dict[str, Any] = _plain(message, where)
    if not isinstance(plain.get("role"), str):
        raise TokenizerError(f"{where}.role: expected a string")
    content = plain.get("content")
    if isinstance(content, list):
        plain["content"] = "\n".join(_text_part(part, f"{where}.content[{i}]") for i, part in enumerate(content))
    elif not isinstance(content, str) and not (content is None and plain.get("tool_calls")):
        raise TokenizerError(f"{where}.content: expected a string or a list of text parts")
    return plain


def _text_part(part: object, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise TokenizerError(
            f'{where}: expected {{"type": "text", "text": …}}; other kinds of content are not supported'
        )
    text: str = part["text"]
    return text


def _plain(value: object, where: str, depth: int = 0) -> Any:
    """A copy of `value` in plain JSON types: an object of any other type would bring its methods into the sandbox."""
    if depth > _MAX_DEPTH:
        raise TokenizerError(f"{where}: nested more than {_MAX_DEPTH} levels deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise TokenizerError(
                f"{where}: holds a lone surrogate, which is not Unicode text; decode the input as UTF-8"
            )
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TokenizerError(f"{where}: expected a mapping whose keys are strings")
        return {str.__str__(key): _plain(item, f"{where}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise TokenizerError(f"{where}: expected plain JSON values, not {type(value).__name__}")


def _hint(error: Exception) -> str:
    return "; the template needs the date: give `now`" if "'strftime_now' is undefined" in str(error) else ""


def _compile(name: str, source: str) -> chat_sandbox.Template:
    if len(source) > MAX_TEMPLATE_CHARS:
        raise TokenizerError(f"chat template `{name}`: {len(source)} characters, at most {MAX_TEMPLATE_CHARS} are read")
    from intact import chat_sandbox

    try:
        return chat_sandbox.Template(source)
    except Exception as error:
        raise TokenizerError(f"chat template `{name}`: {error or type(error).__name__}") from error
