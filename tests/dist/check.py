"""Is what `make dist` built whole, and does it work alone?

    PYTHON tests/dist/check.py dist

PYTHON is that of an environment into which only the wheel of ``dist`` was installed. Wheel and sdist must hold every file
of the package, and the commands that need nothing but the package must work in an empty folder.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("selfdistill")
IN_SDIST = ("README.md", "Makefile", "requirements.lock", "mkdocs.yml", "docs/README.md", "examples/loop.py", "tests/conftest.py")
DEMO = (
    "demo",
    "--config",
    "demo-cpu",
    "--limit",
    "8",
    "--max_steps",
    "2",
    "--drift_prompts",
    "4",
    "--output_dir",
    "demo",
)


def missing(dist: Path) -> list[str]:
    """Files that wheel or sdist lack, by their names in them."""
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    package = [path for path in (ROOT / "src").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    recipes = [path for path in (ROOT / "recipes").rglob("*") if path.is_file()]
    with zipfile.ZipFile(wheel) as file:
        in_wheel = set(file.namelist())
    with tarfile.open(sdist) as file:
        in_sdist = {name.partition("/")[2] for name in file.getnames()}
    wanted = {path.relative_to(ROOT / "src").as_posix() for path in package}
    wanted |= {f"selfdistill/recipe_files/{path.relative_to(ROOT / 'recipes').as_posix()}" for path in recipes}
    sources = {path.relative_to(ROOT).as_posix() for path in (*package, *recipes)} | set(IN_SDIST)
    return sorted(wanted - in_wheel) + sorted(sources - in_sdist)


def run(*words: str) -> str:
    """What a command prints. Raises CalledProcessError unless it ends with 0; what it printed is shown then."""
    print("selfdistill", *words, flush=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "SELFDISTILL_DATA")}
    done = subprocess.run([str(PROGRAM), *words], stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        print(done.stdout)
    done.check_returncode()
    return done.stdout


def try_commands() -> None:
    """Runs commands in the present folder, which is empty. Raises AssertionError if one does not do what it should."""
    Path("mine.jsonl").write_text('{"prompt": "1+1?", "demonstration": "2"}\n', encoding="utf-8")
    assert run("--version").startswith("selfdistill ")
    assert "demo-cpu" in run("recipes")
    assert "assistant-tools" in run("tasks")
    assert json.loads(run("data", "mine.jsonl", "--json"))["num_usable"] == 1
    run("init", "--dataset_path", "mine.jsonl", "--model_name", "smollm2-135m")
    run(*DEMO)
    assert Path("demo/model.safetensors").is_file()
    assert "before" in Path("demo/report.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    lacking = missing(Path(sys.argv[1]))
    if lacking:
        sys.exit("wheel or sdist lacks " + ", ".join(lacking))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try_commands()
    print("dist: wheel and sdist are whole, and the wheel's commands work alone")
