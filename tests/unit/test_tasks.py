import subprocess
import sys
from pathlib import Path

import pytest

from selfdistill.tasks import TASKS, get_task, resolve_data_dir
from selfdistill.types import UserError


def test_names():
    assert list(TASKS) == ["assistant-tools", "tooluse", "science", "medical", "wiki"]
    assert all(get_task(name).name == name for name in TASKS)


def test_unknown_name_is_corrected():
    with pytest.raises(UserError) as caught:
        get_task("tool-use")
    message = str(caught.value)
    assert "Did you mean 'tooluse'?" in message
    assert "assistant-tools, tooluse, science" in message
    assert len(message.split()) <= 40


def test_a_name_like_none_of_them_is_not_corrected():
    with pytest.raises(UserError) as caught:
        get_task("xyz")
    assert "Did you mean" not in str(caught.value)


def test_data_dir_flag_then_variable_then_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SELFDISTILL_DATA", raising=False)
    assert resolve_data_dir(None) is None
    for name in ("flag", "variable", "data"):
        (tmp_path / name).mkdir()
    assert resolve_data_dir(None) == Path("data")
    monkeypatch.setenv("SELFDISTILL_DATA", str(tmp_path / "variable"))
    assert resolve_data_dir(None) == tmp_path / "variable"
    assert resolve_data_dir(str(tmp_path / "flag")) == tmp_path / "flag"


def test_data_dir_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="--data_dir is 'nowhere'"):
        resolve_data_dir("nowhere")
    monkeypatch.setenv("SELFDISTILL_DATA", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="SELFDISTILL_DATA is"):
        resolve_data_dir(None)


def test_importing_tasks_loads_no_heavy_package():
    code = (
        "import sys, selfdistill.tasks, selfdistill.tasks.custom;"
        "print([m for m in ('torch', 'datasets', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
