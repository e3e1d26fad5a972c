"""The growing report: its standing, when its page is made anew, and how it is served."""

import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfdistill import run_folder
from selfdistill.checkpoints.lock import is_locked, locked
from selfdistill.checkpoints.owners import Owners
from selfdistill.cli import main
from selfdistill.page_server import tunnel
from selfdistill.report import live, page_live
from selfdistill.report.collect import run_folders
from selfdistill.report.live import LiveReport, Look, standing_of
from selfdistill.report.page_live import ReportServer
from tests.support.report_folders import answers, write_comparison, write_eval, write_training


def end(folder: Path) -> None:
    """The last line of a run that is finished."""
    run_folder.append_jsonl(folder / run_folder.METRICS, [{"step": 6, "train_loss": 0.1}])


# -- what has become of it ---------------------------------------------------------------------------


def test_standing_of_a_run(tmp_path: Path) -> None:
    assert standing_of(tmp_path) == ("waiting", "Nothing was begun here yet.")
    with locked(tmp_path):
        assert standing_of(tmp_path) == ("running", "The run goes on.")
        write_training(tmp_path)
        assert standing_of(tmp_path) == ("running", "The run goes on. Step 6.")
    assert standing_of(tmp_path) == (
        "stopped",
        "The run stopped before its end, or died. Step 6. The same command goes on with it.",
    )
    end(tmp_path)
    assert standing_of(tmp_path) == ("ended", "The run has ended. Step 6.")


def test_standing_of_a_study(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / run_folder.STUDY, {"format": 1})
    write_training(tmp_path / "sdft")
    end(tmp_path / "sdft")
    with locked(tmp_path):
        assert standing_of(tmp_path) == ("running", "The run goes on. Step 6 of sdft.")
    assert standing_of(tmp_path)[0] == "stopped"  # between two of its runs
    write_comparison(tmp_path)
    assert standing_of(tmp_path)[0] == "ended"


def test_a_study_that_several_processes_work_on_shows_what_they_are_making(tmp_path: Path) -> None:
    run_folder.write_json(tmp_path / run_folder.STUDY, {"format": 1})
    making = tmp_path / run_folder.WORK / "a-1" / "sdft" / "lr-0.01" / "seed-0"
    write_training(making)
    report = LiveReport(tmp_path, Clock())
    with Owners(tmp_path / run_folder.LEASES / run_folder.OWNERS):
        assert standing_of(tmp_path) == ("running", "The run goes on. Step 6 of seed-0.")
        assert list(run_folders(tmp_path)) == ["sdft/lr-0.01/seed-0"]
        assert looked(report).version == 1
        assert "sdft/lr-0.01/seed-0" in report.page
        assert str(making / run_folder.METRICS) in live._signature(tmp_path)
    assert standing_of(tmp_path)[0] == "stopped"
    write_comparison(tmp_path)
    assert standing_of(tmp_path)[0] == "ended"
    assert list(run_folders(tmp_path)) == []  # what is made beside a result is no part of it


def test_to_look_at_a_lock_changes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path):
        assert is_locked(tmp_path)
        assert is_locked(tmp_path)
    assert not is_locked(tmp_path)


# -- when the page is made anew ----------------------------------------------------------------------


def looked(report: LiveReport) -> Look:
    report.refresh()
    return report.look()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        self.now += 0.5  # what everything takes
        return self.now


def test_the_page_is_made_when_files_change_and_not_too_often(tmp_path: Path) -> None:
    clock = Clock()
    report = LiveReport(tmp_path, clock)
    assert (looked(report).version, report.page) == (0, "")
    write_training(tmp_path, num_steps=2)
    with locked(tmp_path):
        clock.now = 100.0
        assert looked(report).version == 1
        assert '"step": 2' in report.page
        write_training(tmp_path, num_steps=3)
        assert looked(report).version == 1  # it rests
        clock.now = 200.0
        assert looked(report).version == 2
        assert '"step": 3' in report.page
        clock.now = 300.0
        assert looked(report).version == 2  # nothing is new
        write_training(tmp_path, num_steps=4)
        clock.now = 400.0
        assert looked(report).version == 3
        write_training(tmp_path, num_steps=5)
    assert looked(report).version == 4  # at the end it does not wait
    assert '"step": 5' in report.page


