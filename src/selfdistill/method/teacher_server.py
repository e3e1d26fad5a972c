"""A teacher behind a server: its likeliest tokens at every place of a completion, by vLLM's completions API.

A sample goes to ``/v1/completions`` once, as token ids: the teacher's prompt with the completion. It comes back with
``prompt_logprobs``, a list with an entry for each token: null for the first, for every other the k likeliest tokens in
its place, and itself, by id, with log-probabilities over the whole vocabulary; vLLM applies no temperature to those of
a prompt. A server samples one token at least, which is thrown away.
"""

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.client import HTTPException
from typing import Any, TypeVar
from urllib.parse import urlsplit

import torch
from transformers import PreTrainedTokenizerBase

from selfdistill.errors import EngineError, UserError, brief, quoted
from selfdistill.method.batch import Likeliest, Part, Sample
from selfdistill.method.http_json import RefusedError, fetched
from selfdistill.settings.method import MethodConfig
from selfdistill.types import PromptPair

KEY_VARIABLE = "SELFDISTILL_TEACHER_KEY"
TIMEOUT = 600.0
"""Seconds that the server may be silent."""
CHECK_TIMEOUT = 30.0
"""The same before a run."""
TRIES = 5
FIRST_WAIT = 1.0
"""Seconds before the second try; each further wait is twice as long."""
THREADS = 16
"""Requests under way at the same time."""
PROBE = "The capital of France is Paris. 2 + 2 = 4, and water boils at 100 degrees."
MOST_DIFFERENT = 0.1
"""Share of tokens of one vocabulary that may be written otherwise by a server: it decodes them one by one."""
EXCESS = 1e-3
"""By how much a sum of probabilities may exceed 1, being rounded."""
AGAIN = "Start it, and give the same command again to go on from the last checkpoint."

