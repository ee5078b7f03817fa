"""Keeps Ray's chatter off the screen of a run; its errors stay, and its own log files keep all."""

import logging

CHATTY = (
    "ray._private.worker",
    "ray.rllib.algorithms.algorithm_config",
    "ray.serve",
    "ray.tune.trainable.trainable",
    "ray.tune.trainable.util",
    "ray.tune.utils.util",
)
"""Ray sets levels and handlers of its loggers at will; a filter on a logger stays."""


def quiet_ray() -> None:
    """Let only errors of these loggers through, in this process."""
    for name in CHATTY:
        logging.getLogger(name).addFilter(is_error)


def is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
