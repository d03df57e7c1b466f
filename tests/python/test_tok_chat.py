"""Chat templates: what they render, and that none of them can hold the process."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from intact.chat import MAX_TEMPLATE_CHARS, ChatTemplate
from intact.errors import TokenizerError

USER = [{"role": "user", "content": "Hi"}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def render(source: str, messages: Any = USER, **options: Any) -> str:
    return ChatTemplate({"default": source}, SPECIAL).render(messages, **options)


def test_chatml() -> None:
    messages = [{"role": "system", "content": "Be brief."}, *USER]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert render(CHATML, messages, add_generation_prompt=False) == expected
    assert render(CHATML, messages) == expected + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}", "<s>Hi</s>"),
        ("{{ pad_token is defined }}", "False"),
        ("{{ tools is none and documents is none }}", "True"),
        ("{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}", "x\n"),  # trim_blocks and lstrip_blocks
        ("{% for c in 'abc' %}{% if c == 'b' %}{% break %}{% endif %}{{ c }}{% endfor %}", "a"),
        ("{% for c in 'abc' %}{% if c == 'b' %}{% continue %}{% endif %}{{ c }}{% endfor %}", "ac"),
        ("{{ {'b': '<é>', 'a': [1, true, none]} | tojson }}", '{"b": "<é>", "a": [1, true, null]}'),
        ("{{ [1] | tojson(indent=2) }}", "[\n  1\n]"),
        ("{% generation %}{{ 'x' }}{% endgeneration %}", "x"),
        ("{% set n = namespace(x=1) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}", "4"),
        ("{{ 'a' ~ 1 ~ none ~ ('b' ~ 'c') }}", "a1Nonebc"),
        ("{{ 'x' * 3 + 'y' }}{{ 7 % 4 }}{{ 2 ** 3 }}{{ '%s!' % 'z' }}", "xxxy38z!"),
        ("{{ 'b' in 'abc' and 1 < 2 < 3 and absent == nothing }}", "True"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(1) }}{{ m(m(2)) }}", "<1><<2>>"),
        ("{% for k, v in {'a': 1}.items() %}{{ loop.index }}{{ k }}{{ v }}{% endfor %}", "1a1"),
        ("{% for x in [1, [2, 3]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}", "123"),
        ("{{ messages | map(attribute='role') | join(',') }}{{ '{:>3}'.format(7) }}", "user  7"),
        ("{{ strftime_now is defined }}", "False"),
    ],
)
def test_language(source: str, expected: str) -> None:
    assert render(source) == expected


def test_the_time_is_the_callers() -> None:
    now = datetime(2024, 7, 26)
    assert render("{{ strftime_now('%d %b %Y') }}", now=now) == "26 Jul 2024"
    with pytest.raises(TokenizerError, match="give `now`"):
        render("{{ strftime_now('%d %b %Y') }}")
    with pytest.raises(TokenizerError, match="format"):
        render("{{ strftime_now('%1000000000d') }}", now=now)


def test_text_parts_are_joined() -> None:
    content = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert render("{{ messages[0].content }}", [{"role": "user", "content": content}]) == "one\ntwo"


def test_extra_variables_and_message_fields() -> None:
    messages = [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}]
    source = "{{ messages[0].tool_calls[0] | tojson }}{{ tools[0].name }}{{ enable_thinking }}"
    expected = '{"name": "f", "arguments": {"x": 1}}gFalse'
    assert render(source, messages, tools=[{"name": "g"}], enable_thinking=False) == expected


def test_the_callers_messages_are_left_as_they_are() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "one"}]}]
    before = json.dumps(messages)
    render("{{ messages[0].content }}", messages)
    assert json.dumps(messages) == before


def test_a_template_can_refuse() -> None:
    with pytest.raises(TokenizerError, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}")


def test_several_templates_need_a_default() -> None:
    assert ChatTemplate({"only": "x"}, {}).render(USER) == "x"
    with pytest.raises(TokenizerError, match="it has: a, b"):
        ChatTemplate({"a": "x", "b": "y"}, {}).render(USER)


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ("text", "messages: expected a list"),
        (None, "messages: expected a list"),
        (["text"], r"messages\[0\]: expected a mapping"),
        ([{"content": "x"}], r"messages\[0\].role"),
        ([{"role": 1, "content": "x"}], r"messages\[0\].role"),
        ([{"role": "user"}], r"messages\[0\].content"),
        ([{"role": "user", "content": 3}], r"messages\[0\].content"),
        ([*USER, {"role": "user", "content": ["x"]}], r"messages\[1\].content\[0\]"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"messages\[0\].content\[0\]"),
        ([{"role": "user", "content": "\ud800"}], r"messages\[0\].content: holds a lone surrogate"),
        ([{"role": "user", "content": "x", "extra": object()}], r"messages\[0\].extra: expected plain JSON"),
        ([{"role": "user", "content": "x", 3: 4}], r"messages\[0\]: expected a mapping whose keys"),
    ],
)
def test_malformed_messages_are_named(messages: Any, where: str) -> None:
    with pytest.raises(TokenizerError, match=where):
        render(CHATML, messages)


def test_deep_nesting_is_refused() -> None:
    value: Any = "x"
    for _ in range(10_000):
        value = [value]
    with pytest.raises(TokenizerError, match="nested more than"):
        render("{{ x }}", x=value)


def test_large_messages_are_refused() -> None:
    with pytest.raises(TokenizerError, match="characters"):
        render(CHATML, [{"role": "user", "content": "x" * (1 << 23)}])


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{", "{{ " + "(" * 20_000 + ")" * 20_000 + " }}", "x" * (MAX_TEMPLATE_CHARS + 1)]
)
def test_malformed_templates_are_named(source: str) -> None:
    with pytest.raises(TokenizerError, match="chat template `default`"):
        ChatTemplate({"default": source}, {}).render(USER)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% set l = [] %}{% set _ = l.append(1) %}",
        "{% set _ = messages.clear() %}",
        "{% include 'x' %}",
        "{{ lipsum() }}",
        "{{ [1, 2] | random }}",
    ],
)
def test_the_sandbox_has_no_way_out(source: str) -> None:
    with pytest.raises(TokenizerError, match="chat template"):
        render(source)


DOUBLING = "{%% set n = namespace(x=%s) %%}{%% for i in range(60) %%}{%% set n.x = %s %%}{%% endfor %%}%s"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{{ range(1000000) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(100) }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
        DOUBLING % ("'ab'", "n.x + n.x", ""),
        DOUBLING % ("'ab'", "n.x ~ n.x", ""),
        DOUBLING % ("'ab'", "n.x * 2", ""),
        DOUBLING % ("'ab'", "'%s%s' % (n.x, n.x)", ""),
        DOUBLING % ("'ab'", "n.x | replace('a', 'aa') | replace('b', 'bb')", ""),
        DOUBLING % ("['ab']", "[n.x, n.x]", "{{ n.x }}"),
        DOUBLING % ("['ab']", "[n.x, n.x]", "{{ n.x | tojson }}"),
        DOUBLING % ("['ab']", "[n.x, n.x]", "{{ n.x == n.x + [] }}"),
        DOUBLING % ("2", "n.x * n.x", "{{ n.x }}"),
        "{{ 'x' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ 10 ** 10 ** 10 ** 10 }}",
        "{{ 'x' | center(10000000000) }}",
        "{{ 'x'.ljust(10000000000) }}",
        "{{ 'x' | indent(10000000000, true) }}",
        "{{ ['x'] | batch(10000000000, 'x') | list }}",
        "{% for x in 'x' | slice(10000000000) %}{% endfor %}",
        "{{ ['x', 'x'] | map('center', 10000000000) | list }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10000000000, 1) }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ '{:>10000000000}'.format('x') }}",
        "{{ '{:>{w}}'.format('x', w=10000000000) }}",
    ],
)
def test_no_template_runs_or_grows_without_end(source: str) -> None:
    with pytest.raises(TokenizerError, match="chat template"):
        render(source)


def test_long_conversations_are_within_the_budget() -> None:
    source = (
        "{% set n = namespace(x='') %}{% for m in messages %}"
        "{% for a in messages %}{% if a.role == 'user' and messages | length > 1 %}"
        "{% set n.x = a.content %}{% endif %}{% endfor %}"
        "{{ m.content | trim }}{% endfor %}{{ n.x }}"
    )
    messages = [{"role": "user", "content": f"message {index} " * 50} for index in range(300)]
    text = render(source, messages)
    assert text == "".join(message["content"].strip() for message in messages) + messages[-1]["content"]
