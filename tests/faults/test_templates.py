"""Hostile Jinja, as a model's chat template and as the user's own: it ends in an error soon, and executes nothing."""

import copy
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from selfdistill.method.prompts import PromptRenderer
from tests.support.clock import within
from tests.support.examples import example
from tests.support.mistakes import mistake

HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "flood": "{% for a in range(99999) %}{% for b in range(9999) %}xxxxxxxxxx{% endfor %}{% endfor %}",
    "large range": "{% for a in range(10**12) %}{% endfor %}",
    "power": "{{ (9**9)**(9**7) }}",
    "power when compiled": "{{ 9**(9**9) }}",
    "long text": "{{ 'x' * 10**10 }}",
    "wide format": "{{ '%099999999999d' % 1 }}",
    "endless macro": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "division": "{{ 1 / 0 }}",
    "text and number": "{{ 'a' + 1 }}",
    "deep": "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].system('touch CANARY') }}",
    "by attr": "{{ ''|attr('__class__')|attr('__mro__') }}{{ missing.x }}",
    "by format": "{{ '{0.__class__.__mro__}'.format(messages).x.y }}",
    "by map": "{{ [cycler]|map(attribute='__init__.__globals__.os')|list|first|attr('system')('touch CANARY') }}",
    "self": "{{ self.__init__.__globals__.__builtins__.open('CANARY', 'w') }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.system('touch CANARY') }}",
    "extends": "{% extends '/etc/passwd' %}",
    "syntax": "{% if %}",
    "change a list": "{{ messages.append(1) }}{{ missing.x }}",
    "change a turn": "{{ messages[0].update({'content': 'forged'}) }}{{ missing.x }}",
}


@pytest.mark.parametrize("kind", ["chat template", "user's template"])
@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_it_is_refused_soon_and_does_nothing(
    template: str, kind: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    canary = tmp_path / "canary"
    template = template.replace("CANARY", str(canary))
    row = example()
    before = copy.deepcopy(row)
    if kind == "chat template":
        tokenizer.chat_template = template
        renderer = PromptRenderer(tokenizer)
    else:
        (tmp_path / "t.jinja").write_text(template, encoding="utf-8")
        renderer = PromptRenderer(tokenizer, "file", template_file=str(tmp_path / "t.jinja"))
    with within(10):
        told = mistake(renderer.teacher_text, row)
    assert "longer than 20 seconds" not in told  # nothing here waits
    assert not canary.exists()
    assert row == before
