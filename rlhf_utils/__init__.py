"""The module behind the notebooks; its folders are the story, in order.

data         rows in: prompts, demonstrations, preference rows; the built-in ones
models       load, adapt (LoRA), sample, fine-tune (SFT), export
preferences  answers ranked by people or stand-ins: widget, store, agreement, pairs
reward       the reward model: heads, training, report card; other rewards
ppo          formulas, one whole update, checkpoints
evaluation   before against after, and the report
show, run    figures and tables; run directory and the `rlhf` command
fast         the same numbers, faster: may be skipped, RLHF_PLAIN=1 switches it off
"""
