"""Whatever is wrong comes as one sentence before anything is begun, and loses nothing.

Tables of bad input: (id, what is given, words that the sentence must hold). Add a row, not a test.
"""

import hashlib
import json
import re

import pytest
from helpers_run import begin, call, checkpoint, finish

from rlhf_utils.errors import ExplainedError
from rlhf_utils.files import write_json
from rlhf_utils.preferences.exchange import read_labels
from rlhf_utils.run import cli
from rlhf_utils.run.parameters import check_parameters, declared, fill_settings
from rlhf_utils.run.paths import notebook_path

LONG = "x" * 5000

# --- values: `-p TEXT` ----------------------------------------------------------------------------

BAD_VALUES = [
    # form
    ("no-sign", "seed", "'seed' is not of the form name=value"),
    ("no-name", "=3", "not of the form name=value"),
    ("nothing", "", "not of the form name=value"),
    ("a-space", "a b=3", "not of the form name=value"),
    ("no-stage", ".seed=3", "'.seed=3' is not of the form"),
    ("stage-misspelt", "sftt.seed=3", "one of the stages sft, preferences, "),
    ("stage-in-capitals", "PPO.seed=3", "one of the stages"),
    ("two-dots", "ppo.less.gamma=0.9", "not of the form"),
    ("more-itself", "more={gamma: 0.9}", "A setting in `more` is given by its own name"),
    ("in-more", "more.gamma=0.9", "'more.gamma=0.9' is not of the form"),
    ("more-of-a-stage", "ppo.more={gamma: 0.9}", "given by its own name"),
    ("name-is-a-number", "3=3", "not of the form"),
    ("name-with-a-dash", "kl-coef=0.1", "'kl-coef=0.1' is not of the form"),
    ("escape-in-the-name", "\x1b[31mseed=3", "not of the form"),
    # names
    ("one-letter-too-many", "kl_coeff=0.1", "'kl_coeff': did you mean kl_coef?"),
    ("one-letter-less", "kl_coe=0.1", "did you mean kl_coef?"),
    ("singular", "num_train_epoch=1", "did you mean num_train_epochs"),
    ("typo-in-more", "ppo.gama=0.9", "'ppo.gama': did you mean gamma"),
    ("in-capitals", "SEED=3", "No notebook has a parameter 'SEED'"),
    ("far-from-all", "zzz=3", "No notebook has a parameter 'zzz'; there are "),
    ("of-another-stage", "evaluation.gamma=0.9", "gamma belongs to ppo, not to evaluation"),
    ("the-run", "run=other", "use --run"),
    ("the-run-of-a-stage", "ppo.run=other", "use --run"),
    # types
    ("word-for-a-number", "kl_coef=abc", "kl_coef='abc' should be of type float"),
    ("word-for-an-int", "seed=many", "seed='many' should be of type int"),
    ("fraction-for-an-int", "seed=1.5", "seed='1.5' should be of type int"),
    ("empty-for-a-number", "seed=", "seed='' should be of type int"),
    ("date", "seed=2024-01-01", "seed='2024-01-01' should be of type int"),
    ("date-for-a-float", "kl_coef=2024-01-01", "kl_coef='2024-01-01' should be of type float"),
    ("clock", "num_prompts=12:30", "num_prompts='12:30' should be of type int"),
    ("octal", "seed=0o7", "seed='0o7' should be of type int"),
    ("hexadecimal", "seed=0x10", "seed='0x10' should be of type int"),
    ("yaml-nan", "kl_coef=.nan", "kl_coef='.nan' should be of type float"),
    ("nan", "kl_coef=nan", "a finite number"),
    ("infinite", "learning_rate=inf", "a finite number"),
    ("beyond-a-float", "kl_coef=1e400", "kl_coef='1e400' should be of type float"),
    ("beyond-memory", "seed=1e999999999", "seed='1e999999999' should be of type int"),
    ("null", "kl_coef=null", "kl_coef='null' should be of type float"),
    ("tilde", "seed=~", "seed='~' should be of type int"),
    ("list", "seed=[1, 2]", "seed='[1, 2]' should be of type int"),
    ("table", "kl_coef={a: 1}", "kl_coef='{a: 1}' should be of type float"),
    ("yes", "resume=yes", "resume='yes' should be of type bool"),
    ("on", "resume=on", "resume='on' should be of type bool"),
    ("one-for-true", "resume=1", "resume='1' should be of type bool"),
    ("true-for-a-number", "seed=true", "seed='true' should be of type int"),
    ("comma", "kl_coef=0,1", "kl_coef='0,1' should be of type float"),
    ("power", "learning_rate=10^-4", "learning_rate='10^-4' should be of type float"),
    ("unicode-minus", "kl_coef=−0.1", "kl_coef='−0.1' should be of type float"),
    ("unit", "response_length=48 tokens", "response_length='48 tokens' should be of type int"),
    ("thousands", "num_prompts=2k", "num_prompts='2k' should be of type int"),
    ("two-signs", "seed==3", "seed='=3' should be of type int"),
    ("percent", "heldout_fraction=10%", "heldout_fraction='10%' should be of type float"),
    ("type-in-more", "gamma=much", "gamma='much' should be of type float"),
    ("bool-in-more", "whiten_rewards=maybe", "whiten_rewards='maybe' should be of type bool"),
    # ranges
    ("seed-below", "seed=-1", "seed=-1 must be from 0 to 4294967295"),
    ("seed-beyond", "seed=4294967296", "seed=4294967296 must be from 0 to 4294967295"),
    ("one-answer", "answers_per_prompt=1", "answers_per_prompt=1 must be from 2 to 6"),
    ("seven-answers", "answers_per_prompt=7", "answers_per_prompt=7 must be from 2 to 6"),
    ("overlap", "overlap=1.5", "overlap=1.5 must be a share from 0 to 1"),
    ("repeat", "repeat=2", "repeat=2.0 must be a share from 0 to 1"),
    ("all-held-out", "sft.heldout_fraction=1", "heldout_fraction=1.0 must be a share above 0"),
    ("none-held-out", "heldout_fraction=0", "heldout_fraction=0.0 must be a share above 0"),
    ("no-validation", "validation_fraction=0", "validation_fraction=0.0 must be a share"),
    ("dropout-of-all", "dropout=1.0", "dropout=1.0 must be at least 0 and below 1"),
    ("dropout-below", "dropout=-0.1", "dropout=-0.1 must be at least 0"),
    ("no-head", "ensemble=0", "ensemble=0 must be above 0"),
    ("no-temperature", "temperature=0", "temperature=0.0 must be above 0"),
    ("temperature-below", "temperature=-1", "temperature=-1.0 must be above 0"),
    ("no-epoch", "num_train_epochs=0", "num_train_epochs=0 must be above 0"),
    ("no-rate", "learning_rate=0", "learning_rate=0.0 must be above 0"),
    ("no-answer", "response_length=0", "response_length=0 must be above 0"),
    ("prompts-below", "num_prompts=-5", "num_prompts=-5 must be from 0 to 2147483647"),
    ("rankings-below", "num_rankings=-1", "num_rankings=-1 must be from 0"),
    ("rank-below", "lora_r=-1", "lora_r=-1 must be from 0"),
    ("layers-below", "num_trainable_layers=-2", "must be from 0"),
    ("penalty-below", "kl_coef=-0.1", "kl_coef=-0.1 must be from 0"),
    ("too-many", "num_prompts=10000000000", "num_prompts=10000000000 must be from 0 to 2147483647"),
    ("step-below", "temperature_step=-0.1", "temperature_step=-0.1 must be from 0"),
    ("discount", "gamma=1.5", "gamma=1.5 must be from 0 to 1"),
    ("lambda", "lam=1.01", "lam=1.01 must be from 0 to 1"),
    ("never-saved", "save_every=0", "save_every=0 must be above 0"),
    # choices
    ("dtype", "dtype=float16", "dtype='float16' must be 'auto' or 'float32' or 'bfloat16'"),
    ("combine", "combine=median", "combine='median' must be 'mean' or 'min' or 'uncertainty'"),
    ("estimator", "kl_estimator=k2", "kl_estimator='k2' must be 'k1' or 'k3'"),
    ("estimator-no", "kl_estimator=no", "kl_estimator='no' must be"),
    # sizes that do not divide
    ("episodes", "total_episodes=1000", "total_episodes=1000 is not a multiple of batch_size=128"),
    ("batch", "ppo.batch_size=100", "is not a multiple of batch_size=100"),
    ("minibatches", "num_mini_batches=3", "batch_size=128 is not a multiple of num_mini_batches=3"),
    ("passes", "ppo.per_device_train_batch_size=48", "per_device_train_batch_size=48"),
    # texts
    ("no-model", "model=", "model='' must not be empty"),
    ("blank-model", "model=  ", "model='' must not be empty"),
    ("no-reward", "reward=", "reward='' must not be empty"),
    ("no-prompts", "preferences.prompts=", "prompts='' must not be empty"),
    ("nul", "model=a\0b", "hold only characters that print"),
    ("escape", "model=\x1b]0;x\x07", "hold only characters that print"),
    ("line-break", "demonstrations=a\nb", "hold only characters that print"),
    ("right-to-left", "annotator_name=\u202eabc", "hold only characters that print"),
    ("half-a-surrogate", "annotator_name=\ud800", "hold only characters that print"),
    ("too-long", f"model={LONG}", "must have at most 4000 characters"),
    # sources
    ("no-demonstrations", "demonstrations=nothing.jsonl", "demonstrations='nothing.jsonl'"),
    ("no-file", "preferences.prompts=sub/nothing.csv", "There is no file "),
    ("no-heldout", "heldout_prompts=nothing.json", "There is no file "),
    ("no-pairs", "reward_model.preferences=nothing.parquet", "There is no file "),
    ("no-ppo-prompts", "ppo.prompts=nothing.jsonl.gz", "There is no file "),
    ("no-labels", "annotator=nothing.jsonl", "there is no file "),
    ("annotator-misspelt", "annotator=simulatd", "did you mean 'simulated'?"),
    ("nobody-can-rank-here", "annotator=person", "annotator='person' ranks in JupyterLab"),
    ("annotator-plural", "annotator=persons", "did you mean 'person'?"),
    ("annotator-in-capitals", "annotator=Simulated", "did you mean 'simulated'?"),
    ("reward-misspelt", "reward=reward_modell", "did you mean reward_model?"),
    ("annotator-of-nobody", "annotator=~nobody_here/x", "no annotator, file of labels"),
    ("annotator-too-long", "annotator=" + "x" * 300, "no annotator, file of labels"),
    ("labels-too-long", "annotator=" + "x" * 300 + ".csv", "there is no file"),
    ("labels-of-nobody", "annotator=~nobody_here/x.jsonl", "there is no file "),
    ("reward-too-long", "reward=" + "x" * 300, "There is no model folder"),
    ("reward-without-a-function", "reward=nothing.py:", "cannot be imported"),
    ("rows-of-nobody", "demonstrations=~nobody_here/x.csv", "There is no file "),
    ("spreadsheet", "demonstrations=rows.xlsx", "There is no file "),
    ("model-is-a-path", "model=./models/mine", "There is no model folder './models/mine'"),
    ("model-is-a-file", "model=weights/model.gguf", "is a single file: give the folder"),
    ("split-into-nothing", "num_demonstrations=3", "3 prompts cannot be split"),
]

