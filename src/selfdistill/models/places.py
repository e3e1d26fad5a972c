"""Resolves a model's name: the embedded model, a folder, a .gguf file, an adapter, or a Hub id."""

import difflib
import json
import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors

from selfdistill.errors import UserError, brief
from selfdistill.models.cache import EMBEDDED_FOLDER
from selfdistill.models.embedded import embedded_model_path
from selfdistill.settings.groups import DEFAULT_MODEL

_MEND = "Mend base_model_name_or_path in its adapter_config.json."
"""What helps where an adapter names a base that is not there."""


def locate(name: str, *, adapter: Path | None = None) -> Path | str:
    """Returns the folder or .gguf file that ``name`` refers to, or ``name`` itself if it is a Hub id.

    ``adapter``: folder of the adapter that names this model as its base, where nobody typed it.

    Raises:
        UserError: there is no such model; the message suggests a similar name.
    """
    what = f"--model_name {name}" if adapter is None else f"The base of the adapter {adapter}, {name},"
    if name == DEFAULT_MODEL:
        return embedded_model_path()
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix == ".gguf":
            return path
        raise UserError(f"{what} is a file but not a .gguf. {_MEND if adapter else 'Pass the folder it is in.'}")
    if path.is_dir():
        if is_adapter(path) or (path / "config.json").is_file():
            return path
        inside = [*path.glob("*/config.json"), *path.glob("*/adapter_config.json")]
        newest = max(inside, key=lambda file: file.stat().st_mtime, default=None)
        hint = f"Did you mean {newest.parent}?" if newest else "Pass a saved model's folder."
        raise UserError(f"{what} is a folder that has no config.json. {_MEND if adapter else hint}")
    hint = _MEND if adapter else _suggestion(path)
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        _check_hub(name, what, hint)
        return name
    raise UserError(
        f"{what} is neither the embedded {DEFAULT_MODEL}, a folder, a .gguf file nor a Hub id (owner/name). "
        f"{hint or f'Try {DEFAULT_MODEL}.'}"
    )


def _suggestion(path: Path) -> str:
    """Returns "Did you mean ...?" with the embedded model or the sibling folder most similar to ``path``, or ``""``."""
    folder = path.parent
    siblings = [str(child) for child in folder.iterdir() if child.is_dir()] if folder.is_dir() else []
    known = {other.lower(): other for other in [*siblings, DEFAULT_MODEL]}
    close = difflib.get_close_matches(str(path).lower(), known, n=1)
    return f"Did you mean {known[close[0]]}?" if close else ""


def _check_hub(name: str, what: str, hint: str) -> None:
    """Raises UserError, beginning with ``what`` and ending in ``hint``, unless the Hub or its local cache has the model
    ``name``."""
    try:
        huggingface_hub.hf_hub_download(name, "config.json")
        return
    except hub_errors.GatedRepoError:
        reason = "is gated. Accept its terms on the Hub, then run `hf auth login`."
    except hub_errors.RepositoryNotFoundError:
        reason = "is neither a folder here nor a Hub model you can see. Check the spelling."
    except hub_errors.LocalEntryNotFoundError:
        reason = "is neither a folder here nor in the Hub cache, and "
        if huggingface_hub.constants.HF_HUB_OFFLINE:
            reason += "HF_HUB_OFFLINE forbids fetching it. Unset that once, or pass a folder."
        else:
            reason += "the Hub can't be reached. Check the network, or pass a folder."
    except hub_errors.EntryNotFoundError:
        reason = "has no config.json on the Hub. Download its adapter or .gguf and pass that path."
    except (OSError, ValueError) as error:
        reason = f"can't be fetched from the Hub: {brief(error)}"
    raise UserError(f"{what} {reason} {hint}".rstrip())


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds a PEFT adapter."""
    return (folder / "adapter_config.json").is_file()


def adapter_base(folder: Path) -> str:
    """Returns the name or path of a LoRA adapter's base model; a path relative to the adapter's folder is resolved.

    Raises:
        UserError: the folder's config is not of a LoRA adapter with a base, names the folder itself, or names a model
            that is not there.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError:
        config = {}
    config = config if isinstance(config, dict) else {}
    base = config.get("base_model_name_or_path")
    if config.get("peft_type") != "LORA" or not isinstance(base, str) or not base:
        raise UserError(
            f"{folder / 'adapter_config.json'} is not a LoRA adapter with a base model. "
            "Set its base_model_name_or_path, or merge the adapter and pass the result."
        )
    if re.split(r"[/\\]", base)[-1] == EMBEDDED_FOLDER:  # even if the path is in another machine's cache
        return DEFAULT_MODEL
    beside = folder / base
    resolved = str(beside) if base != DEFAULT_MODEL and beside.is_dir() else base
    if Path(resolved).resolve() == folder.resolve():
        raise UserError(f"The adapter {folder} names itself as base_model_name_or_path. Put its base model there.")
    if resolved != DEFAULT_MODEL:
        locate(resolved, adapter=folder)
    return resolved
