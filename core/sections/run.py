"""A run as a whole: its name, policy, tasks, rollouts, training, tracking, placement."""

from typing import Literal

from pydantic import Field, field_validator

from core.records import StopReason
from core.sections.base import Section

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class RunConfig(Section):
    name: str = Field("nano", pattern=RUN_NAME)
    """Everything of the run goes to runs/<name>/."""
    root: str = "runs"
    seed: int = Field(0, ge=0)
    deterministic: bool = False
    """Refuse every setting under which two runs of one seed could differ in a bit."""


class PolicyConfig(Section):
    path: str = "models/nano/policy"
    """A Hugging Face folder (or hub id) of a Qwen3-VL model."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    system_prompt: Literal["nano", "full"] = "nano"
    """Which of envs/prompts.py the policy is given."""


class TasksConfig(Section):
    source: Literal["nano", "rl_data", "knowgen"] = "nano"
    path: str | None = None
    """The JSON file of rl_data or knowgen; unused for nano."""
    shuffle: bool = True


class RolloutConfig(Section):
    num_workers: int = Field(1, ge=1)
    num_cpus_per_worker: float = Field(0.5, ge=0)
    num_gpus_per_worker: float = Field(0.0, ge=0)
    tensor_parallel: int = Field(1, ge=1)
    max_turns: int = Field(10, ge=1)
    """Calls of the policy in one episode; the last one must be an answer."""
    max_tokens_per_turn: int = Field(4096, ge=1)
    max_context: int = Field(36_000, ge=64)
    """Tokens of one episode, image tokens counted."""
    episode_timeout_s: float | None = Field(None, gt=0)
    """Seconds after which an episode is stopped on its worker and played again, as after any fault
    of ours. None: four fifths of train.stall_timeout_s, so that one that hangs ends no run."""
    max_parallel_episodes: int = Field(64, ge=1)
    """Fewer run while the engines' KV caches are too small for so many, or renders or verdicts are
    the older queue. Far more than the engines run at once delay the oldest batch
    (docs/decisions/0005-staleness.md)."""
    temperature: float = Field(0.7, gt=0, le=2)
    top_p: float = Field(0.95, gt=0, le=1)
    kv_cache_gib: float = Field(1.0, gt=0)
    """Of one worker, shared by its devices."""
    max_sequences: int = Field(64, ge=1)
    """Sequences that one engine runs at once."""


class TrainConfig(Section):
    steps: int = Field(60, ge=1)
    groups_per_step: int = Field(8, ge=1)
    group_size: int = Field(6, ge=2)
    oversample: int = Field(0, ge=0)
    """Members that a group begins beyond `group_size`; once that many have a score, the slowest
    are stopped. Faster, and biased to short episodes within a group (never between tasks)."""
    max_staleness: int = Field(0, ge=0, le=8)
    """Versions between a trajectory's oldest token and the learner; 0 = sync, 1 = one step off,
    more = asynchronous."""
    masked_stop_reasons: tuple[StopReason, ...] = ()
    max_reissues: int = Field(2, ge=0)
    """How often a member whose episode failed by a fault of ours is played again."""
    max_learner_restarts: int = Field(3, ge=0)
    """How often in a row a lost learner is replaced, from the last checkpoint, before the run
    stops; a step further than any before starts the count afresh."""
    max_empty_batches: int = Field(5, ge=1)
    """Batches in a row without any gradient before the run stops and says why."""
    budget_usd: float | None = Field(None, gt=0)
    """Dollars of the whole run, evaluations and resumes included; None: no limit. Looked at after
    every step, so that the last step may go over it."""
    stall_timeout_s: float = Field(900.0, gt=0)
    """Seconds without anything that begins or ends, after which the run stops and says what it
    waits for. Well above what one piece of work may take, tools.episode_deadline_s included."""
    checkpoint_every: int = Field(20, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    """The last ones."""
    keep_best: bool = True
    """Also the one with the best held-out reward. With `eval.every` each evaluated step then has a
    checkpoint, at least until its reward is known."""
    push_to_hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")
    """A repository of the Hugging Face Hub ("name/policy") that gets the policy of every
    checkpoint; the token stands in HF_TOKEN. None: nothing is uploaded."""


class EvalConfig(Section):
    every: int = Field(0, ge=0)
    """Steps between held-out evaluations beside training; 0: only before and after."""
    num_tasks: int = Field(256, ge=1)
    temperature: float = Field(0.6, gt=0, le=2)
    top_p: float = Field(0.9, gt=0, le=1)
    max_parallel_episodes: int = Field(64, ge=1)
    """Beside training these come on top of `rollout.max_parallel_episodes`."""
    num_showcase: int = Field(6, ge=0)
    """Held-out tasks that the report shows before and after."""


class WandbConfig(Section):
    mode: Literal["offline", "online", "disabled"] = "offline"
    project: str = "gensearcher"


class ClusterConfig(Section):
    address: str | None = None
    """None: RAY_ADDRESS if set (a submitted job), else a local Ray."""
    search_num_cpus: float = Field(0.1, ge=0)
    search_actors: int = Field(1, ge=1)
    """They share one store on one node."""
    judge_num_cpus: float = Field(0.1, ge=0)
    object_store_gib: float = Field(0.5, gt=0)
    image_cache: str | None = None
    """Folder on each node's own disk for copies of images, checked by their digests, which rollout
    workers and learners read; None: they read run.root. For a run.root on a network file system."""
    image_cache_gib: float = Field(4.0, gt=0)
    """Above it the copies that were not read for longest go."""

    @field_validator("image_cache")
    @classmethod
    def _is_absolute(cls, path: str | None) -> str | None:
        if path is not None and not path.startswith("/"):
            raise ValueError(
                f"{path!r} would be another folder in every process; give an absolute path, "
                "e.g. /var/tmp/images"
            )
        return path
