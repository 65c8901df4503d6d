"""The keys of conf/config.yaml."""

# The model's arguments in conf/config.yaml, besides the prompt.
ARGUMENTS = ("negative_prompt", "cfg_scale", "aspect_ratio", "duration")
KEYS = (
    *("prompt", *ARGUMENTS, "sample", "model", "arguments", "where_taken", "prompts", "experiment"),
    *("metrics", "measuring"),
    *("provider", "tracking", "store", "budget", "objective", "goal", "expect", "repeats", "optimize"),
    "judge",
    "dry_run",
    *("unknown", "retry", "on_interrupt", "fail_fast"),
)
