"""The same numbers, faster. A reader may skip this folder; `RLHF_PLAIN=1` switches it off.

The six names below are the only door, and only models/ goes through it. Each has a short, plain
twin in plain.py; the tests compare the two.
"""

import os

if os.environ.get("RLHF_PLAIN") == "1":
    from .plain import Trunk, compared_logprobs, decoder, product_rate, speed_up, token_logprobs
else:
    from .decoding import decoder
    from .logprobs import compared_logprobs, token_logprobs
    from .matmul import product_rate
    from .prepare import speed_up
    from .trunk import Trunk

__all__ = ["Trunk", "decoder", "token_logprobs", "compared_logprobs", "speed_up", "product_rate"]