# --- profiles: the text of a file that --profile names --------------------------------------------

BAD_PROFILES = [
    ("unknown-name", "seed: 1\nkl_coeff: 0.1\n", "mine.yaml, line 2: No notebook has a parameter"),
    ("near-name", "lerning_rate: 0.1\n", "did you mean learning_rate"),
    ("wrong-type", "# mine\n\nseed: many\n", "mine.yaml, line 3: Parameter seed='many'"),
    ("date", "seed: 2024-01-01\n", "line 1: Parameter seed='2024-01-01'"),
    ("out-of-range", "overlap: 1.5\n", "line 1: Parameter overlap=1.5 must be a share"),
    ("choice", "dtype: int8\n", "line 1: Parameter dtype='int8' must be"),
    ("list-for-a-value", "seed: [1, 2]\n", "line 1: seed must have one value"),
    ("table-for-a-value", "ppo:\n  seed: 1\n", "line 1: ppo must have one value"),
    ("no-value", "seed:\n", "line 1: seed has no value"),
    ("null", "seed: 1\nmodel: null\n", "line 2: model has no value"),
    ("tilde", "model: ~\n", "line 1: model has no value"),
    ("toml", "[ppo]\nseed = 3\n", "mine.yaml, line 2 is not YAML"),
    ("merge-key", "<<: {seed: 1}\n", "'<<' is not of the form"),
    ("undefined-anchor", "seed: *mine\n", "line 1 is not YAML: found undefined alias"),
    ("nested-too-deeply", "[" * 5000, "is not YAML"),
    ("utf16", "seed: 3\n".encode("utf-16"), "it is not UTF-8 text"),
    ("list", "- seed\n- model\n", "must hold lines of the form `name: value`"),
    ("one-word", "seed\n", "must hold lines of the form `name: value`"),
    ("no-yaml", "seed: 1\nmodel: {tiny\n", "is not YAML"),
    ("tab", "seed: 1\n\tmodel: tiny\n", "mine.yaml, line 2 is not YAML"),
    ("twice", "seed: 1\nseed: 2\n", "line 2: 'seed' stands there twice"),
    ("run", "run: other\n", "use --run"),
    ("more", "more: x\n", "'more' is not of the form"),
    ("key-is-a-list", "[a, b]: 1\n", "line 1"),
    ("stage-misspelt", "pppo.seed: 1\n", "'pppo.seed' is not of the form"),
    ("nothing-divides", "total_episodes: 100\n", "total_episodes=100 is not a multiple"),
    ("python-object", "seed: !!python/object/apply:os.getcwd []\n", "one value"),
    ("control-character", "model: \x01\n", "is not YAML"),
    ("not-utf8", b"model: \xff\xfe\n", "it is not UTF-8 text"),
    ("nested-too-deeply", "seed: " + "[" * 5000, "is not YAML"),
    ("no-mapping-but-two", "--- \na: 1\n---\nb: 2\n", "is not YAML"),
]

