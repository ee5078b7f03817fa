"""A learner goes on from a checkpoint, as if it had never stopped.

In: the folder, and the policy and engine of a learner that was made for it. Out: both as they were.
Raises ConfigError for a checkpoint that is missing or torn, or of a learner that trained something
else: going on would change the policy without a word.
"""

from pathlib import Path

from core.errors import ConfigError
from core.sections.learner import LearnerConfig
from learners.checkpoint import TrainState, load_checkpoint, policy_folder
from learners.engine import TrainEngine
from learners.model import PolicyModel, load_weights


def restore(
    folder: Path, *, policy: PolicyModel, engine: TrainEngine, settings: LearnerConfig
) -> TrainState:
    """Bit for bit on a CPU."""
    state = load_checkpoint(folder)
    engine.load_state(state.tensors, step_count=state.step)
    _refuse_another_scale(state, settings)
    with engine.full_weights(write=True):
        load_weights(policy.lm, policy_folder(folder), state.tensors)
    return state


def _refuse_another_scale(state: TrainState, settings: LearnerConfig) -> None:
    there, rank = state.lora_scale, settings.lora_rank
    if there is None or rank is None or there == settings.lora_scale:
        return
    raise ConfigError(
        f"learner.lora_alpha is {settings.lora_alpha:g}, but the checkpoint's adapters of rank "
        f"{rank} were trained with {there * rank:g}, and would weigh otherwise now; set "
        f"learner.lora_alpha={there * rank:g}"
    )
