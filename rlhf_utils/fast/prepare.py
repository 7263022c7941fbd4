"""Makes a loaded model fast: attention, matrix products, LoRA layers, memory."""

from torch import nn

from . import attention, lora, matmul, memory


def speed_up(model: nn.Module) -> nn.Module:
    """The same model, ready to run fast. Call it again once peft has added adapters.

    With bfloat16 weights, float32 products may from now on round their inputs to bfloat16 (sums
    stay float32). The head then runs twice as fast and loses nothing, as its inputs mostly are
    bfloat16 already. With float32 weights everything is float32.
    """
    if hasattr(model, "peft_config"):
        return lora.make_lean(model)
    memory.keep_freed_memory()
    memory.release_freed_memory()  # what was freed before this model came
    matmul.set_products(model.dtype)
    attention.choose(model)
    return matmul.use_fast_products(model)
