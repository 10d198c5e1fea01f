"""The learning rate of a run, made from its config, and what becomes of it when a run goes on with another config."""

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from medvlp_jax import errors, metrics, optim, periods

# How the rates of a config follow the batch: factor of batch / schedule.base_batch.
RULES = {"off": lambda ratio: 1.0, "sqrt": math.sqrt, "linear": float}  # config.schedule.scale_lr
RATES = ("lr", "start_lr", "final_lr")


def make(config, total_steps: int, steps_per_epoch: Callable[[], int]):
    """Return step -> learning rate of config.schedule.

    The warm-up is a share of the run below 1, else steps (medklip_published: epochs), or a text such as "2 epochs". With
    schedule.scale_lr all rates are multiplied by the square root, or by the whole, of the batch over schedule.base_batch.

    Raises:
      ValueError: a warm-up that does not fit.
    """
    fields = config.schedule.to_dict()
    kind, warmup, rule, base = (fields.pop(key) for key in ("kind", "warmup", "scale_lr", "base_batch"))
    factor = RULES[rule](config.data.batch_size / base)
    if rule != "off":
        logging.info("schedule.scale_lr=%s: learning rates times %.4g, for a batch of %d instead of %d; the highest is %.4g",
                     rule, factor, config.data.batch_size, base, factor * fields["lr"])  # fmt: skip
    fields |= {key: factor * fields[key] for key in RATES}
    if kind == "medklip_published":
        epochs = max(config.train.epochs, 1)
        warmup = _share_or_number(warmup, epochs, "epochs", steps_per_epoch)
        return optim.medklip_published(steps_per_epoch=steps_per_epoch(), epochs=epochs, warmup_epochs=warmup, **fields)
    warmup = _share_or_number(warmup, total_steps, "steps", steps_per_epoch)
    return optim.warmup_cosine(total_steps=total_steps, warmup_steps=warmup, **fields)


def _share_or_number(warmup, whole: int, unit: str, steps_per_epoch) -> int:
    """Warm-up in `unit`: a number below 1 is a share of `whole`, any other a number of `unit`; a text names its own."""
    if isinstance(warmup, str):
        if unit == "epochs":
            return round(periods.parse("schedule.warmup", warmup, ("epochs",)).number)
        return periods.in_steps(periods.parse("schedule.warmup", warmup), steps_per_epoch)
    if warmup < 1:
        return round(warmup * whole) if unit == "epochs" else int(warmup * whole)
    return int(warmup)


def check(config) -> None:
    """Raises a ValueError for a rule or warm-up that cannot be meant."""
    schedule = config.schedule
    if schedule.scale_lr not in RULES:
        raise ValueError(f"unknown schedule.scale_lr {schedule.scale_lr!r}; known: {', '.join(RULES)}")
    if schedule.base_batch < 1:
        raise ValueError(f"schedule.base_batch must be positive, came {schedule.base_batch}")
    if isinstance(schedule.warmup, str):
        periods.parse("schedule.warmup", schedule.warmup)


def change(exp, workdir: Path, step: int) -> str:
    """Return a warning if a run that goes on at `step` has another learning rate there, or another end, than it began with.

    exp: an experiment.Experiment. The old schedule is rebuilt from run.json.
    """
    old = metrics.read_run_file(workdir).get("config")
    if not old:
        return ""
    config = copy.deepcopy(exp.config)
    began = {"train": {k: old["train"][k] for k in ("steps", "epochs")}, "data": {"batch_size": old["data"]["batch_size"]},
             "schedule": {"scale_lr": "off", **old["schedule"]}}  # fmt: skip
    lines = []
    with config.unlocked():
        for group, values in began.items():
            for key, was in values.items():
                now = exp.config[group].get(key)
                if was != now:
                    lines.append(f"{group}.{key} was {was!r}, is now {now!r}")
                if key in config[group]:
                    config[group][key] = was
    before = dataclasses.replace(exp, config=config)
    try:
        with errors.opening():
            ends = [e.total_steps for e in (before, exp)]
            rates = [float(e.schedule(np.int32(step))) for e in (before, exp)]
    except errors.BadValue as error:
        return f"the schedule that the run began with cannot be rebuilt ({error}); changed: {'; '.join(lines) or 'nothing'}"
    if ends[0] == ends[1] and math.isclose(*rates, rel_tol=1e-6):
        return ""
    return (
        f"the learning rate at step {step} was {rates[0]:.4g} and is now {rates[1]:.4g}, for the schedule that reached to step "
        f"{ends[0]} now reaches to step {ends[1]} ({'; '.join(lines)})"
    )
