"""The same numbers, faster. A reader may skip this folder; `RLHF_PLAIN=1` switches it off.

Six names are for the rest of the package, and only models/ uses them. Each has a short plain
twin in plain.py, which the tests compare it with.
"""

import os

if os.environ.get("RLHF_PLAIN") == "1":
    from .plain import (
        Trunk,
        compared_logprobs,
        decoder,
        product_rate,
        speed_up,
        token_logprobs,
    )
else:
    from .decoding import decoder
    from .logprobs import compared_logprobs, token_logprobs
    from .matmul import product_rate
    from .prepare import speed_up
    from .trunk import Trunk

__all__ = [
    "Trunk",
    "decoder",
    "token_logprobs",
    "compared_logprobs",
    "speed_up",
    "product_rate",
]
