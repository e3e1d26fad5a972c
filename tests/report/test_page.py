"""The report's files: page, Markdown, and what the command prints."""

import base64
import hashlib
import io
import re
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from selfdistill import run_folder
from selfdistill.commands import report as command
from selfdistill.report import render
from selfdistill.report.collect import collect
from selfdistill.settings.report import ReportOptions
from tests.support.mistakes import mistake
from tests.support.report_folders import (
    SCRIPT,
    as_json,
    rollout,
    sequence,
    write_comparison,
    write_run,
    write_sequences,
)


def visible(page: str) -> str:
    """The page without its scripts."""
    return re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)


def page_of(folder: Path) -> str:
    return render.to_html(collect(folder))


def test_command_writes_all_files_and_prints_the_verdict(tmp_path: Path) -> None:
    write_run(tmp_path / "run", [0.0] * 12, [1.0] * 12)
    console = Console(record=True, width=200, file=io.StringIO())
    command.run(ReportOptions(folder=str(tmp_path / "run"), output=str(tmp_path / "out")), console)
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        "report.html",
        "report.md",
        "results.json",
        *(f"tables/{name}.csv" for name in ("scores", "training", "time")),
    }
    printed = console.export_text()
    assert "BETTER" in printed
    assert "12 fixed, 0 broke" in printed
    assert as_json(tmp_path / "out/results.json")["title"] == "run"


def test_command_says_what_is_wrong_with_the_folder(tmp_path: Path) -> None:
    console = Console(quiet=True)
    assert "nowhere is not a folder" in mistake(command.run, ReportOptions(folder=str(tmp_path / "nowhere")), console)
    (tmp_path / "compare.json").write_text("{")
    assert "compare.json can't be read (" in mistake(command.run, ReportOptions(folder=str(tmp_path)), console)


def test_markdown_has_verdict_tables_and_versions(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 12, [1.0] * 12)
    text = render.to_markdown(collect(tmp_path))
    assert "**BETTER**: +100.0 points" in text
    assert "| data set | part | rows |" in text
    assert re.search(r"^\| --- \| --- \| ---: \|", text, re.MULTILINE)
    assert "model tiny, python 3.11" in text


def test_the_answer_of_a_comparison_is_on_the_page_and_in_markdown(tmp_path: Path) -> None:
    write_comparison(tmp_path, verdict="Yes. At every accuracy on the fronts of `sft`, `sdft` has less drift.")
    question = "Does self-distillation keep more at the same skill?"
    assert f"**{question}** Yes. At every accuracy on the fronts of `sft`" in render.to_markdown(collect(tmp_path))
    assert f"<strong>{question}</strong> Yes. At every accuracy on the fronts of sft, sdft has" in page_of(tmp_path)


def test_the_diagonal_of_a_matrix_is_marked(tmp_path: Path) -> None:
    write_sequences(tmp_path, sequence("sdft"), sequence("sft"))
    diagonal = re.findall(r'diagonal" data-sort="([\d.]+)"', page_of(tmp_path))
    assert [float(value) for value in diagonal] == [0.7, 0.6, 0.8, 1.0, 1.0, 1.0] * 2  # accuracies, then normalised


# -- rollouts --------------------------------------------------------------------------------------------------------


def rollouts_of(folder: Path, **fields: object) -> str:
    """The page's rollouts of a run that left one completion with these fields."""
    write_run(folder, [0.0] * 6, [1.0] * 6)
    run_folder.write_jsonl(folder / run_folder.ROLLOUTS, [rollout(1, **fields)])
    found = re.search(r'<div class="rollouts">.*?</article>', page_of(folder), re.DOTALL)
    assert found is not None
    return found.group()


def test_tokens_are_shaded_by_their_divergence(tmp_path: Path) -> None:
    shown = rollouts_of(tmp_path, per_token_kl=[2.0, None])
    assert '<span class="k0 skipped">call</span>' in shown
    assert '<span class="k9" title="2.000 nats"> Ann</span>' in shown
    assert '<span class="k0 skipped"> now</span>' in shown
    assert "<h4>teacher</h4><pre>Call Bob. &lt;answer&gt; call Bob. Call Ann.</pre>" in shown


def test_tokens_held_to_themselves_are_shaded_by_cross_entropy(tmp_path: Path) -> None:
    shown = rollouts_of(
        tmp_path, target="tokens", per_token_kl=[], per_token_cross_entropy=[0.5, 3.0], teacher_prompt=None
    )
    assert "shaded by cross-entropy" in shown
    assert '<span class="k4" title="0.500 nats"> Ann</span>' in shown  # 9 sqrt(0.5 / 2) = 4.5, rounded to even
    assert '<span class="k9" title="3.000 nats"> now</span>' in shown


def test_a_rollout_without_a_teachers_prompt_shows_the_students_alone(tmp_path: Path) -> None:
    shown = rollouts_of(tmp_path, target="start", teacher_prompt=None)
    assert "anchor prompt" in shown
    assert "<h4>student</h4><pre>Call Ann.</pre>" in shown
    assert "<h4>teacher</h4>" not in shown
    assert "None" not in shown


# -- nothing but what is meant -----------------------------------------------------------------------------------------


def test_model_text_is_escaped_everywhere(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 12, [1.0] * 12, right=SCRIPT)
    made = rollout(1, id=SCRIPT, tokens=[SCRIPT, "", ""], teacher_prompt=SCRIPT)
    run_folder.write_jsonl(tmp_path / run_folder.ROLLOUTS, [made])
    page = render.to_html(replace(collect(tmp_path), title=SCRIPT, warnings=[SCRIPT]))
    assert "&lt;script&gt;window.injected" in page
    assert page.count("<script>") == 2
    assert "<img" not in visible(page)


def test_markdown_has_no_tag_of_a_run(tmp_path: Path) -> None:
    write_run(tmp_path, [0.0] * 12, [1.0] * 12)
    results = collect(tmp_path)
    (run,) = results.runs
    assert run.config is not None
    hostile = replace(run, config=replace(run.config, versions={"torch": SCRIPT}))
    text = render.to_markdown(replace(results, title=SCRIPT, warnings=[SCRIPT], runs=[hostile]))
    assert text.count("\\<script>") == 3
    assert text.count("<script>") == 3


def test_page_asks_for_nothing_and_runs_only_its_own_scripts(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, [0.0] * 12, [1.0] * 12))
    head = page[: page.index("</head>")]
    assert re.findall(r'(?:src|href)="(?!#|data:)', visible(page)) == []
    assert "url(" not in head
    assert "@import" not in head
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = re.findall(r"sha256-([\w+/=]+)", policy.group(1).replace("&#43;", "+"))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts] == allowed
    assert "default-src &#39;none&#39;" in policy.group(1)


def test_page_of_200_long_samples_and_four_methods_fits(tmp_path: Path) -> None:
    long = '{"tool": "x", "arguments": ["a"]} ' * 150
    for method in ("sdft", "sft", "dft", "cpt"):
        write_run(tmp_path / method, [0.0] * 240, [1.0] * 240, method, right=f"{method} {long}")
    results = collect(tmp_path)
    assert len(results.samples) == 200
    page = render.to_html(results)
    assert len(page.encode()) <= render.MAX_BYTES
    assert page.count('<article class="sample"') == 200
    assert "more characters]" in page
