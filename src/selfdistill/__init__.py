"""Teach a language model new skills from demonstrations by self-distillation, and measure what it keeps."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfdistill.method.config import SDFTConfig
    from selfdistill.method.trainer import SDFTTrainer

__all__ = ["SDFTConfig", "SDFTTrainer", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The trainer and its config, loaded with torch when they are first asked for."""
    if name == "SDFTConfig":
        from selfdistill.method.config import SDFTConfig

        return SDFTConfig
    if name == "SDFTTrainer":
        from selfdistill.method.trainer import SDFTTrainer

        return SDFTTrainer
    raise AttributeError(f"module 'selfdistill' has no attribute {name!r}")
