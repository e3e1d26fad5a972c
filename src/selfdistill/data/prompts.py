"""Prompts as they are compared with each other, and the share of them that is held out for evaluation."""

import hashlib
import unicodedata

from selfdistill.types import Example, message_text


def normalized(text: str) -> str:
    """The text in Unicode's NFKC form, case-folded, with every run of white space replaced by one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalized_prompt(example: Example) -> str:
    """All turns of the prompt as one normalised text; of plain text, which has no prompt, the text itself."""
    return normalized("\n".join(message_text(turn) for turn in example.prompt or example.demonstration))


def is_held_out(example: Example, share: float) -> bool:
    """Whether a row belongs to the ``share`` of the rows, in (0, 1), that is held out for evaluation.

    That is where ``uniform`` of its normalised prompt lies below the share. So rows with the same prompt stay together,
    and a row stays on its side whatever rows are added to the data, and in whatever order.
    """
    return uniform(normalized_prompt(example)) < share


def uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone: the first 53 bits of its SHA-256, over 2**53."""
    return (int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8]) >> 11) / 2**53
