"""The memory estimate against tensors that are really held, and what a run that does not fit is told."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from selfdistill.method import memory, memory_parts, sampling_memory
from selfdistill.method.config import SDFTConfig
from selfdistill.method.master_weights import MasterWeights
from selfdistill.method.memory import MemoryCheck, available, estimate, split_over
from selfdistill.method.remedies import Change
from selfdistill.method.teacher import Teacher
from selfdistill.models.adapters import lora
from selfdistill.models.attention import use_fast_attention
from selfdistill.models.loading import load_model
from selfdistill.models.output_head import decoder
from selfdistill.settings.method import MethodConfig
from selfdistill.types import Example, PromptPair

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROGRAM_BYTES", 700 * 2**20)


def pair(prompt: int, teacher: int | None = None, demonstration: int = 0) -> PromptPair:
    example = Example(id="x", prompt=({"role": "user", "content": "Hi"},))
    shown = None if teacher is None else (3,) * teacher
    ids = (3,) * prompt, (3,) * demonstration
    return PromptPair(example=example, student_ids=ids[0], teacher_ids=shown, demonstration_ids=ids[1])


def check(
    config: Any, *pairs: PromptPair, lora_r: int | None = None, dtype: str = "float32", device: torch.device = CPU
) -> MemoryCheck:
    return MemoryCheck(config, pairs, lora_r=lora_r, dtype=dtype, device=device)


def test_every_part_by_hand(tiny_model):
    args = MethodConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_completion_length=10)
    found = estimate(
        tiny_model().config,
        args,
        weight_bytes=4000,
        num_trainable=1000,
        bytes_per_weight=4,
        adapter=False,
        lengths=[50, 10, 30, 20, 40],  # the longest four: 140 tokens
        longest_prompt=6,
    )
    assert found.as_dict() == {
        "weights": 4000,
        "masters_and_optimizer": 8000,
        "gradients": 4000,
        "teacher": 4000,
        "activations": 140 * 3 * (8 * 16 + 4 * (4 * 16 + 2 * 16 + 2 * 8 + 4 * 24)),
        "teacher_pass": 0,
        "fragmentation": 0,
        "loss": 24 * 140 * 40 + 40 * 16 * 8 + 4 * 16 * (8 * 10),
        "rollouts": 8 * (2 * 2 * 8 * 4 * (6 + 6 + 10) + 28 * 40) + 4000,
        "program": 700 * 2**20,
        "host": 0,
        "engine": 0,
        "checkpoint": 4000 + 8000 + 4000,  # weights, moments, average
        "peak": 4000 + 8000 + 4000 + 4000 + 403_200 + 139_520 + 5_120 + 700 * 2**20,
    }


@pytest.mark.parametrize("width", [4, 2])
def test_a_model_split_over_two_processes_by_hand(tiny_model, width):
    """2,500 weights; output head and embeddings of 640 each, the rest in two layers, which are gathered together."""
    args = MethodConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2, max_completion_length=10)
    config, bytes_of_weights = tiny_model().config, 2500 * width
    whole = estimate(
        config,
        args,
        weight_bytes=bytes_of_weights,
        num_trainable=2500,
        bytes_per_weight=width,
        adapter=False,
        lengths=[50],
        longest_prompt=6,
    )
    split = split_over(2, whole, config, args, bytes_of_weights, 2500, width)
    assert split.weights == split.gradients == split.teacher == 2500 * 4 // 2
    assert split.masters_and_optimizer == 2500 * 8 // 2
    assert split.teacher_pass == split.activations - whole.activations == bytes_of_weights
    assert split.rollouts - whole.rollouts == bytes_of_weights
    assert split.loss - whole.loss == 640 * width


def test_the_number_of_processes_that_share_a_model_counts(tiny_model):
    args: Any = MethodConfig(max_completion_length=10, shard_weights=True)
    made = check(tiny_model().config, pair(4, 6))
    args.world_size = 2
    two = made.estimate(args)
    args.world_size = 4
    assert made.estimate(args).gradients == two.gradients // 2


def test_a_target_keeps_scores_of_every_model_it_reads_and_a_start_model(tiny_model):
    shared: dict[str, Any] = {"weight_bytes": 4000, "num_trainable": 1000, "bytes_per_weight": 4, "adapter": False}
    sizes: dict[str, Any] = {"lengths": [50], "longest_prompt": 6}
    batch: dict[str, Any] = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}

    def more(**settings: Any) -> tuple[int, int]:
        found = [
            estimate(
                tiny_model().config, MethodConfig(max_completion_length=10, **batch, **chosen), **shared, **sizes
            ).as_dict()
            for chosen in ({}, settings)
        ]
        changed = {name for name in found[0] if found[0][name] != found[1][name]} - {"peak", "checkpoint"}
        assert changed <= {"teacher", "loss"}
        return found[1]["teacher"] - found[0]["teacher"], found[1]["loss"] - found[0]["loss"]

    chunk, scores = 4 * 4 * 50 * 40, 4 * 16 * 10  # four tensors of logits; the hidden states of ten tokens
    assert more(target="budget") == (0, chunk)
    assert more(target="mix", target_reference="student") == (0, chunk)
    assert more(target="mix") == (4000, chunk + scores)
    assert more(target="contrast") == (4000, chunk + 2 * scores)


def test_vllm_keeps_its_copy_on_a_cpu_and_takes_its_share_of_a_card_while_it_samples(tiny_model):
    def found(engine: Any, **options: Any) -> memory.MemoryEstimate:
        args = MethodConfig(
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_completion_length=130,
            rollout_engine=engine,
            vllm_memory_share=0.25,
        )
        sizes: dict[str, Any] = {"weight_bytes": 4000, "num_trainable": 1000, "bytes_per_weight": 4, "adapter": False}
        return estimate(tiny_model().config, args, lengths=[50], longest_prompt=6, **sizes, **options)

    inside, beside, own = found("vllm"), found("vllm-server"), found("auto")
    # eight rows of 136 tokens take two blocks of 128 each, and vLLM one more
    assert (inside.rollouts, inside.engine) == (0, 4000 + 17 * 128 * (2 * 2 * 8 * 4))
    assert inside.standing == own.standing + inside.engine
    assert (beside.rollouts, beside.engine) == (0, 0)
    card = found("vllm", on_cpu=False, card_bytes=2**34)
    assert (card.rollouts, card.engine) == (2**32, 0)
    assert card.passing == 2**32
    assert found("auto", on_cpu=False, card_bytes=2**34).rollouts == found("auto", on_cpu=False).rollouts > 0


def test_while_completions_are_sampled_there_are_no_gradients():
    parts = {"weights": 1, "masters_and_optimizer": 2, "teacher": 4, "program": 8}
    parts |= {"gradients": 16, "activations": 32, "loss": 64}
    training = memory.MemoryEstimate(rollouts=111, teacher_pass=100, **parts)
    assert (training.peak, training.largest) == (15 + 112, "rollouts")
    assert memory.MemoryEstimate(rollouts=200, teacher_pass=100, **parts).peak == 15 + 200
    assert memory.MemoryEstimate(rollouts=100, teacher_pass=300, **parts).peak == 15 + 300


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", ["ema", "frozen", "live"])
@pytest.mark.parametrize("lora_r", [None, 2])
def test_weights_masters_and_teacher_are_what_is_held(tiny_model, dtype, kind, lora_r):
    model = tiny_model(dtype=dtype)
    config, name = model.config, str(dtype).removeprefix("torch.")
    found = check(config, pair(3), dtype=name, lora_r=lora_r).estimate(MethodConfig(teacher=kind))
    if lora_r:
        model = lora(model, r=lora_r, alpha=lora_r, dropout=0.0)
    masters = MasterWeights(model)
    teacher = Teacher(masters, kind)

    def size(tensors) -> int:
        return sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors}.values())

    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.weights == size(model.parameters())
    assert found.masters_and_optimizer == size(masters.state_dict().values()) + 8 * trained
    assert found.gradients == 4 * trained
    assert found.teacher == size(teacher.state_dict().values())
    with teacher.active():
        made = [p for p in model.parameters() if p.requires_grad]
        kept = {t.data_ptr() for t in teacher.state_dict().values()}
        assert found.teacher_pass == (size(t for t in made if t.data_ptr() not in kept) if kind != "live" else 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("lora_r", "quantize"), [(None, None), (2, None), (2, "4bit"), (2, "8bit")])
def test_activations_are_what_autograd_keeps(tiny_model, tmp_path, dtype, lora_r, quantize):
    """Bytes that a layer keeps: those of four layers less those of two, halved."""
    sizes = {"hidden_size": 72, "intermediate_size": 192, "num_attention_heads": 6, "num_key_value_heads": 2}

    def kept(layers: int) -> int:
        model = tiny_model(dtype=dtype, num_hidden_layers=layers, head_dim=16, **sizes)
        if quantize:
            model.save_pretrained(tmp_path / str(layers))
            dtype_name = str(dtype).removeprefix("torch.")
            model = load_model(str(tmp_path / str(layers)), dtype=dtype_name, device="cpu", quantize=quantize)
        use_fast_attention(model)
        if lora_r:
            model = lora(model, r=lora_r, alpha=lora_r, dropout=0.0)
        weights = {p.data_ptr() for p in model.parameters()}
        held: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                held[storage.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            decoder(model)(input_ids=torch.full((1, 128), 3), use_cache=False)
        return sum(tensor.untyped_storage().nbytes() for tensor in held.values())

    config = tiny_model(head_dim=16, **sizes).config
    expected = memory_parts.block_bytes(config, dtype.itemsize, adapter=lora_r is not None)
    assert (kept(4) - kept(2)) / 2 / 128 == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("settings", "kept", "made"),
    [
        ({"teacher": "ema"}, 4, 2),  # the fp32 average, and bf16 weights for the passes
        ({"teacher": "frozen"}, 2, 0),
        ({"teacher": "live"}, 0, 0),
        ({"method": "sft"}, 0, 0),
        ({"method": "sft", "anchor_share": 0.5}, 2, 0),  # the start model
        ({"teacher": "ema", "anchor_share": 0.5}, 6, 2),
        ({"teacher": "frozen", "anchor_share": 0.5}, 2, 0),  # one frozen model plays both
        ({"method": "reinvoke", "teacher": "ema"}, 2, 0),
        ({"teacher": "ema", "teacher_home": "host"}, 0, 2),
        ({"teacher": "frozen", "teacher_home": "host"}, 0, 2),
        ({"teacher": "frozen", "teacher_restart_steps": 9}, 2, 0),
        ({"teacher": "frozen", "teacher_restart_steps": 9, "anchor_share": 0.5}, 4, 0),
        ({"method": "sft", "anchor_share": 0.5, "teacher_home": "host"}, 0, 2),
    ],
)
def test_teachers(settings, kept, made):
    assert memory_parts.teacher_bytes(MethodConfig(**settings), 2, on_cpu=False) == (kept, made)


def test_nothing_is_sampled_where_demonstrations_are_the_completions(tiny_model: Any) -> None:
    config = tiny_model().config

    def rollouts(**settings: Any) -> int:
        args = MethodConfig(per_device_train_batch_size=4, gradient_accumulation_steps=1, **settings)
        return check(config, pair(5, 50, 4)).estimate(args).rollouts

    assert rollouts(method="sft") == 0
    assert rollouts(method="sft", anchor_share=0.5) == rollouts()
    assert rollouts(method="offline") > rollouts()  # from the teacher's prompt, which is longer


def activations(config: Any, *pairs: PromptPair, **settings: Any) -> float:
    """Tokens in the largest micro-batch of two rows, by what it is said to keep."""
    args = MethodConfig(per_device_train_batch_size=2, max_completion_length=10, **settings)
    one = check(config, pair(1, demonstration=1)).estimate(MethodConfig(per_device_train_batch_size=1, method="sft"))
    return check(config, *pairs).estimate(args).activations / (one.activations / 2)


def test_the_largest_micro_batch_is_of_the_longest_rows(tiny_model: Any) -> None:
    config = tiny_model().config
    rows = pair(5, 90, 40), pair(30, 7, 3), pair(20, 7, 30)
    assert activations(config, *rows) == (30 + 10) + (20 + 10)  # whatever the teacher reads
    assert activations(config, *rows, method="sft") == (20 + 30) + (5 + 40)


def test_an_anchor_beside_demonstrations_is_as_long_as_it_may_become(tiny_model: Any) -> None:
    """It has no demonstration: its completion is sampled."""
    config = tiny_model().config
    rows = pair(5, demonstration=4), pair(5, demonstration=3), pair(6)
    assert activations(config, *rows, method="sft", anchor_share=0.25) == (6 + 10) + (5 + 4) + (5 + 3)


@pytest.mark.parametrize(
    ("dtype", "prompts", "copies"), [("bfloat16", 1, 1), ("float32", 4, 1), ("float32", 3, 0)]
)  # so few rows gain nothing by it in fp32
def test_the_copy_for_decoding_is_a_cpus(tiny_model: Any, dtype: str, prompts: int, copies: int) -> None:
    config = tiny_model().config
    args = MethodConfig(per_device_train_batch_size=prompts, gradient_accumulation_steps=1)
    here, there = (
        check(config, pair(5), dtype=dtype, device=torch.device(name)).estimate(args) for name in ("cpu", "cuda")
    )
    assert here.rollouts - there.rollouts == copies * here.weights


def test_a_copy_for_decoding_that_is_too_large_is_not_made(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = check(tiny_model().config, pair(5)).estimate(MethodConfig())
    monkeypatch.setattr(sampling_memory, "PACKED_BYTES", found.weights - 1)
    without = check(tiny_model().config, pair(5)).estimate(MethodConfig())
    assert found.rollouts - without.rollouts == found.weights


def test_another_rank_is_another_adapter(tiny_model: Any) -> None:
    made = check(tiny_model().config, pair(5), lora_r=2)
    two, four = made.estimate(MethodConfig()), made.estimate(MethodConfig(), Change(lora_r=4))
    assert four.gradients == 2 * two.gradients


@pytest.fixture
def lacks(tiny_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str | None]:
    """What a run lacks where there are so many MiB beside the program's 700."""

    def say(mib: float, *, lora_r: int | None = None, **settings: Any) -> str | None:
        monkeypatch.setattr(memory, "available", lambda _: int((700 + mib) * 2**20))
        args = SDFTConfig(output_dir=str(tmp_path), max_completion_length=256, **settings)
        config = tiny_model(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, vocab_size=1000).config
        made = check(config, *[pair(256)] * 64, lora_r=lora_r)
        return made.shortage(args, made.estimate(args))

    return say