def test_a_file_that_can_not_be_read_leaves_the_page_and_is_told(tmp_path: Path) -> None:
    clock = Clock()
    write_training(tmp_path)
    report = LiveReport(tmp_path, clock)
    assert looked(report).problem == ""
    page = report.page
    whole = (tmp_path / run_folder.METRICS).read_text(encoding="utf-8")
    (tmp_path / run_folder.METRICS).write_text("{broken\n" + whole, encoding="utf-8")
    clock.now = 1000.0
    found = looked(report)
    assert (found.version, report.page) == (1, page)
    assert "metrics.jsonl has a line that is not JSON" in found.problem
    (tmp_path / run_folder.METRICS).write_text(whole, encoding="utf-8")
    clock.now = 2000.0
    found = looked(report)
    assert (found.version, found.problem) == (2, "")


def test_two_readers_make_the_page_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path)
    report, made = LiveReport(tmp_path), []

    def slow(results: Any) -> str:
        made.append(results)
        report.refresh()  # another reader's, meanwhile
        return "page"

    monkeypatch.setattr(live, "to_html", slow)
    assert looked(report).version == 1
    assert (len(made), report.page) == (1, "page")


def test_looking_writes_nothing(tmp_path: Path) -> None:
    write_training(tmp_path)
    write_eval(tmp_path / run_folder.EVAL, answers([1.0, 0.0]))
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    assert looked(LiveReport(tmp_path)).version == 1
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


# -- the page ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ReportServer]:
    write_training(tmp_path)
    made = ReportServer(tmp_path, 0)
    console = Console(file=io.StringIO(), width=200)
    thread = threading.Thread(target=made.serve, args=(console,), kwargs={"browser": False})
    thread.start()
    yield made
    made.shutdown()
    thread.join(10)
    assert not thread.is_alive()


def get(server: ReportServer, place: str = "", path: str | None = None, **headers: str) -> tuple[Any, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", server.path + place if path is None else path, headers=headers)
    response = connection.getresponse()
    return response, response.read().decode()


def wait_for_the_page(server: ReportServer) -> None:
    end = time.monotonic() + 60
    while not server.report.page:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_the_page_looks_and_frames_the_report(server: ReportServer, tmp_path: Path) -> None:
    response, shell = get(server)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self';")
    assert "frame-src 'self'" in policy
    assert tmp_path.name in shell
    assert "%NONCE%" not in shell
    assert get(server, "report")[0].status == 404  # nobody has looked yet
    found = json.loads(get(server, "look")[1])
    assert (found["version"], found["standing"], found["problem"]) == (0, "stopped", "")  # it is being made
    wait_for_the_page(server)
    assert json.loads(get(server, "look")[1])["version"] == 1
    response, page = get(server, "report")
    assert (response.status, page) == (200, server.report.page)
    assert "frame-ancestors 'self'" in response.headers["Content-Security-Policy"]
    assert "Training" in page


@pytest.mark.parametrize("place", ["", "look", "report"])
def test_only_its_own_page_is_answered(server: ReportServer, place: str) -> None:
    get(server, "look")
    wait_for_the_page(server)
    assert get(server, place)[0].status == 200
    assert get(server, place, Host="evil.example")[0].status == 403
    assert get(server, place, Host=f"localhost:{server.server_port}", Origin="http://evil.example")[0].status == 403
    assert get(server, path=f"/{place}")[0].status == 404
    assert get(server, path=f"/wrong/{place}")[0].status == 404


def test_it_listens_on_this_machine_only(server: ReportServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


# -- the command -------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that a browser was asked to open; the server ends at once."""
    found: list[str] = []

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(page_live.webbrowser, "open", found.append)
    monkeypatch.setattr(ReportServer, "serve_forever", interrupted)
    for name in ("SSH_CONNECTION", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    return found


def test_the_command_prints_the_address_and_the_tunnel(
    opened: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 50000 10.0.0.2 2222")
    assert main(["watch", str(tmp_path), "--port", "0"]) == 0
    said = capsys.readouterr().out
    address = said.partition("The report is at ")[2].split()[0]
    port = address.partition("127.0.0.1:")[2].partition("/")[0]
    assert f"ssh -N -L {port}:127.0.0.1:{port} -p 2222 ann@10.0.0.2" in said
    assert opened == []  # it would open where nobody sees it


def test_a_browser_is_opened_unless_told_not_to(opened: list[str], tmp_path: Path) -> None:
    assert main(["watch", str(tmp_path), "--port", "0", "--no_browser"]) == 0
    assert opened == []
    assert main(["watch", str(tmp_path), "--port", "0"]) == 0
    (address,) = opened
    assert address.startswith("http://127.0.0.1:")


def test_what_can_not_be_watched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path / "none")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--port", "70000"]) == 2
    assert "--port 70000 is no port" in capsys.readouterr().err


def test_a_tunnel_by_the_machines_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setattr("selfdistill.page_server.platform.node", lambda: "box")
    assert tunnel(7870) == "ssh -N -L 7870:127.0.0.1:7870 ann@box"