# --- calls: all arguments -------------------------------------------------------------------------

BAD_CALLS = [
    ("no-command", [], "required: COMMAND"),
    ("unknown-command", ["walk"], "There is no 'walk'; there are run, resume, runs"),
    ("command-misspelt", ["resum", "done"], "did you mean resume?"),
    ("unknown-option", ["run", "--form", "ppo"], "did you mean --from?"),
    ("option-for-a-parameter", ["run", "--kl-coef=0.1"], "did you mean -p kl_coef=VALUE?"),
    ("parameter-without-p", ["run", "new", "seed=1"], "did you mean -p seed=VALUE?"),
    ("given-twice", ["run", "-p", "seed=1", "-p", "seed=2"], "gives seed twice, 1 and 2"),
    ("option-cut-short", ["run", "--prof", "smoke"], "did you mean --profile?"),
    ("stage-misspelt", ["run", "--only", "sfft"], "did you mean sft?"),
    ("unknown-stage", ["run", "--from", "x"], "there are sft, preferences, "),
    ("notebook-as-stage", ["run", "--only", "04_ppo"], "did you mean ppo?"),
    ("from-and-only", ["run", "--from", "ppo", "--only", "sft"], "not allowed with"),
    ("no-value", ["run", "-p"], "expected one argument"),
    ("two-names", ["run", "a", "--run", "b"], "Two names for one run, 'a' and 'b'"),
    ("too-many-names", ["run", "a", "b"], "unrecognized arguments: b"),
    ("unknown-profile", ["run", "--profile", "huge"], "there are demo, gpu, quick, smoke"),
    ("profile-misspelt", ["run", "--profile", "smok"], "did you mean smoke?"),
    ("profile-elsewhere", ["run", "--profile", "../smoke"], "There is no profile '../smoke'"),
    ("profile-without-a-name", ["run", "--profile="], "There is no profile ''"),
    ("no-profile-file", ["run", "--profile", "nothing.yaml"], "There is no profile file "),
    ("profile-is-a-folder", ["run", "--profile", "folder.yaml"], "cannot be read"),
    ("profile-of-nobody", ["run", "--profile", "~nobody_here/x.yaml"], "There is no profile file "),
    ("profile-too-long", ["run", "new", "--profile", "x" * 300 + ".yaml"], "cannot be read"),
    ("run-outside", ["run", "../x"], "run='../x' is no run name"),
    ("run-below", ["run", "a/b"], "run='a/b' is no run name"),
    ("run-with-a-space", ["run", "a b"], "run='a b' is no run name"),
    ("run-hidden", ["run", ".x"], "run='.x' is no run name"),
    ("run-without-a-name", ["run", ""], "run='' is no run name"),
    ("run-too-long", ["run", "x" * 65], "is no run name"),
    ("run-with-an-escape", ["run", "\x1b[2J"], "is no run name"),
    ("run-is-a-file", ["run", "afile"], "afile is no folder"),
    ("finished", ["run", "done"], "holds a finished run of 2020-01-02 09:53"),
    ("finished-by-another-way", ["run", "--run", "done", "-p", "seed=3"], "--overwrite"),
    ("unfinished", ["run", "half"], "`rlhf resume half` goes on with it"),
    ("checkpoints", ["run", "half", "--from", "ppo"], "`rlhf resume half` goes on with it"),
    ("checkpoints-again", ["run", "half", "--only", "ppo"], "would be deleted"),
    ("nothing-to-go-on-from", ["run", "new", "--from", "ppo"], "04_ppo needs sft/policy"),
    ("a-stage-is-missing", ["run", "half", "--only", "evaluation"], "ppo/policy, which is missing"),
    ("of-another-stage", ["run", "new", "--only", "sft", "-p", "kl_coef=1"], "belongs to ppo"),
    ("stage-is-a-file", ["run", "odd"], "odd/sft is no folder"),
    ("damaged-state", ["run", "broken", "--from", "ppo"], "parameters.json is damaged"),
    ("state-is-a-list", ["resume", "listed"], "parameters.json is damaged"),
    ("resume-what", ["resume"], "required: RUN"),
    ("resume-nothing", ["resume", "nothing"], "There is no run 'nothing'"),
    ("resume-misspelt", ["resume", "hal"], "did you mean half?"),
    ("resume-by-hand", ["resume", "byhand"], "has no parameters.json"),
    ("resume-without-its-profile", ["resume", "lost"], "There is no profile file "),
    ("resume-outside", ["resume", "../x"], "is no run name"),
    ("resume-with-parameters", ["resume", "half", "-p", "seed=1"], "unrecognized arguments: -p"),
    ("compare-one", ["compare", "done"], "done alone can't be compared"),
    ("compare-nothing", ["compare", "done", "nothing"], "There is no run 'nothing'"),
    ("open-nothing", ["open", "nothing"], "There is no run 'nothing'"),
    ("open-unfinished", ["open", "half"], "has no report yet"),
    ("keep-nothing", ["keep", "nothing"], "There is no run 'nothing'"),
    ("keep-unfinished", ["keep", "half"], "is not finished (ppo, evaluation)"),
    ("keep-without-notebooks", ["keep", "done"], "01_sft.ipynb is missing or damaged"),
    ("keep-outside", ["keep", "../x"], "is no run name"),
]