_Likeliest = tuple[list[list[int]], list[list[float]]]
"""Ids and log-probabilities, [n][k] each."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class BadAnswerError(ValueError):
    """An answer that is not what was asked for. The message says what is wrong with it."""


class TeacherServer:
    """A served model that teaches, and stays as it is.

    Args:
        url: address of the server.
        top_k: number of likeliest tokens to ask for.
        vocabulary: number of tokens that the student predicts.
        key: sent as the bearer token; None for a server that needs none.

    Raises:
        UserError: the address is none, or nothing answers there that serves a model.
    """

    def __init__(self, url: str, top_k: int, vocabulary: int, key: str | None = None) -> None:
        self.url = _base(url)
        self._top_k, self._vocabulary, self._key = top_k, vocabulary, key
        self._stop = threading.Event()  # set once nothing more is to be tried
        if key is not None and not (key.isascii() and key.isprintable()):
            raise UserError(f"{KEY_VARIABLE} has a character that HTTP forbids. Set it anew.")
        if not 0 < top_k < vocabulary:
            raise UserError(f"divergence_top_k: {top_k} is not below the size of the vocabulary, {vocabulary}.")
        self.model, self.context = self._served()

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Asks for a short prompt, so that another vocabulary or a lower limit shows before any weight is loaded.

        Raises:
            UserError: the server refuses, gives no such log-probabilities, or names tokens otherwise than the student's
                tokenizer.
        """
        ids = _probe(tokenizer, self._vocabulary)
        try:
            found = self._entries(ids)
            for entry in found[1:]:
                likeliest(entry, self._top_k, self._vocabulary)
        except RefusedError as refusal:
            raise UserError(
                f"teacher_server {self.url} refuses a prompt: {brief(refusal, 15)}. {_remedy(refusal, self._top_k)}"
            ) from refusal
        except (OSError, HTTPException, ValueError) as error:
            raise UserError(
                f"teacher_server {self.url}: {brief(error, 15)}. Serve a model of the student's vocabulary with vLLM "
                "(docs/engines.md)."
            ) from error
        self._check_names(found, tokenizer)

    def check_length(self, tokens: int) -> None:
        """Raises UserError if the server does not read as many tokens, and one that it samples."""
        if self.context is not None and tokens >= self.context:
            raise UserError(
                f"teacher_server {self.url} reads {self.context} tokens; a prompt with its completion may have "
                f"{tokens}, and one is sampled. Serve with --max-model-len {tokens + 1}."
            )

    def scored(self, parts: Sequence[Part]) -> list[Part]:
        """The parts with the teacher's likeliest tokens at their loss tokens.

        Raises:
            EngineError: the server does not answer as it should, after some tries.
            UserError: it reads fewer tokens than a sample has.
        """
        samples = [sample for part in parts for sample in part.samples]
        self.check_length(max((sample.teacher_tokens for sample in samples), default=0))
        self._stop.clear()
        answers = iter(self._each(self._of_sample, samples))
        return [_with(part, [next(answers) for _ in part.samples], self._top_k) for part in parts]

    # -- requests ------------------------------------------------------------------------------------------------------

    def _of_sample(self, sample: Sample) -> _Likeliest:
        """The likeliest tokens at the sample's loss positions. Raises EngineError after the last try."""
        ids = [*sample.teacher_ids, *sample.rollout.completion_ids]
        first, reason = len(sample.teacher_ids), Exception("it was not asked")
        for attempt in range(TRIES):
            try:
                entries = self._entries(ids)
                found = [likeliest(entries[first + at], self._top_k, self._vocabulary) for at in sample.loss_positions]
                return [ids for ids, _ in found], [values for _, values in found]
            except RefusedError as refusal:
                reason = refusal
                if refusal.status != 429 and refusal.status < 500:
                    break
            except (OSError, HTTPException, ValueError) as error:
                reason = error
            if attempt + 1 == TRIES or self._stop.wait(FIRST_WAIT * 2**attempt):
                break
        raise EngineError(f"teacher_server {self.url} does not teach: {brief(reason, 15)}. {AGAIN}") from reason

    def _entries(self, ids: Sequence[int]) -> list[Any]:
        """What the server gives for each of the tokens. Raises BadAnswerError if that is not an entry for each, and as
        ``fetched`` does."""
        body = {
            "model": self.model,
            "prompt": list(ids),
            "prompt_logprobs": self._top_k,
            "max_tokens": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "return_token_ids": True,
        }
        answer = fetched(f"{self.url}/v1/completions", body, TIMEOUT, self._key)
        choices = answer.get("choices")
        choice: Any = choices[0] if isinstance(choices, list) and choices else None
        found = choice.get("prompt_logprobs") if isinstance(choice, dict) else None
        if not isinstance(found, list):
            raise BadAnswerError("its answer has no prompt_logprobs")
        if choice.get("prompt_token_ids") not in (None, list(ids)) or len(found) != len(ids):
            raise BadAnswerError("it read other tokens than it was sent")
        return found

    def _served(self) -> tuple[str, int | None]:
        """Name of the first model that the server has, and the tokens that it reads, if it says so."""
        try:
            models = fetched(f"{self.url}/v1/models", None, CHECK_TIMEOUT, self._key).get("data")
            first = models[0] if models else None
            context = None if first is None else first.get("max_model_len")
            if first is not None:
                return str(first["id"]), None if context is None else int(context)
        except RefusedError as refusal:
            hint = f"Set {KEY_VARIABLE}." if refusal.status in (401, 403) else "Check the address."
            raise UserError(f"teacher_server {self.url} refuses: {brief(refusal, 15)}. {hint}") from refusal
        except (OSError, HTTPException, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"teacher_server {self.url}: no server of models answers there ({brief(error, 10)}). Start one with "
                "vllm serve."
            ) from error
        raise UserError(f"teacher_server {self.url}: the server serves no model. Start it with one.")

    def _check_names(self, found: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> None:
        """Compares the texts that the server gives for ids with the tokenizer's. Raises UserError if they are of
        another vocabulary, or there are none."""
        theirs = {int(id): value.get("decoded_token") for entry in found if entry for id, value in entry.items()}
        pairs = [
            (id, text.strip(), str(tokenizer.decode([id])).strip())
            for id, text in sorted(theirs.items())
            if isinstance(text, str)
        ]
        known = [(id, text, own) for id, text, own in pairs if text and own and "\ufffd" not in text + own]
        different = [one for one in known if one[1] != one[2]]
        if not known:
            raise UserError(
                f"teacher_server {self.url} names no token in its answers, so its vocabulary can't be compared. Serve "
                "the model with its tokenizer."
            )
        if len(different) > MOST_DIFFERENT * len(known):
            id, text, own = different[0]
            raise UserError(
                f"teacher_server {self.url}: {self.model} has another vocabulary: token {id} is {quoted(text, 15)} "
                f"there and {quoted(own, 15)} here. Serve a model of the student's family."
            )

    def _each(self, function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """``function`` of every item, in order, in several threads."""
        pool = ThreadPoolExecutor(max_workers=THREADS)
        try:
            return list(pool.map(function, items))
        except BaseException:  # one failed, or interrupted: threads must not wait for their next try
            self._stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def teacher_server(
    config: MethodConfig, tokenizer: PreTrainedTokenizerBase, model_config: Any, pairs: Sequence[PromptPair]
) -> TeacherServer | None:
    """The server that the settings name, once it has been asked whether it can teach; None without a name.

    Args:
        config: the settings.
        tokenizer: the student's.
        model_config: the student's transformers config.
        pairs: the rendered training rows.

    Raises:
        UserError: it can't teach this student.
    """
    if config.teacher_server is None:
        return None
    vocabulary = int(model_config.get_text_config(decoder=True).vocab_size)
    server = TeacherServer(config.teacher_server, config.divergence_top_k, vocabulary, os.environ.get(KEY_VARIABLE))
    longest = max((len(pair.teacher_ids or pair.student_ids) for pair in pairs), default=0)
    server.check_length(longest + config.max_completion_length)
    server.check(tokenizer)
    return server


def likeliest(entry: Any, top_k: int, vocabulary: int) -> tuple[list[int], list[float]]:
    """The ``top_k`` likeliest tokens of an entry of ``prompt_logprobs``, and their log-probabilities.

    The entry has the prompt's own token, too, which is one more unless it is among them.

    Raises:
        BadAnswerError: it has fewer, what it has are no log-probabilities, or the student does not know a token.
    """
    try:
        ranked = sorted((-float(one["logprob"]), one.get("rank") or 0, int(id)) for id, one in entry.items())[:top_k]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadAnswerError("a token has no prompt_logprobs") from error
    if len(ranked) < top_k or any(rank > top_k for _, rank, _ in ranked):
        raise BadAnswerError(f"a token has fewer than {top_k} prompt_logprobs")
    ids, values = [id for _, _, id in ranked], [-negative for negative, _, _ in ranked]
    total = sum(map(math.exp, values)) if max(values) < 1 else math.inf
    if not total <= 1 + EXCESS:  # NaN, too
        raise BadAnswerError("prompt_logprobs are no log-probabilities (--logprobs-mode)")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise BadAnswerError(f"token {max(ids)} is none of the student's {vocabulary}")
    return ids, values


def _with(part: Part, found: Sequence[_Likeliest], top_k: int) -> Part:
    """The part with what was found for each of its samples."""
    shape, device = (len(part.token_ids), top_k), part.token_ids.device
    ids = torch.tensor([row for rows, _ in found for row in rows], dtype=torch.int64).view(shape)
    values = torch.tensor([row for _, rows in found for row in rows], dtype=torch.float32).view(shape)
    return replace(part, likeliest=Likeliest(ids=ids.to(device), log_probs=values.to(device)))


def _base(url: str) -> str:
    """The address up to what the API adds. Raises UserError if it is none, or holds a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise UserError(f"teacher_server: {quoted(url)} is no address such as http://localhost:8000.")
    if parts.username is not None or parts.query or parts.fragment:
        raise UserError(
            f"teacher_server: the address of {parts.hostname} holds a password or a query, which records would show. "
            f"Give http://HOST:PORT, and a key in {KEY_VARIABLE}."
        )
    return url.rstrip("/").removesuffix("/v1")


def _probe(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[int]:
    """Ids of a short text, and the largest one, which a smaller vocabulary has not."""
    ids = tokenizer.encode(PROBE, add_special_tokens=False)
    largest = max((id for id in tokenizer.get_vocab().values() if id < vocabulary), default=0)
    return [*ids, largest]


def _remedy(refusal: RefusedError, top_k: int) -> str:
    reason = str(refusal)
    if "logprobs" in reason:
        return f"Serve with --max-logprobs {top_k}, or lower divergence_top_k."
    if "vocabulary" in reason:
        return "Serve a model of the student's vocabulary."
    return "See docs/engines.md."
