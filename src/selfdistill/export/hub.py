"""Uploads an exported folder to a model repository of the Hugging Face Hub.

Private unless asked otherwise. The folder holds weights, tokenizer and model card, and nothing of a run's rows,
rollouts or answers. The token is that of ``hf auth login`` or HF_TOKEN; it is sent to the Hub and goes nowhere else.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors

from selfdistill.errors import UserError
from selfdistill.run_folder import MANIFEST

_NoAnswerError: type[Exception] = hub_errors.HfHubHTTPError.__bases__[0]
"""The HTTP library's own error, for a host that does not answer; which library that is depends on the version."""


def check_hub(repository: str, *, public: bool) -> None:
    """Checks, before weights are loaded, that a folder can be pushed.

    Raises:
        UserError: nobody is logged in, the Hub can't be reached, or the repository is there and its visibility is not
            the one that is asked for.
    """
    api = huggingface_hub.HfApi()
    with _told(repository, "Nothing was written."):
        api.whoami()
        try:
            private = api.repo_info(repository).private
        except hub_errors.RepositoryNotFoundError:
            return
    if not private and not public:
        raise UserError(f"--push_to_hub {repository} is public already. Give --public if everyone may load this model.")
    if private and public:
        raise UserError(f"--public: {repository} is there and private. Leave --public out, and change it on the Hub.")


def push(folder: Path, repository: str, *, public: bool) -> str:
    """Uploads a folder, but its manifest, to a repository, which is made if it is missing; returns its address.

    Raises:
        UserError: the Hub refuses it or can't be reached. The folder stays.
    """
    api = huggingface_hub.HfApi()
    with _told(repository, f"{folder} is whole: `hf upload {repository} {folder}` tries again."):
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message="Upload by selfdistill export",
            ignore_patterns=[MANIFEST, ".*"],
        )
    return str(address)


@contextmanager
def _told(repository: str, rest: str) -> Generator[None]:
    """Makes the library's errors those of a user. Their own texts, which may quote a request, are not repeated."""
    try:
        yield
    except hub_errors.LocalTokenNotFoundError as error:
        raise UserError("--push_to_hub needs a token that may write: run `hf auth login`, or set HF_TOKEN.") from error
    except hub_errors.OfflineModeIsEnabled as error:
        raise UserError("--push_to_hub: HF_HUB_OFFLINE forbids it. Unset that.") from error
    except hub_errors.HfHubHTTPError as error:
        code = error.response.status_code
        why = {401: "the token is not valid", 403: "the token may not write there"}.get(code, f"the Hub answers {code}")
        raise UserError(f"--push_to_hub {repository}: {why}. {rest}") from error
    except (_NoAnswerError, OSError) as error:
        raise UserError(f"--push_to_hub {repository}: the Hub can't be reached. {rest}") from error