def test_a_run_that_fits_lacks_nothing(lacks: Any) -> None:
    assert lacks(2000) is None


def test_the_remedy_changes_as_little_as_it_can(lacks: Any) -> None:
    text = lacks(450, per_device_train_batch_size=16, gradient_accumulation_steps=1)
    assert "most of it for activations" in text
    assert "--per_device_train_batch_size 4 --gradient_accumulation_steps 4 takes" in text
    assert lacks(450, per_device_train_batch_size=4, gradient_accumulation_steps=4) is None
    assert lacks(450, per_device_train_batch_size=8, gradient_accumulation_steps=2)


def test_checkpointing_then_lora_where_micro_batches_are_of_one(lacks: Any) -> None:
    one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1}
    assert "--activation_checkpointing takes" in lacks(110, **one)
    assert lacks(110, **one, activation_checkpointing=True) is None
    assert "--activation_checkpointing --optim adamw_8bit takes" in lacks(90, **one)
    assert "--lora_r 16 takes" in lacks(66, **one)
    text = lacks(1, **one)
    assert text.endswith("take a smaller model.")
    assert len(text.split()) <= 36


def test_group_limits(tmp_path, monkeypatch):
    membership, root = tmp_path / "cgroup", tmp_path / "sys"
    monkeypatch.setattr(memory, "CGROUPS", (membership, root))
    assert list(memory._group_limits()) == []  # no Linux
    membership.write_text("0::/a/b\n")
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "memory.max").write_text("max\n")
    (root / "a" / "memory.max").write_text("5000\n")
    assert list(memory._group_limits()) == [5000]
    assert available(torch.device("cpu")) == 5000
    membership.write_text("4:cpu,memory:/elsewhere\n3:cpuset:/\n0::/\n")  # version 1, seen from within a container
    (root / "memory").mkdir()
    (root / "memory" / "memory.limit_in_bytes").write_text("7000\n")
    assert list(memory._group_limits()) == [7000]


