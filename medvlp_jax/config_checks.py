"""Mistakes in a config that are found before anything is opened."""
from medvlp_jax import optim, periods, schedules, sharding
from medvlp_jax.input import file_check, statements

SPLITS = ("train", "val", "test")
DTYPES = ("float32", "bfloat16")
UNITS = ("image", "study")
RNGS = {"threefry": "threefry2x32", "rbg": "rbg"}  # config.rng -> JAX's name


def check_values(config) -> None:
    """Raises a ValueError for a value that nothing further down would explain."""
    for key, value, known in (
        ("dtype", config.dtype, DTYPES),
        ("sharding", config.sharding, sharding.RULES),
        ("evals.split", config.evals.split, SPLITS),
        ("data.unit", config.data.unit, UNITS),
        ("data.closed_world", config.data.closed_world, statements.CLOSED),
        ("data.blank_labels", config.data.blank_labels, statements.BLANKS),
        ("data.label_precedence", config.data.label_precedence, statements.PRECEDENCES),
        ("data.check", config.data.check, file_check.LEVELS),
        ("schedule.kind", config.schedule.kind, optim.SCHEDULES),
        ("rng", config.rng, RNGS),
    ):
        if value not in known:
            raise ValueError(f"unknown {key} {value!r}; known: {', '.join(known)}")
    for key in ("batch_size", "eval_batch_size", "image_size"):
        if config.data[key] < 1:
            raise ValueError(f"data.{key} must be positive, came {config.data[key]}")
    for group, key, least in (("data", "batch_per_device", 0), ("train", "max_bad_steps", 0), ("train", "bad_steps_window", 1)):
        if config[group][key] < least:
            raise ValueError(f"{group}.{key} must be at least {least}, came {config[group][key]}")
    periods.check(config.train)
    schedules.check(config)


def check_required(config) -> None:
    """Keys that a variant cannot do without (initial weights, data): raises a ValueError that says how to get them."""
    missing = []
    for key, how in config.required:
        node = config
        for part in key.split("."):
            node = node[part]
        if not node:
            missing.append(f"--config.{key}=...: {how}")
    if missing:
        raise ValueError(f"variant {config.variant!r} does not start without:\n  " + "\n  ".join(missing))
