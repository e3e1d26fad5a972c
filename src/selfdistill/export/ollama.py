"""A Modelfile for Ollama: https://docs.ollama.com/modelfile.

Ollama's templates are Go's, and a chat template is Jinja, which can't be translated into Go in general. So the prompts
are looked at: where a conversation is no more than a text before and after what each role says, that is written, once
it has given the very prompts of the chat template. Otherwise Ollama is left to choose a template of its own by the one
in the GGUF file, which it does for those that it knows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from selfdistill.models.bounded import BoundedError
from selfdistill.models.tokens import MARK, chat_text, end_of_turn_id

MODELFILE = "Modelfile"
ROLES = ("system", "user", "assistant")
Talk = Sequence[dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """Prompts that consist of a text before and one after what each role says."""

    before: dict[str, str]
    """By role."""
    after: dict[str, str]
    """By role."""
    opening: str
    """What opens the turn that the model is to write."""
    system: str | None = None
    """The system prompt of a conversation without one of its own; None for none."""

    def prompt(self, talk: Talk) -> str:
        """The prompt for these turns."""
        if self.system is not None and talk[0]["role"] != "system":
            talk = [{"role": "system", "content": self.system}, *talk]
        return "".join(self.before[m["role"]] + m["content"] + self.after[m["role"]] for m in talk) + self.opening

    def go(self) -> str:
        """The same as a template of Ollama."""
        roles = [
            f'if eq .Role "{role}" }}}}{self.before[role]}{{{{ .Content }}}}{self.after[role]}{{{{ ' for role in ROLES
        ]
        return "{{ range .Messages }}{{ " + "else ".join(roles) + "end }}{{ end }}" + self.opening


def modelfile(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any], file: str) -> tuple[str, bool]:
    """The Modelfile for a GGUF file, and whether it holds a template.

    Args:
        tokenizer: has the chat template.
        options: passed to the chat template.
        file: name of the GGUF file beside it.
    """
    lines, turns = [f"FROM ./{file}"], turns_of(tokenizer, options)
    if turns is not None:
        lines += [
            "# Gives the prompts of the model's chat template for turns of text; it knows no tools. Without TEMPLATE",
            "# Ollama takes one of its own, with tools, if it knows the chat template in the GGUF file.",
            f'TEMPLATE """{turns.go()}"""',
        ]
        lines += [] if turns.system is None else [f'SYSTEM """{turns.system}"""']
    ids = [end_of_turn_id(tokenizer), tokenizer.eos_token_id]
    stops = dict.fromkeys(str(tokenizer.convert_ids_to_tokens(id)) for id in ids if isinstance(id, int))
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    return "\n".join(lines) + "\n", turns is not None


def turns_of(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> Turns | None:
    """The texts around what is said; None if the chat template does more than to put texts around.

    The token of the beginning is left out if the tokenizer puts it before every text: so do the programs that read a
    GGUF file.
    """
    ids: Any = tokenizer("a").input_ids
    bos = str(tokenizer.bos_token) if ids[:1] == [tokenizer.bos_token_id] else ""

    def text(talk: Talk, opened: bool) -> str:
        made = chat_text(tokenizer, list(talk), add_generation_prompt=opened, **options)
        return made.removeprefix(bos)

    try:
        found = _looked_at(partial(text, opened=False), text(_talk("u"), True))
        if found is None:
            return None
        right = all(found.prompt(_talk(roles)) == text(_talk(roles), True) for roles in ("u", "su", "uau", "suauau"))
    except BoundedError:
        return None
    parts = (*found.before.values(), *found.after.values(), found.opening, found.system or "")
    return found if right and not any(sign in part for part in parts for sign in ('"""', "{{", "}}")) else None


def _talk(roles: str) -> list[dict[str, str]]:
    """Turns of the roles whose first letters are given."""
    names = {name[0]: name for name in ROLES}
    return [{"role": names[role], "content": f"{MARK} {number}."} for number, role in enumerate(roles)]


def _looked_at(text: Callable[[Talk], str], opened: str) -> Turns | None:
    """Texts around what is said in some conversations; None if they don't fit together.

    Args:
        text: the prompt for a conversation, without an opened turn.
        opened: the prompt for a single turn of the user, with an opened one.
    """
    asked, answered = text(_talk("su")), text(_talk("sua"))
    gaps: list[str] = []
    rest = text(_talk("suau"))
    for message in _talk("suau"):
        gap, found, rest = rest.partition(message["content"])
        if not found:
            return None
        gaps.append(gap)
    after_user, after_assistant = asked.rpartition(f"{MARK} 1.")[2], answered.rpartition(f"{MARK} 2.")[2]
    alone = text(_talk("u"))
    fits = gaps[2].startswith(after_user) and gaps[3].startswith(after_assistant) and opened.startswith(alone)
    before_user = gaps[3].removeprefix(after_assistant)
    if not fits or not gaps[1].endswith(before_user):
        return None
    turns = Turns(
        before={"system": gaps[0], "user": before_user, "assistant": gaps[2].removeprefix(after_user)},
        after={"system": gaps[1].removesuffix(before_user), "user": after_user, "assistant": after_assistant},
        opening=opened.removeprefix(alone),
    )
    head = alone.partition(f"{MARK} 0.")[0]
    if head == before_user:
        return turns
    own = head.removesuffix(before_user).removeprefix(turns.before["system"]).removesuffix(turns.after["system"])
    return replace(turns, system=own)