def test_without_limits_a_process_can_have_what_it_has_and_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", (memory.Path("/nowhere"), memory.Path("/nowhere")))
    assert 2**28 < available(torch.device("cpu")) <= memory.psutil.virtual_memory().total


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_quantized_weights_by_hand(tiny_model: Any, quantize: Any) -> None:
    """Two layers of width 16, each of products that are quantized: 16 x 16 and 8 x 16 twice, 24 x 16 three times."""
    config = tiny_model().config
    plain = MemoryCheck(config, [pair(3)], lora_r=2, dtype="float32", device=CPU)
    short = MemoryCheck(config, [pair(3)], lora_r=2, dtype="float32", device=CPU, quantize=quantize)
    numbers = 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16)
    outputs = 2 * (16 + 8 + 8 + 16 + 24 + 24 + 16)
    kept = {"4bit": round(numbers * (0.5 + (1 + 4 / 256) / 64)), "8bit": numbers + 4 * outputs}[quantize]
    saved = plain.estimate(MethodConfig()).weights - short.estimate(MethodConfig()).weights
    assert saved == 4 * numbers - kept - 4 * 24 * 16  # and the largest layer, dequantized to be used


def test_what_lies_on_the_host_and_on_the_disk(tiny_model: Any) -> None:
    """n weights in bf16: read through the host first; a checkpoint holds them, lower halves, moments and average."""
    config = tiny_model().config
    n = sum(p.numel() for p in tiny_model().parameters())
    pinned = sum(2 ** math.ceil(math.log2(p.numel())) for p in tiny_model().parameters())  # as torch rounds each block

    def parts(**settings: Any) -> memory.MemoryEstimate:
        made = check(config, pair(3), dtype="bfloat16", device=torch.device("cuda"))
        return made.estimate(MethodConfig(**settings))

    assert parts().host == memory.PROGRAM_BYTES + 2 * n
    assert parts(teacher_home="host").host == memory.PROGRAM_BYTES + 4 * pinned
    assert parts(teacher_home="host", optim="paged_adamw_32bit").host == memory.PROGRAM_BYTES + 4 * pinned + 8 * n
    assert parts().checkpoint == parts(teacher_home="host").checkpoint == n * (2 + 2 + 8 + 4)
    assert parts(teacher="frozen").checkpoint == n * (2 + 2 + 8 + 2)


def test_a_host_that_is_too_small(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = check(tiny_model().config, pair(3), dtype="bfloat16", device=torch.device("cuda"))
    needed = made.estimate(MethodConfig(teacher_home="host"))
    there = {"cuda": needed.peak, "cpu": needed.host - 1}
    monkeypatch.setattr(memory, "available", lambda device: there[device.type])
    text = made.shortage(MethodConfig(teacher_home="host"), needed) or ""
    assert "0.7 GiB of the host's memory beside the GPU's" in text
    assert len(text.split()) <= 36
    there["cpu"] += 1
    assert made.shortage(MethodConfig(teacher_home="host"), needed) is None
