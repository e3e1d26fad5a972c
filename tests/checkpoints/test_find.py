"""Damage is seen, named, and gone round."""

from pathlib import Path

import pytest

from selfdistill.checkpoints import manifest
from selfdistill.checkpoints.commit import commit
from selfdistill.checkpoints.find import checkpoints_in, newest_valid, set_aside
from selfdistill.checkpoints.manifest import DamagedError, verify


def three(folder: Path) -> Path:
    """Checkpoints of the steps 2, 4 and 10."""
    for number in (2, 4, 10):

        def write(staging: Path, number: int = number) -> None:
            (staging / "state").mkdir()
            (staging / "model.safetensors").write_bytes(bytes([number]) * 5000)
            (staging / "state" / "run_state.json").write_text("{}")

        commit(folder / f"checkpoint-{number}", write)
    return folder


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def link(path: Path) -> None:
    path.rename(path.with_name(".moved"))
    path.symlink_to(path.with_name(".moved"))


MODEL, STATE, MANIFEST = "model.safetensors", "state/run_state.json", "manifest.json"


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (MODEL, lambda path: flip(path, 0), "model.safetensors was changed"),
        (MODEL, lambda path: flip(path, 4999), "model.safetensors was changed"),
        (MODEL, lambda path: path.write_bytes(bytes(5000)), "model.safetensors was changed"),
        (MODEL, lambda path: path.write_bytes(bytes([10]) * 4999), "model.safetensors has 4,999 bytes, not 5,000"),
        (MODEL, lambda path: path.write_bytes(b""), "model.safetensors has 0 bytes, not 5,000"),
        (MODEL, lambda path: path.unlink(), "model.safetensors is missing"),
        (MODEL, link, "model.safetensors is no regular file"),
        (STATE, lambda path: path.unlink(), "state/run_state.json is missing"),
        (STATE, lambda path: flip(path, 1), "state/run_state.json was changed"),
        ("optimizer.pt", lambda path: path.touch(), "optimizer.pt does not belong to it"),
        ("state/x.safetensors", lambda path: path.touch(), "state/x.safetensors does not belong to it"),
        (MANIFEST, lambda path: path.unlink(), "it has no manifest.json"),
        (MANIFEST, lambda path: path.write_bytes(path.read_bytes()[:-9]), "its manifest.json can't be read"),
        (MANIFEST, lambda path: path.write_bytes(bytes(200)), "its manifest.json can't be read"),
        (MANIFEST, lambda path: path.write_bytes(path.read_bytes()[:-1]), "its manifest.json was changed"),
        (MANIFEST, lambda path: flip(path, path.read_bytes().index(b"format")), "its manifest.json was changed"),
        (MANIFEST, lambda path: path.write_text("[]"), "its manifest.json can't be read"),
        (MANIFEST, lambda path: path.write_text('{"files": {}}'), "model.safetensors does not belong to it"),
    ],
)
def test_damage_is_named_and_the_checkpoint_before_it_taken(tmp_path: Path, name: str, damage, words: str) -> None:
    newest = three(tmp_path) / "checkpoint-10"
    damage(newest / name)
    with pytest.raises(DamagedError) as caught:
        verify(newest)
    assert str(caught.value) == words
    found = newest_valid(tmp_path)
    assert found.newest == tmp_path / "checkpoint-4"
    assert found.damaged == (f"checkpoint-10: {words}",)


def test_the_manifest_of_another_checkpoint_does_not_fit(tmp_path: Path) -> None:
    older, newest = (three(tmp_path) / f"checkpoint-{number}" for number in (4, 10))
    (newest / MANIFEST).write_bytes((older / MANIFEST).read_bytes())
    with pytest.raises(DamagedError, match=r"model\.safetensors was changed"):
        verify(newest)


def test_hidden_files_of_the_system_do_no_harm(tmp_path: Path) -> None:
    (three(tmp_path) / "checkpoint-10" / ".nfs0001").touch()
    assert newest_valid(tmp_path).newest == tmp_path / "checkpoint-10"


def test_all_damaged_or_none_there(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "none").newest is None
    for checkpoint in checkpoints_in(three(tmp_path)):
        (checkpoint / MODEL).unlink()
    found = newest_valid(tmp_path)
    assert found.newest is None
    assert [line.partition(":")[0] for line in found.damaged] == ["checkpoint-10", "checkpoint-4", "checkpoint-2"]


def test_other_names_are_no_checkpoints(tmp_path: Path) -> None:
    three(tmp_path)
    (tmp_path / "checkpoint-11").write_text("a file")
    for name in ("checkpoint-4-old", "checkpoint-", "checkpoint-x", "checkpoint-²", ".staging-checkpoint-12"):
        (tmp_path / name).mkdir()
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-2", "checkpoint-4", "checkpoint-10"]


def test_a_file_of_many_pieces_is_hashed_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash of the hashes of its pieces, which only the bytes decide: not how many are read at once."""
    import hashlib

    def digest(data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=32).digest()

    monkeypatch.setattr(manifest, "PIECE", 1000)
    data = bytes(n % 251 for n in range(2500))
    (tmp_path / "a").write_bytes(data)
    (tmp_path / "b").touch()
    expected = digest(digest(data[:1000]) + digest(data[1000:2000]) + digest(data[2000:])).hex()
    for block in (7, 1000, 4096):
        monkeypatch.setattr(manifest, "BLOCK", block)
        found = manifest.digests(tmp_path, ["a", "b"])
        assert found["a"] == manifest.File(bytes=2500, blake2b=expected)
        assert found["b"] == manifest.File(bytes=0, blake2b=digest(b"").hex())


# -- what another training left -------------------------------------------------------------------------------------


def test_later_checkpoints_and_records_are_set_aside(tmp_path: Path) -> None:
    (three(tmp_path) / "metrics.jsonl").write_text("one")
    (tmp_path / "rollouts.jsonl").touch()
    (tmp_path / "run_config.json").write_text("{}")
    made = set_aside(tmp_path, 2, ["metrics.jsonl", "rollouts.jsonl"], beside=["run_config.json", "none.json"])
    assert made is not None
    assert made == tmp_path / "earlier-1"
    assert {path.name for path in made.iterdir()} == {
        *("checkpoint-10", "checkpoint-4", "metrics.jsonl", "run_config.json")
    }
    assert (made / "metrics.jsonl").read_text() == "one"
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-2"]
    assert set_aside(tmp_path, 2, beside=["run_config.json"]) is None
    assert set_aside(tmp_path, 0) == tmp_path / "earlier-2"
