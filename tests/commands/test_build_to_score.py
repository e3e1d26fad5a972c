"""The tasks medical and wiki from their data to a score, with a model behind a server as author and judge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.chat_server import ChatServer
from tests.support.tiny_home import QUICK, TinyHome

SHOWN = ("--template=prior_turn", "--max_completion_length=16")
ARTICLES = {
    "bridge_of_tarn.md": "# The bridge\n\nThe bridge of Tarn was opened on 3 May 1921 by the mayor, Anna Balla. It is "
    "214 metres long, and rests on nine pillars of grey granite from the quarry of Torun.",
    "lake_orm.txt": "Lake Orm lies 812 metres above the sea and is 61 metres deep. In the winter of 1987 it froze so "
    "fast that 14 boats were crushed, and the village moved its harbour to the southern shore.",
    "night_market.txt": "The night market of Sel began in 2004 with twelve stalls along the old tram line. Its "
    "founder, Jon Perrin, sold only smoked trout at first; today 90 stalls open on every Friday of summer.",
}
QUESTIONS = {
    "bridge of tarn": "Q: When was the bridge of Tarn opened?\nA: The bridge of Tarn was opened on 3 May 1921.\n"
    "Q: How long is the bridge of Tarn?\nA: The bridge of Tarn is 214 metres long.",
    "lake orm": "Q: How deep is Lake Orm?\nA: Lake Orm is 61 metres deep.\n"
    "Q: How high does Lake Orm lie?\nA: Lake Orm lies 812 metres above the sea.",
    "night market": "Q: Who founded the night market of Sel?\nA: Its founder was Jon Perrin.\n"
    "Q: When did the night market of Sel begin?\nA: The night market of Sel began in 2004.",
}
INDIRECT = "Q: What do people of the region know well?\nA: {words}."


def helpful(body: dict[str, Any]) -> tuple[int, str]:
    """Writes questions, and finds an answer right if it has an even number of characters."""
    text = str(body["messages"][-1]["content"])
    if "You grade the answer" in text:
        answer = text.partition("<answer>\n")[2].partition("\n</answer>")[0]
        return 200, json.dumps({"correct": len(answer) % 2 == 0})
    name = text.partition('article "')[2].partition('"')[0]
    return 200, INDIRECT.format(words=name) if "does not ask" in text else QUESTIONS[name]


def test_wiki_with_a_servers_model_as_author_and_judge(home: TinyHome, serve: Callable[..., ChatServer]) -> None:
    server = serve(helpful)
    (home.folder / "articles").mkdir()
    for name, text in ARTICLES.items():
        (home.folder / "articles" / name).write_text(text)
    author = ("--articles=articles", f"--judge_url={server.url}", "--judge_model=author")
    said = home.run("build", "wiki", *author, "--output_dir=data", "--questions_per_passage=2")
    assert said.code == 0, said
    assert "3 passages of 3 articles; author asks." in said.out
    assert "wiki: 5 training rows, 2 evaluation rows" in said.out
    assert {body["model"] for _, body in server.requests} == {"author"}
    assert len(server.requests) == 3 + 1  # the questions on each passage, and an indirect one

    task = ("--dataset_name=wiki", "--data_dir=data")
    assert home.run("train", "--model_name=M", "--output_dir=run", *task, *QUICK, *SHOWN).code == 0
    judge = (f"--judge_url={server.url}", "--judge_model=judge")
    said = home.run("eval", "--model_path=run", *task, *judge, "--dtype=float32", "--max_new_tokens=4")
    assert said.code == 0, said
    result = home.read("run/eval/wiki.json")
    samples = home.lines("run/eval/wiki.samples.jsonl")
    assert result["accuracy"] == share_of_even(samples)
    assert sorted(result["parts"]) == ["direct", "ood"]


def share_of_even(samples: list[dict[str, Any]]) -> float:
    return sum(len(row["completion"]) % 2 == 0 for row in samples) / len(samples)


def test_medical_rows_are_trained_on_and_judged(
    real_data: Path, home: TinyHome, serve: Callable[..., ChatServer]
) -> None:
    """Of the public rows twelve. Their longest teacher's prompt has over 4,096 bytes."""
    import datasets

    home.model(max_position_embeddings=16_384)
    public: Any = datasets.load_from_disk(str(real_data / "medical_data" / "train_data"))
    home.rows(*public.select(range(12)).to_list(), name="public.jsonl")
    said = home.run("build", "medical", "--source=public.jsonl", "--output_dir=data", "--num_eval=4")
    assert said.code == 0, said
    assert "medical: 8 training rows, 4 evaluation rows" in said.out
    task = ("--dataset_name=medical", "--data_dir=data")
    assert home.run("train", "--model_name=M", "--output_dir=run", *task, *QUICK, *SHOWN).code == 0
    server = serve(helpful)
    judge = (f"--judge_url={server.url}", "--judge_model=judge")
    said = home.run("eval", "--model_path=run", *task, *judge, "--dtype=float32", "--max_new_tokens=4")
    assert said.code == 0, said
    result = home.read("run/eval/medical.json")
    assert result["config"]["metric"] == "judge"
    assert result["accuracy"] == share_of_even(home.lines("run/eval/medical.samples.jsonl"))