# --- rows: (parameter, name of the file, its content) ---------------------------------------------

ROW = '{"prompt": "How do plants drink?", "completion": "By their roots."}\n'
SFT, PAIRS, JSONL = "demonstrations", "reward_model.preferences", "mine.jsonl"
PAIR = {"prompt": "a", "chosen": "b", "rejected": "c"}
RULE, ASKS = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}
SAYS = {"role": "assistant", "content": "Hello."}
BAD_ROWS = [
    ("empty-file", "demonstrations", "mine.jsonl", "", "mine.jsonl"),
    ("no-json", "demonstrations", "mine.jsonl", ROW + "{oops\n", "line 2"),
    ("not-utf8", "demonstrations", "mine.jsonl", b'{"prompt": "\xff"}', "UTF-8"),
    ("no-parquet", "demonstrations", "mine.parquet", "PAR1", "mine.parquet"),
    ("no-gzip", "demonstrations", "mine.jsonl.gz", "plain", "gzip"),
    ("list-cut", "demonstrations", "mine.json", '[{"prompt": "a"', "mine.json"),
    ("no-column", "demonstrations", "mine.jsonl", '{"question": "a"}\n', "prompt"),
    ("no-answer", "demonstrations", "mine.jsonl", '{"prompt": "a"}\n', "completion"),
    ("prompts", "preferences.prompts", "mine.csv", "text\nhello\n", "prompt"),
    ("heldout", "heldout_prompts", "mine.json", '{"prompt": ""}\n', "mine.json"),
    ("pairs", "reward_model.preferences", "mine.jsonl", ROW, "chosen"),
    ("labels", "annotator", "mine.jsonl", '{"prompt": "a", "ranks": [1]}\n', "line 1"),
    ("labels-of-nothing", "annotator", "mine.jsonl", "", "mine.jsonl"),
    # forms of other tools
    ("no-answer-yet", SFT, JSONL, {"messages": [ASKS]}, "does not end with an answer"),
    (
        "calls-tools",
        SFT,
        JSONL,
        {"messages": [ASKS, SAYS | {"tool_calls": [{}]}]},
        "tools are called",
    ),
    (
        "role-of-a-tool",
        SFT,
        JSONL,
        {"messages": [{"role": "tool", "content": "7"}]},
        "the role is 'tool'",
    ),
    ("picture", SFT, JSONL, {"prompt": [{"type": "image_url"}], "completion": "a"}, "'image_url'"),
    ("toxicity", SFT, JSONL, {"prompt": {"text": "a"}, "completion": "b"}, "object with 'text'"),
    ("a-number", SFT, JSONL, {"prompt": 8, "completion": "a"}, "it is a number (8), not a text"),
    ("numbers", SFT, JSONL, {"prompt": "a", "completion": [1, 2]}, "a list of numbers"),
    ("disliked", SFT, JSONL, {"prompt": "a", "completion": "b", "label": False}, "was disliked"),
    (
        "two-answers",
        SFT,
        JSONL,
        {"prompt": "a", "response": "b", "answer": "c"},
        "name one of them",
    ),
    ("two-systems", SFT, JSONL, {"messages": [RULE, ASKS, SAYS], "system": "x"}, "another in"),
    # letters and sizes
    ("half-a-letter", SFT, JSONL, {"prompt": "\ud83d", "completion": "a"}, "half a character"),
    ("nul-letter", SFT, JSONL, {"prompt": "a\0", "completion": "b"}, "the character NUL"),
    ("a-megabyte", SFT, JSONL, {"prompt": "x" * 10**6, "completion": "a"}, "1,000,000 characters"),
    ("our-mark", SFT, JSONL, {"prompt": "a\u2063b", "completion": "c"}, "invisible character"),
    (
        "key-twice",
        SFT,
        JSONL,
        '{"prompt": "a", "prompt": "b", "completion": "c"}',
        "'prompt' twice",
    ),
    ("escape", SFT, JSONL, {"prompt": "a", "completion": "b", "category": {"\x1b[2J": 1}}, "\\x1b"),
    # files
    ("xlsx", SFT, "mine.xlsx", b"PK\x03\x04", "cannot be read as data"),
    ("txt", SFT, "mine.txt", "Hi?", "cannot be read as data"),
    ("two-lists", SFT, "mine.json", {"a": [{"x": 1}], "b": [{"x": 1}]}, "several lists, 'a', 'b'"),
    ("deep", SFT, "mine.json", "[" * 100_000, "nested too deeply"),
    (
        "open-quote",
        SFT,
        "mine.csv",
        'prompt,completion\n"a,b\n',
        "line 2 cannot be read as a table",
    ),
    ("cells", SFT, "mine.csv", "prompt,completion\na,b,c\n", "3 cells, the header has 2"),
    ("columns", SFT, "mine.csv", "prompt,prompt\na,b\n", "'prompt' twice"),
    # pairs
    ("equal", PAIRS, JSONL, PAIR | {"rejected": "b"}, "are equal"),
    ("one-side-empty", PAIRS, JSONL, PAIR | {"rejected": " "}, "'rejected' is empty"),
    ("side-is-a-number", PAIRS, JSONL, PAIR | {"rejected": 6}, "'rejected': it is a number (6)"),
    ("margin-nan", PAIRS, JSONL, PAIR | {"margin": float("nan")}, "must be a finite number"),
    ("margin-word", PAIRS, JSONL, PAIR | {"margin": "much better"}, "must be a finite number"),
    ("confidence", PAIRS, JSONL, PAIR | {"confidence": 85}, "must be a number from 0 to 1"),
    ("tie-word", PAIRS, JSONL, PAIR | {"tie": "maybe"}, "must be true or false"),
    ("other-question", PAIRS, JSONL, PAIR | {"chosen": [ASKS, SAYS]}, "begin with the prompt"),
    ("one-prompt", PAIRS, JSONL, PAIR, "1 prompts cannot be split with heldout_fraction=0.2"),
]

