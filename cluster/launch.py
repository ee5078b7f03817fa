"""From a Config to a running system on Ray, and down again in reverse, also after an error.

    with launch(config) as system:
        before = system.evaluate()
        system.train(on_step=...)
        after = system.evaluate()

Refuses what cannot fit before anything starts (cluster/plan/placement.py). Ctrl-C inside `train`
leaves a checkpoint; `launch(config, resume=True)` goes on from the newest whole one.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.algorithm import GRPO, GRPOConfig, RayLearner
from cluster.checkpoints import LEARNER, Checkpoints
from cluster.controller import Controller
from cluster.evaluate import EvalResult
from cluster.grading import Grader
from cluster.hub import hub_uploads
from cluster.parts import LearnerLostError
from cluster.plan.memory_fit import refuse_too_little_memory
from cluster.plan.placement import demands, refuse_what_cannot_fit
from cluster.plan.plan import plan_or_none
from cluster.ray_pool import RayPool
from cluster.ray_session import alive_nodes, ray_session
from cluster.services import Services, start_services
from cluster.track.meters import RunMeters
from cluster.track.pools import places_of
from cluster.track.prometheus import PrometheusExporter
from cluster.track.recorder import JsonlRecorder
from cluster.track.spending import Spending
from cluster.track.status import Status, StepReport
from cluster.track.timeline import Timeline
from core.config import Config, save_config
from core.errors import ConfigError, InfraError, LearnerError
from core.records import Task
from core.stacks import write_stall
from envs.tasks import open_heldout_tasks, open_train_tasks
from envs.toolbox import ToolCounters
from learners.checkpoint import policy_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A run that is up: workers hold engines, the learner holds the policy."""

    config: Config
    algorithm: GRPO
    controller: Controller
    checkpoints: Checkpoints
    recorder: JsonlRecorder
    services: Services
    spending: Spending

    @property
    def step(self) -> int:
        return self.controller.frontier_state.step

    def status(self) -> Status:
        return self.controller.status()

    @property
    def is_budget_spent(self) -> bool:
        """By the last count, which is that of the last step or evaluation."""
        budget_usd = self.config.train.budget_usd
        return budget_usd is not None and self.spending.total_usd >= budget_usd

    def train(self, *, on_step: Callable[[StepReport], None] = lambda report: None) -> None:
        """Train until `train.steps`, or until `train.budget_usd` is spent. On Ctrl-C, and at the
        end, a checkpoint is left behind.

        `on_step` is called after every step, between steps: it may evaluate, or begin to.
        """
        config = self.config.train
        try:
            while self.step < config.steps and not self.is_budget_spent:
                self.algorithm.train()
                self.checkpoints.finish()  # if the learner has written its part
                report = self.controller.last_report
                assert report is not None
                on_step(report)
                last = self.step == config.steps or self.is_budget_spent
                due = last or self.step % config.checkpoint_every == 0
                if due or self.checkpoints.may_be_best(self.step):
                    try:
                        self.begin_checkpoint()
                        if last:
                            self.finish_checkpoint()
                    except LearnerLostError as error:
                        self.controller.recover(error)
        except KeyboardInterrupt:
            logger.warning("interrupted after step %s; writing a checkpoint", self.step)
            self.controller.stop()
            self.controller.run(self.spending.count())
            try:
                self.begin_checkpoint()
                self.finish_checkpoint()
            except LearnerError as error:
                logger.warning("%s", error)
            raise

    def evaluate(self, tasks: Sequence[Task] | None = None) -> EvalResult:
        """The held-out tasks of the recipe, or these, with the present policy."""
        if tasks is None:
            tasks = open_heldout_tasks(self.config, images=self.services.images)
        try:
            result = self.controller.run(self.controller.evaluations.play(tasks))
        except LearnerLostError as lost:  # with the weights that the workers waited for
            self.controller.recover(lost)
            return self.evaluate(tasks)
        self._count_evaluation()
        return result

    def begin_evaluation(self) -> None:
        """The held-out tasks with the present policy, beside training. With `train.keep_best` this
        step has a checkpoint, which stays at least until the result is known."""
        tasks = open_heldout_tasks(self.config, images=self.services.images)
        self.controller.run(self.controller.evaluations.begin(tasks))
        if self.config.train.keep_best:
            self.checkpoints.hold(self.step)

    def finish_evaluation(self) -> EvalResult | None:
        """Of the one that was begun last; waits for it. None: there is none, or its policy was lost
        with a learner, and the step before it comes again."""
        try:
            result = self.controller.run(self.controller.evaluations.finish())
        except LearnerLostError as lost:
            self.controller.recover(lost)
            return self.finish_evaluation()
        if result is not None:
            self._count_evaluation()
        return result

    def _count_evaluation(self) -> None:
        self.recorder.flush()
        self.controller.run(self.spending.count())

    def tool_counters(self) -> ToolCounters | None:
        """Of this launch; None when a search actor is away and does not come back."""
        try:
            return self.controller.run(self.services.toolbox.counters())
        except InfraError as error:
            logger.warning("the tools' counts are lost: %s", error)
            return None

    def begin_checkpoint(self) -> None:
        """One of this step, written while training goes on. Waits for the one before, and raises
        LearnerError when that could not be written."""
        self.finish_checkpoint()
        state = self.controller.frontier_state
        self.recorder.flush()  # how those tasks ended that this state no longer knows
        self.checkpoints.begin(
            state=state,
            config=self.config,
            save_learner=self.controller.save_learner,
        )

    def finish_checkpoint(self) -> None:
        """Wait until the last one is whole. Raises LearnerError."""
        self.controller.finish_save()
        self.checkpoints.finish()


