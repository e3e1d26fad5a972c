"""One run at a time, and none that can't be saved."""

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from selfdistill.checkpoints.lock import check_unlocked, locked
from selfdistill.checkpoints.space import check_space, in_words
from selfdistill.errors import UserError
from tests.support.mistakes import mistake

HOLD = (
    "import sys; from pathlib import Path; from selfdistill.checkpoints.lock import locked\n"
    "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def test_a_second_process_is_refused_until_the_first_one_dies(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for attempt in (lambda: locked(folder).__enter__(), lambda: check_unlocked(folder)):
            assert f"--output_dir {folder}: another command is using it." in mistake(attempt)
        other.send_signal(signal.SIGKILL)
        other.wait()
    check_unlocked(folder)
    with locked(folder):
        assert (folder / ".lock").is_file()


def test_the_holder_may_take_it_again_and_another_thread_may_not(tmp_path: Path) -> None:
    found: list[str] = []

    def attempt() -> None:
        try:
            with locked(tmp_path):
                found.append("taken")
        except UserError as error:
            found.append(str(error))

    with locked(tmp_path):
        with locked(tmp_path), locked(tmp_path / "." / "sub" / ".."):
            check_unlocked(tmp_path)
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert len(found) == 1
    assert "another command is using it" in found[0]
    attempt()
    assert found[1] == "taken"


def test_looking_for_a_lock_makes_nothing(tmp_path: Path) -> None:
    check_unlocked(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"--output_dir {tmp_path}/file/run can't be written" in mistake(
        lambda: locked(tmp_path / "file" / "run").__enter__()
    )


def test_free_space_is_compared_and_both_figures_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type(shutil.disk_usage(tmp_path))(10_000, 7_000, 3_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_space(tmp_path / "not" / "yet", 3_000, "A save takes", "Free some.")
    said = mistake(check_space, tmp_path / "not", 3_001, "A save takes", "Free some.")
    assert said == f"A save takes 3.0 kB, but {tmp_path}/not has 3.0 kB free. Free some."
    assert not (tmp_path / "not").exists()


def test_sizes_in_words() -> None:
    assert [in_words(n) for n in (0, 999, 1000, 1_500_000, 2 * 10**12, 5 * 10**15)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "1.5 MB", "2.0 TB", "5000.0 TB")
    ]