# --- labels: the text of a file; the words are in the reason of its bad row, or in the error ------

RANKING = {"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2]}
FIELDS = {"prompt": "a", "b1": "Yes.", "b2": "No."}
VOTE = {"conversation_a": [ASKS, SAYS], "conversation_b": [ASKS, SAYS], "winner": "tie"}


def task(ranker: dict) -> dict:
    """As Label Studio exports a ranking."""
    entries = [{"id": "x", "body": "Yes."}, {"id": "y", "body": "No."}]
    result = {"type": "ranker", "value": {"ranker": ranker}}
    return {"data": {"prompt": "a", "items": entries}, "annotations": [{"result": [result]}]}


BAD_LABELS = [
    ("no-object", "3\n", "no object"),
    ("no-answers", '{"prompt": "a", "ranks": [1, 2]}\n', "responses"),
    ("one-answer", '{"prompt": "a", "responses": ["b"], "ranks": [1]}\n', "at least 2"),
    ("no-json", "{oops\n", "not JSON"),
    ("blank-prompt", RANKING | {"prompt": " "}, "a text that is not empty"),
    ("prompt-is-a-number", RANKING | {"prompt": 7}, "prompt=7 must be a text"),
    ("answers-are-a-text", RANKING | {"responses": "ab"}, "must be a list of texts"),
    ("answer-is-a-number", RANKING | {"responses": ["b", 5]}, "=5 must be a text"),
    ("ranks-are-words", RANKING | {"ranks": ["first", "second"]}, "must be whole numbers"),
    ("ranks-are-shares", RANKING | {"ranks": [1.2, 1.7]}, "must be whole numbers"),
    ("rank-zero", RANKING | {"ranks": [0, 1]}, "2 whole numbers from 1"),
    ("rank-huge", RANKING | {"ranks": [1, 10**9]}, "to 1000"),
    ("a-rank-too-many", RANKING | {"ranks": [1, 2, 3]}, "must be 2 whole numbers"),
    (
        "confidence-is-a-word",
        RANKING | {"confidence": "high"},
        "is 'high', but must be a number",
    ),
    ("confidence-in-percent", RANKING | {"confidence": 85}, "must be a number from 0 to 1"),
    ("milliseconds", RANKING | {"submitted_at": 1714557600000}, "seconds since 1970"),
    ("yesterday", RANKING | {"shown_at": "yesterday"}, "seconds since 1970"),
    ("flags-are-a-text", RANKING | {"flags": "spam"}, "must be a list of texts"),
    ("unknown-kind", RANKING | {"kind": "faq"}, "must be one of ranking, repeat, skip"),
    ("half-a-letter", RANKING | {"note": "\ud83d"}, "half a character"),
    ("equal-pair", {"prompt": "a", "chosen": "b", "rejected": "b"}, "are equal"),
    ("half-a-pair", {"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
    (
        "argilla-rating",
        {"fields": FIELDS, "responses": {"stars": [{"value": 4}]}},
        "'stars', ranks",
    ),
    (
        "argilla-leaves-out",
        {"fields": FIELDS, "responses": {"r": [{"value": ["b1"]}]}},
        "leaves out",
    ),
    ("studio-buckets", task({"good": ["x"], "bad": ["y"]}), "have no order"),
    ("studio-unmoved", task({"_": ["x"], "1": ["y"]}), "were left in the list"),
    ("studio-stranger", task({"rank": ["x", "y", "z"]}), "names 'z', which is no answer"),
    (
        "studio-choices",
        task({}) | {"annotations": [{"result": [{"type": "choices"}]}]},
        "'choices'",
    ),
    ("arena-winner", VOTE | {"winner": "model_c"}, "winner='model_c' must be one of"),
    ("arena-apart", VOTE | {"conversation_b": [SAYS]}, "do not begin with the same prompt"),
]


# --- rewards: the name ----------------------------------------------------------------------------

BAD_REWARDS = [
    ("blank", " ", "is no reward"),
    ("sum", "my:one + my:two", "is a sum"),
    ("weighted", "2*my:one", "is a sum"),
    ("no-module", "no_such_module:polite", "'no_such_module:polite' cannot be imported"),
    ("no-function", "statistics:polite", "cannot be imported"),
    ("no-name", "statistics:", "cannot be imported"),
    ("number", "math:pi", "is no function but float"),
    ("module", "os:path", "is no function but module"),
    ("class", "collections:OrderedDict", "is a class: name an object"),
    ("async", "asyncio:sleep", "is an async function"),
    ("not-in-python", "math:sqrt", "takes (x), but is called with prompts"),
    ("no-columns", "textwrap:indent", "write def reward(prompts, completions, **columns)"),
    ("file", __file__, "is a file: name a function in it"),
    ("no-such-file", "nothing.py:polite", "No module named 'nothing'"),
    ("dots", "..:polite", "cannot be imported"),
    ("address", "https://example.com/reward", "cannot be imported"),
    ("nobody", "~nobody_here/reward", "There is no model folder"),
    ("too-long", LONG, "There is no model folder"),
    ("nul", "a\0b", "There is no model folder"),
    ("no-classifier", "tiny", "'tiny' is no sequence classifier but LlamaForCausalLM"),
    ("label-of-no-classifier", "tiny#good", "'tiny' is no sequence classifier"),
    ("on-no-hub", "nobody/no-such-model", "Could not load 'nobody/no-such-model'"),
    ("label-on-no-hub", "nobody/no-such-model#good", "Could not load 'nobody/no-such-model'"),
]

# --- models: (name or content of config.json in a folder) -----------------------------------------

LLAMA = '{"model_type": "llama", "num_hidden_layers": 2}'
BAD_MODELS = [
    ("nowhere", "nobody/no-such-model", "Could not load 'nobody/no-such-model'"),
    ("one-word", "no-such-model", "Could not load 'no-such-model'"),
    ("empty-folder", {}, "has no config.json"),
    ("no-json", {"config.json": "{"}, "config.json is damaged"),
    ("unknown-kind", {"config.json": '{"model_type": "abacus"}'}, "does not know"),
    ("config-is-a-list", {"config.json": "[]"}, "config.json"),
    ("config-is-empty", {"config.json": ""}, "config.json is damaged"),
    ("no-kind", {"config.json": "{}"}, "Could not load"),
    ("tokenizer-cut", {"config.json": LLAMA, "tokenizer.json": '{"a'}, "tokenizer.json is damaged"),
    ("weights-cut", {"config.json": LLAMA, "model.safetensors": "abc"}, "header too small"),
    ("pickle", {"config.json": LLAMA, "pytorch_model.bin": "x"}, "a pickle, which can run code"),
    ("no-tokenizer", {"config.json": LLAMA}, "Could not load"),
    (
        "own-code",
        {"config.json": '{"model_type": "x", "auto_map": {"AutoConfig": "x.C"}}'},
        "its own",
    ),
    ("encoder", {"config.json": '{"model_type": "bert"}'}, "is an encoder (bert)"),
    ("two-parts", {"config.json": '{"model_type": "t5"}'}, "is an encoder-decoder (t5)"),
    ("recurrent", {"config.json": '{"model_type": "mamba"}'}, "is recurrent (mamba)"),
    ("soft-caps", {"config.json": '{"model_type": "gemma2"}'}, "final_logit_softcapping=30.0"),
    (
        "pictures-alone",
        {"config.json": '{"model_type": "vit"}'},
        "is no causal language model (vit)",
    ),
    (
        "model-and-adapter",
        {"config.json": "{}", "model.safetensors": "x", "adapter_config.json": "{}"},
        "holds a whole model and an adapter",
    ),
    ("adapter-of-nothing", {"adapter_config.json": "{}"}, "Could not load"),
    ("adapter-cut", {"adapter_config.json": "{"}, "adapter_config.json is damaged"),
    ("blank", " ", "There is no model folder ' '"),
    ("nul", "a\0b", "There is no model folder"),
    ("too-long", LONG, "There is no model folder"),
    ("nobodys", "~nobody_here/model", "There is no model folder"),
    ("above", "../no/such/model", "There is no model folder"),
    ("address", "https://huggingface.co/gpt2", "There is no model folder"),
    ("gguf", "weights/model.gguf", "is a single file: give the folder"),
]

# --- a notebook's parameters, as papermill injects them: (stage, values) --------------------------

BAD_PARAMETERS = [
    ("word", "sft", {"num_train_epochs": "many"}, "num_train_epochs='many' should be of type int"),
    (
        "half-an-epoch",
        "sft",
        {"num_train_epochs": 1.5},
        "num_train_epochs=1.5 should be of type int",
    ),
    ("none", "sft", {"model": None}, "model=None should be of type str"),
    ("number-as-text", "sft", {"demonstrations": 7}, "demonstrations=7 should be of type str"),
    ("truth-as-number", "sft", {"seed": True}, "seed=True should be of type int"),
    ("number-as-truth", "sft", {"strict": 1}, "strict=1 should be of type bool"),
    ("nan", "ppo", {"kl_coef": float("nan")}, "kl_coef=nan should be of type float (a finite"),
    ("infinite", "ppo", {"learning_rate": float("inf")}, "a finite number"),
    ("list", "ppo", {"lora_r": [16]}, "lora_r=[16] should be of type int"),
    ("below", "ppo", {"kl_coef": -0.1}, "kl_coef=-0.1 must be from 0"),
    ("seed-beyond", "preferences", {"seed": 2**32}, "must be from 0 to 4294967295"),
    ("seven", "preferences", {"answers_per_prompt": 7}, "answers_per_prompt=7 must be from 2 to 6"),
    ("overlap", "preferences", {"overlap": 1.5}, "overlap=1.5 must be a share"),
    ("all-dropped", "reward_model", {"dropout": 1.0}, "dropout=1.0 must be at least 0"),
    ("combine", "reward_model", {"combine": "median"}, "combine='median' must be 'mean'"),
    ("no-temperature", "evaluation", {"temperature": 0}, "temperature=0.0 must be above 0"),
    ("dtype", "evaluation", {"dtype": "fp16"}, "dtype='fp16' must be 'auto' or 'float32' or"),
    ("empty", "evaluation", {"heldout_prompts": ""}, "heldout_prompts='' must not be empty"),
    ("escape", "evaluation", {"heldout_prompts": "\x1b[2J"}, "characters that print"),
    ("more-is-a-text", "ppo", {"more": "lam=0.95"}, "more='lam=0.95' should be of type dict"),
    ("more-unknown", "ppo", {"more": {"lamm": 0.9}}, "no setting 'lamm': did you mean lam"),
    ("more-type", "ppo", {"more": {"lam": "much"}}, "lam='much' should be of type float"),
    ("more-range", "ppo", {"more": {"gamma": 1.5}}, "gamma=1.5 must be from 0 to 1"),
    ("more-own", "ppo", {"more": {"seed": 1}}, "seed is a parameter of its own"),
    ("more-divides", "ppo", {"more": {"num_mini_batches": 3}}, "not a multiple of num_mini"),
    ("more-repeat", "preferences", {"more": {"repeat": 2.0}}, "repeat=2.0 must be a share"),
    ("more-in-01", "sft", {"more": {"max_length": 0}}, "max_length=0 must be above 0"),
    ("annotator", "preferences", {"annotator": "persom"}, "did you mean 'person'"),
]

# --- files of our own, cut or changed: (file below a run, content) --------------------------------

CHECKPOINT = "ppo/checkpoints/update-000004/state.json"
BAD_FILES = [
    ("manifest-cut", "sft/manifest.json", '{"inputs": {}, "out', "run notebook 01_sft"),
    ("manifest-empty", "sft/manifest.json", "", "sft/manifest.json of run 'mine' is damaged"),
    ("manifest-list", "sft/manifest.json", "[]", "is damaged"),
    (
        "manifest-no-results",
        "sft/manifest.json",
        '{"outputs": {}}',
        "'results' is missing or wrong",
    ),
    ("manifest-resealed", "sft/manifest.json", '{"results": {}, "sha256": "0"}', "'sha256' is"),
    ("manifest-deep", "sft/manifest.json", "[" * 50_000, "is damaged"),
    ("parameters-cut", "parameters.json", '{"profile": "demo"', "parameters.json is damaged"),
    ("parameters-text", "parameters.json", '{"profile": "demo", "parameters": "x"}', "is damaged"),
    (
        "parameters-asked",
        "parameters.json",
        '{"profile": "demo", "parameters": {}, "asked": 1}',
        "is",
    ),
    (
        "labels-text",
        "preferences/labels.sqlite",
        "no data base" * 99,
        "is damaged, or no label store",
    ),
    ("labels-cut", "preferences/labels.sqlite", b"SQLite format 3\0" + b"\0" * 84, "is damaged"),
    ("items-cut", "preferences/items.jsonl", '{"prompt": "a"}\n{"pro', "line 2: not JSON"),
    ("items-old", "preferences/items.jsonl", '{"prompt": "a"}', "has no column 'category'"),
    ("items-text", "preferences/items.jsonl", '"a"', "row 1 is no object"),
    ("judge-cut", "reward_model/reward_config.json", '{"states": 3', "is missing or damaged"),
    ("judge-old", "reward_model/reward_config.json", '{"layers": 2}', "made by an earlier version"),
    ("judge-headless", "reward_model/reward_config.json", '{"states": 3}', "head.safetensors is"),
    ("policy-empty", "ppo/policy/readme.txt", "", "holds neither an adapter nor top.safetensors"),
    ("checkpoint-cut", CHECKPOINT, '{"update": 4', "state.json: run with resume=False"),
    ("checkpoint-list", CHECKPOINT, "[4]", "state.json: run with resume=False"),
    ("checkpoint-no-weights", CHECKPOINT, "{}", "state.json: run with resume=False"),
    ("no-checkpoint", "ppo/checkpoints/update-4/state.json", "{}", "There is no checkpoint"),
]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A shell's folder beside outputs/ with runs of all kinds. No notebook may start."""
    outputs, shell = tmp_path / "outputs", tmp_path / "shell"
    shell.mkdir()
    (shell / "folder.yaml").mkdir()
    for name in ("done", "half", "byhand", "lost"):
        stages = () if name == "done" else ("sft", "preferences", "reward_model")
        finish(outputs / name, *stages)
        if name != "byhand":
            begin(outputs / name, profile="nothing.yaml" if name == "lost" else "demo")
    checkpoint(outputs / "half")
    finish(outputs / "broken", "sft")
    (outputs / "broken/parameters.json").write_text("{")
    write_json(outputs / "listed/parameters.json", [1])
    (outputs / "afile").write_text("")
    (outputs / "odd").mkdir()
    (outputs / "odd/sft").write_text("")
    monkeypatch.setenv("RLHF_OUTPUTS", str(outputs))
    monkeypatch.setenv("RLHF_CWD", str(shell))
    monkeypatch.chdir(shell)

    def never(*rest):
        raise AssertionError("a notebook would start")

    monkeypatch.setattr(cli, "execute_stages", never)
    return shell


def everything(folder) -> str:
    """A digest of all names and contents below the folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path).encode() + (path.read_bytes() if path.is_file() else b"/"))
    return found.hexdigest()


def refused(capsys, world, words: str, *arguments) -> None:
    before = everything(world.parent)
    status, out, err = call(capsys, *arguments)
    assert status == 2 and words in err, err
    assert err.startswith("rlhf: ") and err.count("\n") == 1 and len(err) < 1500
    assert "Traceback" not in err and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", err)
    assert everything(world.parent) == before, "something was written"


def rows(table: list[tuple]) -> list:
    return [pytest.param(*row[1:], id=row[0]) for row in table]


@pytest.mark.parametrize(("text", "words"), rows(BAD_VALUES))
def test_bad_input_value(world, capsys, text, words):
    refused(capsys, world, words, "run", "new", "-p", text)


@pytest.mark.parametrize(("text", "words"), rows(BAD_PROFILES))
def test_bad_input_profile(world, capsys, text, words):
    path = world / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(capsys, world, words, "run", "new", "--profile", "mine.yaml")


@pytest.mark.parametrize(("arguments", "words"), rows(BAD_CALLS))
def test_bad_input_call(world, capsys, arguments, words):
    refused(capsys, world, words, *arguments)


@pytest.mark.parametrize(("parameter", "name", "content", "words"), rows(BAD_ROWS))
def test_bad_input_rows(world, capsys, parameter, name, content, words):
    content = json.dumps(content) if isinstance(content, dict) else content
    (world / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(capsys, world, words, "run", "new", "-p", f"{parameter}={name}")


@pytest.mark.parametrize(("text", "words"), rows(BAD_LABELS))
def test_bad_input_labels(tmp_path, text, words):
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(text) if isinstance(text, dict) else text)
    try:
        judgements, bad = read_labels(path)
    except ExplainedError as error:
        assert words in str(error)
    else:
        assert judgements == [] and words in bad[0][1]


@pytest.mark.parametrize(("name", "words"), rows(BAD_REWARDS))
def test_bad_input_reward(name, words):
    from rlhf_utils.reward.functions import load_reward

    with pytest.raises(ExplainedError) as error:
        load_reward(name, lambda: None)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("model", "words"), rows(BAD_MODELS))
def test_bad_input_model(tmp_path, model, words):
    from rlhf_utils.models.check import check_model

    if isinstance(model, dict):
        for name, text in model.items():
            (tmp_path / name).write_text(text)
        model = str(tmp_path)
    with pytest.raises(ExplainedError) as error:
        check_model(model)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("stage", "given", "words"), rows(BAD_PARAMETERS))
def test_bad_input_parameters_of_a_notebook(stage, given, words):
    """What the first cell of a notebook refuses, opened by hand or by papermill alone."""
    from rlhf_utils.models.sft import SFTSettings
    from rlhf_utils.ppo.config import PPOConfig
    from rlhf_utils.preferences.label_queue import CollectionSettings

    settings = {"sft": SFTSettings, "preferences": CollectionSettings, "ppo": PPOConfig}
    path = notebook_path(stage)
    namespace = {name: default for name, (_, default) in declared(path).items()} | given
    with pytest.raises(ExplainedError) as error:
        parameters = check_parameters(path, namespace)
        fill_settings(settings[stage], parameters)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("file", "content", "words"), rows(BAD_FILES))
@pytest.mark.filterwarnings("ignore:The checkpoint update")
def test_bad_input_files_of_our_own(tmp_path, file, content, words):
    """Whoever reads the file says which one it is and what to do, and leaves it as it is."""
    run = tmp_path / "mine"
    path = run / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    with pytest.raises(ExplainedError) as error:
        read_own(run, file)
    assert words in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == before


def read_own(run, file: str) -> None:
    """Reads a file of a run as the stage does that needs it."""
    from rlhf_utils.ppo.checkpoint import Checkpoints
    from rlhf_utils.ppo.policy import load_policy
    from rlhf_utils.preferences.pair_files import read_items
    from rlhf_utils.preferences.store import LabelStore
    from rlhf_utils.reward.model import load_reward_model
    from rlhf_utils.run.manifest import read_manifest
    from rlhf_utils.run.state import read_state

    readers = {
        "sft": lambda: read_manifest(run / "sft", "results"),
        "parameters.json": lambda: read_state(run),
        "preferences/labels": lambda: LabelStore(run / file),
        "preferences/items": lambda: read_items(run / file),
        "reward_model": lambda: load_reward_model(run / "reward_model"),
        "ppo/policy": lambda: load_policy(None, run / "ppo/policy"),
        "ppo/checkpoints": lambda: Checkpoints(run / "ppo/checkpoints", None, {}).load_last(),
    }
    next(read for start, read in readers.items() if file.startswith(start))()