@contextmanager
def launch(config: Config, *, resume: bool = False) -> Iterator[System]:
    """A running system inside; nothing of it afterwards, except for the files of the run.

    Raises ConfigError for what the user can mend, before any engine starts where that is possible.
    """
    run_dir = config.run_dir.resolve()
    with ExitStack() as stack:
        hub = stack.enter_context(hub_uploads(config))

        def upload(checkpoint: Path) -> None:
            if hub is not None:
                hub.add(policy_folder(checkpoint / LEARNER), name=checkpoint.name)

        checkpoints = Checkpoints(
            run_dir / "checkpoints", keep=config.train.keep_checkpoints, on_whole=upload
        )
        if not resume and (old := checkpoints.latest()) is not None:
            raise ConfigError(
                f"{old} is a checkpoint of an earlier run, from which this one would go on when "
                "its learner is lost; resume that run, set its folder aside, or change run.name"
            )
        stack.enter_context(ray_session(config))
        _refuse_what_cannot_fit(config)
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / "config.yaml")
        services = stack.enter_context(start_services(config))
        algorithm = GRPOConfig.of(
            config,
            toolbox=services.toolbox,
            tool_specs=services.tool_specs,
            images_folder=services.images_folder,
        ).build_algo()
        stack.callback(algorithm.stop)
        recorder = JsonlRecorder(run_dir)
        stack.callback(recorder.close)
        checkpoints.clean_up()
        spending = Spending(run_dir, services.paid)
        controller = _controller(config, algorithm, services, recorder, checkpoints, spending)
        stack.callback(controller.close)
        controller.start()
        algorithm.drive_with(controller)
        if resume and (newest := checkpoints.latest()) is not None:
            logger.info("going on from %s", newest)
            algorithm.restore_from_path(newest)
        recorder.started(controller.frontier_state)
        yield System(
            config=config,
            algorithm=algorithm,
            controller=controller,
            checkpoints=checkpoints,
            recorder=recorder,
            services=services,
            spending=spending,
        )


def _refuse_what_cannot_fit(config: Config) -> None:
    """Raises ConfigError."""
    nodes = alive_nodes()
    refuse_what_cannot_fit(demands(config), nodes=nodes)
    if (plan := plan_or_none(config, recipe=config.run.name)) is not None:
        refuse_too_little_memory(plan, nodes=nodes)


def _controller(
    config: Config,
    algorithm: GRPO,
    services: Services,
    recorder: JsonlRecorder,
    checkpoints: Checkpoints,
    spending: Spending,
) -> Controller:
    timeline = Timeline(recorder.span, places=places_of(config))
    pool = RayPool(algorithm.rollout_workers, episode_timeout_s=config.episode_timeout_s)
    return Controller(
        config=config,
        tasks=open_train_tasks(config, images=services.images),
        pool=pool,
        read_engines=pool.read_engines,
        dump=functools.partial(write_stall, config.run_dir),
        toolbox=services.toolbox,
        grader=Grader(
            reward=services.reward,
            image_model=services.image_model,
            render=config.render,
            masked_reasons=config.train.masked_stop_reasons,
            timeline=timeline,
        ),
        learner=RayLearner(algorithm.learner_group, replace=algorithm.replace_learner),
        last_checkpoint=checkpoints.last_whole,
        recorder=recorder,
        timeline=timeline,
        meters=RunMeters(
            engine_stats=pool.engine_stats,
            spending=spending,
            exporter=PrometheusExporter(run=config.run.name),
        ),
    )
