"""Parts of a reward that look at how an episode went, not at what it made; all off by default.

gate     only for tasks that need no search (`meta.needs_search` false): 1 / (1 + tool calls), so
         that answering directly pays and every search costs. Blind search makes such pictures
         worse (SearchGen, arXiv 2607.05382), and without this part nothing tells the policy so.
format   share of turns that needed no repair of the protocol.
budget   share of `rollout.max_turns` that was left over when the answer came.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from core.records import Provenance, ScorePart, Trajectory

GATE_PART, FORMAT_PART, BUDGET_PART = "gate", "format", "budget"
SHAPING_PARTS = frozenset({GATE_PART, FORMAT_PART, BUDGET_PART})
_BY_RULE = Provenance(judge="rule", prompt_sha="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """Weights in the whole reward; the judged reward has what is left."""

    gate: float = 0.0
    format: float = 0.0
    budget: float = 0.0
    max_turns: int = 1

    def parts(self, trajectory: Trajectory) -> tuple[ScorePart, ...]:
        """The parts that are on and apply to this episode's task, with their weights."""
        return tuple(self._parts(trajectory))

    def _parts(self, trajectory: Trajectory) -> Iterator[ScorePart]:
        turns = trajectory.turns
        calls = sum(turn.tool_call is not None for turn in turns)
        if self.gate and not trajectory.task.meta.needs_search:
            said = f"{calls} tool calls; the task needs none"
            yield _part(GATE_PART, 1 / (1 + calls), self.gate, said)
        if self.format:
            clean = sum(not turn.repairs for turn in turns)
            said = f"{clean} of {len(turns)} turns needed no repair"
            yield _part(FORMAT_PART, clean / max(1, len(turns)), self.format, said)
        if self.budget:
            left = max(0, self.max_turns - len(turns))
            said = f"{left} of {self.max_turns} turns left"
            yield _part(BUDGET_PART, left / self.max_turns, self.budget, said)


def _part(name: str, value: float, weight: float, rationale: str) -> ScorePart:
    return ScorePart(
        name=name, value=value, weight=weight, rationale=rationale, provenance=_BY_RULE
    )
