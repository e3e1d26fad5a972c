"""A chat without models."""

from collections.abc import Sequence

from selfdistill.chat.columns import Answer, Chat, Updates
from selfdistill.types import Message


class FakeChat(Chat):
    """Says ``replies``, a word more at a time, the columns in turn; ``heard`` is what each call was given."""

    def __init__(self, names: Sequence[str], replies: Sequence[str]) -> None:
        self.names = list(names)
        self.replies = list(replies)
        self.heard: list[list[list[Message]]] = []
        self.closed_after: list[int] = []
        """Updates that were read of each call that is over."""

    def answer(self, conversations: Sequence[Sequence[Message]]) -> Updates:
        self.heard.append([list(messages) for messages in conversations])
        return self._updates()

    def _updates(self) -> Updates:
        words = [reply.split(" ") for reply in self.replies]
        read = 0
        try:
            for count in range(1, max(map(len, words)) + 1):
                for column, own in enumerate(words):
                    if count <= len(own):
                        read += 1
                        last = count == len(own)
                        yield (
                            column,
                            Answer(text=" ".join(own[:count]), num_tokens=count, finish_reason="stop" if last else ""),
                        )
        finally:
            self.closed_after.append(read)
