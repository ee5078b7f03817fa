"""The loop that drives a run: one asyncio loop on a thread of its own.

        ordinals                 Member                  Group
  admit ---------> group task --------> member tasks --------> frontier ----> train ----+
    ^                                                              |                    |
    +------------------ room: a step is done, or a group has no gradient --------------+

  loop       consumes              produces          waits for              unblocked by
  ---------  --------------------  ----------------  ---------------------  ----------------------
  admit      room in the frontier  group tasks       nothing (it is called  train (step done),
                                                     when room appears)     group (no gradient)
  group      an ordinal            a Group           its members            the members' ends
  member     a task                a Member          a free episode slot,   another episode's end,
                                                     the episode, render,   the workers, the render
                                                     judge                  replicas, the judge
  train      the oldest finished   a policy version  the batch; then the    group; the learner; the
             groups (one batch),                     step, the broadcast    workers
             as they end
  evaluate   held-out tasks        their members     nothing; `train` waits until it has played
  recover    a lost learner        another learner   the abandoned groups;  whoever starts it
                                                     its start, its load
  balance    readings of engines   more or fewer     the clock              the clock
             and queues            episode places
  watchdog   the timeline          StalledError      the clock              anything that moves

Each member goes on to grading the moment its episode ends, and each group to the frontier the
moment its last member is graded. With `max_staleness` 0 episodes run only for the batch that is
asked for; with S > 0 those of the next S batches run as well, during the learner's step and between
calls of `advance`. The bound and its proof stand in cluster/frontier.py.

A learner whose process is lost takes every version since the last checkpoint with it. Another one
goes on from there: what ended since then, and what is under way, is played again.

`advance` raises what stops a run: StalledError, LearnerError, FidelityError, or EmptyBatchesError
when `max_empty_batches` batches' worth of groups in a row held no gradient.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from cluster.ahead import Ahead
from cluster.checkpoints import LEARNER, read_frontier
from cluster.concurrency import ReadEngines, balance, place_metrics
from cluster.evaluate import Evaluations
from cluster.frontier import Ending, Frontier, FrontierState
from cluster.grading import Grader
from cluster.groups import play_group
from cluster.kept_groups import usable
from cluster.loop_thread import LoopThread
from cluster.members import MemberRunner
from cluster.parts import LearnerLostError, Mode, Recorder, RemoteLearner, RolloutPool
from cluster.starvation import refuse_to_starve
from cluster.track.meters import NO_METERS, Meters
from cluster.track.status import Status, StepReport, Tally, status_of
from cluster.track.step_metrics import step_metrics
from cluster.track.timeline import Timeline
from cluster.watchdog import Dump, guarded
from core.config import Config
from core.errors import GensearcherError, LearnerError
from core.failure_policy import Action, Budget, Event, Fault, Part, decide
from core.places import Places
from core.protocols import Toolbox
from core.records import Group, Member
from envs.tasks import TaskSource
from learners.advantage import NoSignal, advantages_of

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Controller:
    """`start`, then `advance` as often as wanted, then `close`. Safe to call from any thread."""

    def __init__(
        self,
        *,
        config: Config,
        tasks: TaskSource,
        pool: RolloutPool,
        toolbox: Toolbox,
        grader: Grader,
        learner: RemoteLearner,
        recorder: Recorder,
        timeline: Timeline,
        last_checkpoint: Callable[[], Path | None] = lambda: None,
        read_engines: ReadEngines | None = None,
        dump: Dump | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
        meters: Meters = NO_METERS,
    ) -> None:
        """`toolbox` is told which tasks have ended; the episodes have theirs from the pool.
        `last_checkpoint`: the folder from which to go on when the learner is lost; None: from the
        beginning. `read_engines`: how full the engines are; None: as many episodes as the config
        allows, always. `dump` is called before a stall is raised. `loop`, one that does not run
        yet, is for a simulated clock."""
        self._config = config
        self._train_config = config.train
        self._meters = meters
        self._tasks = tasks
        self._pool = pool
        self._toolbox = toolbox
        self._learner = learner
        self._recorder = recorder
        self._timeline = timeline
        self._last_checkpoint = last_checkpoint
        self._restarts = Budget(times=config.train.max_learner_restarts)
        self._learner_losses = 0
        self._furthest_step = 0
        self._frontier = self._new_frontier(None)
        self._grader = grader
        self._places = Places(config.rollout.max_parallel_episodes)
        self._read_engines = read_engines
        self._dump = dump
        self._members = self._new_members(self._places, lambda: self._frontier.step)
        self._ahead = Ahead(learner, timeline, allowed=config.train.max_staleness > 0)
        self._ended: list[tuple[Group, Ending]] = []
        self._tally = Tally()
        self._last_report: StepReport | None = None

        self._thread = LoopThread("controller", loop)
        self._running: set[asyncio.Task[None]] = set()
        self._balancing: asyncio.Task[None] | None = None
        self._releasing: list[asyncio.Task[None]] = []
        self.evaluations = Evaluations(
            new_members=self._new_members,
            max_parallel=config.eval.max_parallel_episodes,
            frontier=lambda: self._frontier,
            on_end=self._on_task_done,
        )
        self._update: asyncio.Task[StepReport] | None = None
        self._lost: LearnerLostError | None = None  # which a group found out
        self._group_ended = asyncio.Event()
        self._crash: asyncio.Future[None] = self._thread.loop.create_future()
        self._stopping = False

    # -- called from outside --------------------------------------------------------------------

    def start(self) -> None:
        """Start the loop; nothing is played before the first `advance` or evaluation."""
        self._thread.start()
        self._thread.begin(self._meters.watch(self.status))

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint. Raises ConfigError for a torn one."""
        if self._running:
            raise GensearcherError("a run that has begun cannot go on from a checkpoint")
        self.run(self._restore(checkpoint))

    def recover(self, lost: LearnerLostError) -> None:
        """Put another learner in the place of one that was lost outside `advance`."""
        self.run(self._recover(lost))

    def save_learner(self, folder: str) -> int:
        """The version that is saved; see `frontier_state`. Writing it may go on: `finish_save`."""
        return self.run(self._timeline.learning("checkpoint", self._learner.save(folder)))

    def finish_save(self) -> None:
        """Return when the learner's last save is whole. Raises LearnerError."""
        self.run(self._timeline.learning("checkpoint", self._learner.saved()))

    def advance(self, steps: int = 1) -> tuple[StepReport, ...]:
        """Return when that many optimizer steps are done and their weights are applied. They are
        not later than before when the learner was lost: steps since its checkpoint come again."""
        return self.run(self._train(steps))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the controller's loop, under its watchdog; blocks the caller."""
        return self._thread.run(self._guarded(work))

    def status(self) -> Status:
        return status_of(
            self._frontier,
            self._timeline,
            self._tally,
            config=self._train_config,
            last_report=self._last_report,
        )

    @property
    def last_report(self) -> StepReport | None:
        """Of the last step done by this process."""
        return self._last_report

    @property
    def frontier_state(self) -> FrontierState:
        """For a checkpoint; consistent between calls of `advance` and after `stop`."""
        return self._thread.ask(lambda: self._frontier.state)

    def stop(self) -> None:
        """Let a learner step under way finish, abandon the episodes; the loop lives on."""
        self._thread.run(self._stop())

    def close(self) -> None:
        """Stop, and end the loop and its thread. Harmless when already closed."""
        if self._thread.is_running:
            self.stop()
        self._thread.close()

    def _new_frontier(self, state: FrontierState | None) -> Frontier:
        return Frontier(
            groups_per_step=self._train_config.groups_per_step,
            max_staleness=self._train_config.max_staleness,
            total_steps=self._train_config.steps,
            state=state,
            teaches=self._teaches,
        )

    def _teaches(self, group: Group) -> bool:
        return not isinstance(advantages_of(group, config=self._config), NoSignal)

    def _new_members(self, places: Places, policy_version: Callable[[], int]) -> MemberRunner:
        return MemberRunner(
            pool=self._pool,
            grader=self._grader,
            timeline=self._timeline,
            on_attempt=self._on_attempt,
            policy_version=policy_version,
            max_reissues=self._train_config.max_reissues,
            places=places,
        )

    async def _restore(self, checkpoint: Path) -> None:
        state = read_frontier(checkpoint)
        await self._timeline.learning("load", self._learner.load(str(checkpoint / LEARNER)))
        kept = await usable(state, config=self._train_config, toolbox=self._toolbox)
        self._frontier = self._new_frontier(replace(state, finished=kept))
        await self._broadcast(state.step)

    # -- admit, group, member -------------------------------------------------------------------

    def _admit(self) -> None:
        while not self._stopping and (ordinal := self._frontier.admit()) is not None:
            task = asyncio.create_task(self._run_group(ordinal), name=f"group {ordinal}")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LearnerLostError):
            self._lost = error
            self._group_ended.set()
        elif error is not None and not self._crash.done():
            self._crash.set_exception(error)

    async def _run_group(self, ordinal: int) -> None:
        task = self._tasks.task(ordinal)
        members = await play_group(
            self._members,
            task,
            size=self._train_config.group_size,
            extra=self._train_config.oversample,
            groups_per_step=self._train_config.groups_per_step,
        )
        group = Group(task=task, members=members)
        ending = self._frontier.finish(group)
        if ending is not None:
            logger.info("task=%s ended as %s", ordinal, ending)
            self._end(group, ending)
            self._admit()
        self._group_ended.set()

    def _on_attempt(self, member: Member, mode: Mode, version: int) -> None:
        self._tally.add(member, mode=mode)
        self._recorder.member(member, mode=mode, step=version)

    def _end(self, group: Group, ending: Ending) -> None:
        self._ended.append((group, ending))
        self._recorder.group(group, ending=ending, step=self._frontier.step)

    # -- train ----------------------------------------------------------------------------------

    async def _train(self, steps: int) -> tuple[StepReport, ...]:
        self._timeline.end_step()  # what was until now is no step's: an evaluation
        if self._read_engines is not None and self._balancing is None:
            work = balance(self._places, self._read_engines, self._timeline, self._train_config)
            self._balancing = asyncio.create_task(work)
            self._balancing.add_done_callback(self._on_task_done)
        reports: list[StepReport] = []
        while len(reports) < steps and not self._stopping:
            self._frontier.aim(self._frontier.step + steps - len(reports))
            self._admit()
            try:
                groups = await self._next_batch()
                self._update = asyncio.create_task(self._train_on(groups))
                reports.append(await asyncio.shield(self._update))
            except LearnerLostError as lost:
                await self._recover(lost)
        return tuple(reports)

    async def _next_batch(self) -> tuple[Group, ...]:
        while (groups := self._frontier.take_batch()) is None:
            if self._lost is not None:
                raise self._lost
            refuse_to_starve(
                [ending for _, ending in self._ended],
                self._tally.failures,
                in_a_row=self._frontier.ends_without_gradient,
                config=self._train_config,
            )
            self._group_ended.clear()
            if not await self._ahead.begin(self._frontier):
                await self._group_ended.wait()
        self._ahead.forget()
        return groups

    async def _train_on(self, groups: Sequence[Group]) -> StepReport:
        """One optimizer step, its weights on every worker, then the new version."""
        version = self._frontier.step
        report = await self._timeline.learning(f"step {version + 1}", self._learner.step(groups))
        held_s = await self.evaluations.until_played()
        await self._broadcast(version + 1)
        self._frontier.complete_step()
        if self._frontier.step > self._furthest_step:
            self._furthest_step, self._learner_losses = self._frontier.step, 0
        for group in groups:
            self._end(group, Ending.CONSUMED)
        ended, self._ended = self._ended, []  # the next groups end while the meters are read
        self._admit()
        metrics = {
            **step_metrics(ended, consumed_at_version=version, lost_learners=self._tally.losses),
            **report.metrics,
            **self._timeline.end_step(),
            "seconds/heldout": held_s,
            "learner/samples": float(report.num_samples),
            "learner/tokens": float(report.num_tokens),
            **place_metrics(self._places),
        }
        metrics |= await self._meters.end_step(metrics)
        self._last_report = StepReport(step=self._frontier.step, metrics=metrics)
        self._release_images([group.task.ordinal for group, _ in ended])
        self._tally.end_step()
        self._recorder.step(self._frontier.step, metrics)
        return self._last_report

    async def _recover(self, lost: LearnerLostError) -> None:
        """Raises `lost` when learners are lost again and again without getting further."""
        self._tally.lost_learner()
        self._learner_losses += 1
        event = Event(part=Part.LEARNER, fault=Fault.LOST, times=self._learner_losses)
        if decide(event, budget=self._restarts) is not Action.RESTART:
            raise lost
        checkpoint = self._last_checkpoint()
        logger.warning("%s; another goes on from %s", lost, checkpoint or "the beginning")
        await self._abandon_groups()
        await self.evaluations.abandon()
        try:
            await self._timeline.learning("another learner", self._learner.restart())
            if checkpoint is None:
                self._frontier = self._new_frontier(None)
                await self._broadcast(0)
            else:
                await self._restore(checkpoint)
        except LearnerLostError as again:
            return await self._recover(again)
        self._recorder.started(self._frontier.state)
        await self.evaluations.take_up()

    async def _abandon_groups(self) -> None:
        """And let go of what ended ones were shown, before some of it is pinned again."""
        stopped = [task for task in self._running if task.cancel()]
        await asyncio.gather(*stopped, *self._releasing, return_exceptions=True)
        self._ended = []
        self._lost = None
        self._ahead.forget()

    def _release_images(self, ended: Sequence[int]) -> None:
        """What the ended tasks were shown may go; held-out tasks keep theirs for the report."""
        others = [task for task in self._releasing if not task.done()]
        self._releasing = [*others, asyncio.create_task(self._toolbox.release(ended))]

    async def _broadcast(self, version: int) -> None:
        with self._timeline.span("broadcast", f"version {version}"):
            update, payload = await self._learner.publish()
            if update.version != version:
                message = f"the learner publishes version {update.version}, not {version}"
                raise LearnerError(message, retryable=False)
            await self._pool.apply_weights(update, payload)

    # -- watchdog and stop ----------------------------------------------------------------------

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        limit_s = self._train_config.stall_timeout_s
        return await guarded(
            work, self._timeline, crash=self._crash, limit_s=limit_s, dump=self._dump
        )

    async def _stop(self) -> None:
        self._stopping = True
        await self.evaluations.abandon()  # else the step would wait for it
        if self._update is not None and not self._update.done():
            await asyncio.wait({self._update}, timeout=self._train_config.stall_timeout_s)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
