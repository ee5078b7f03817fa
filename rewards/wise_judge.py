"""WISE's judge: does a picture show what the prompt's explanation says, by either edition's rubric.

In: a task whose `rubric` is WISE's explanation, and an image. Out: a WiseVerdict; grades are
single votes (`judge.votes` is 1 here: the editions' grades are whole numbers). Raises JudgeError.
"""

from core.errors import JudgeError
from core.records import ImageRef, Task
from rewards.panel import Grades, Panel, Question
from rewards.rubrics import Rubrics, digest
from rewards.schemas import reply_schema
from rewards.wise import GRADE_WEIGHTS, TOP_GRADE, WiseEdition, WiseVerdict, parse_wise


class WiseJudge:
    def __init__(self, panel: Panel, rubrics: Rubrics, *, edition: WiseEdition) -> None:
        self._panel = panel
        self._edition = edition
        self._rubric = rubrics.wise_legacy if edition == "legacy" else rubrics.wise_verified
        scale = range(TOP_GRADE[edition] + 1)
        self._schema = reply_schema(dict.fromkeys(GRADE_WEIGHTS[edition], scale))

    @property
    def name(self) -> str:
        return self._panel.name

    @property
    def prompt_sha(self) -> str:
        return digest(self._rubric)

    async def judge(self, *, task: Task, image: ImageRef) -> WiseVerdict:
        if not task.rubric:
            message = f"task {task.task_id} has no explanation, which WISE's judge needs"
            raise JudgeError(message, retryable=False)
        question = Question(
            rubric=self._rubric,
            content=(f'PROMPT: "{task.prompt}"\nEXPLANATION: "{task.rubric}"', image),
            read=self._read,
            schema=self._schema,
        )
        ballot = await self._panel.ask(question, votes=1)
        return WiseVerdict(
            edition=self._edition,
            grades={name: int(value) for name, value in ballot.grades.items() if value is not None},
            rationale=ballot.rationale,
            took=ballot.took,
        )

    def _read(self, text: str) -> tuple[Grades, str]:
        verdict = parse_wise(text, edition=self._edition)
        return dict(verdict.grades), verdict.rationale
