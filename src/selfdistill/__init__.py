"""Teach a language model new skills from demonstrations by self-distillation, and measure what it keeps."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfdistill.method.config import SDFTConfig
    from selfdistill.method.trainer import SDFTTrainer

__all__ = ["SDFTConfig", "SDFTTrainer", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports the trainer and its config on first use, since they load torch."""
    if name == "SDFTConfig":
        from selfdistill.method.config import SDFTConfig

        return SDFTConfig
    if name == "SDFTTrainer":
        from selfdistill.method.trainer import SDFTTrainer

        return SDFTTrainer
    raise AttributeError(f"module 'selfdistill' has no attribute {name!r}")
