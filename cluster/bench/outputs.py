"""What an evaluation leaves behind, from its rows: summary.json, report.html, the tools' own files.

summary.json is plain JSON for machines: every number with its interval, both figures for missing
rows, and where each number came from.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.bench.knowgen_files import write_knowgen_files
from cluster.bench.page import write_page
from cluster.bench.pipeline import Counts
from cluster.bench.plan import EvalPlan
from cluster.bench.prompt_files import write_prompt_files
from cluster.bench.rows import RowResult
from cluster.bench.rules import SCORE, Rules
from cluster.bench.summary import BenchSummary, Line, summarise
from cluster.bench.wise_files import write_wise_files
from cluster.report.scores import RunScores, TaskScore, save_scores
from cluster.report.stats import Estimate
from cluster.run_folder import SUMMARY
from core.config import Config
from core.files import write_json_atomic
from core.protocols import ImageStore
from core.records import to_jsonable


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A finished evaluation."""

    plan: EvalPlan
    rows: tuple[RowResult, ...]
    rules: Rules
    counts: Counts
    wall_s: float

    @property
    def summary(self) -> BenchSummary:
        judges = self.plan.benchmark != "prompts"
        return summarise(self.rows, rules=self.rules, missing=self.plan.missing, judges=judges)


def write_outputs(evaluation: Evaluation, config: Config, *, images: ImageStore) -> dict[str, Any]:
    """All files of the evaluation; returns what summary.json holds."""
    plan, rows, folder = evaluation.plan, evaluation.rows, config.run_dir
    match plan.benchmark:
        case "knowgen":
            write_knowgen_files(
                rows,
                folder / "knowgen",
                images=images,
                rules=evaluation.rules,
                missing=plan.missing,
            )
        case "wise":
            write_wise_files(rows, folder / "wise", images=images)
        case "prompts":
            write_prompt_files(rows, folder / plan.format, images=images, format=plan.format)
    summary = evaluation.summary
    tree = summary_json(evaluation, summary, config)
    write_json_atomic(folder / SUMMARY, tree)
    save_scores(task_scores(evaluation, config), folder)
    write_page(
        folder / "report.html",
        tree=tree,
        summary=summary,
        rows=rows,
        rules=evaluation.rules,
        images=images,
        num_cases=config.eval.num_showcase,
    )
    return tree


def task_scores(evaluation: Evaluation, config: Config) -> RunScores:
    """What `gensearcher compare` reads: every scored task, metric by metric."""
    rules, plan = evaluation.rules, evaluation.plan
    headline = "reward" if plan.benchmark == "nano" else SCORE
    judged = [row.judged for row in evaluation.rows if row.judged and row.judged.judge != "none"]
    made_with = {
        "judge": ", ".join(sorted({one.judge for one in judged})),
        "rubric": ", ".join(sorted({one.rubric_sha for one in judged if one.rubric_sha})),
        "image model": ", ".join(sorted({r.drawn.model for r in evaluation.rows if r.drawn})),
        "na_rule": rules.na_rule or "",
    }
    if plan.benchmark == "nano":
        made_with["text weight"] = str(config.reward.text_weight)
    return RunScores(
        name=config.run.name,
        headline=headline,
        made_with=made_with,
        tasks=tuple(
            _task_score(row, row.judged.grades, headline=headline, rules=rules)
            for row in evaluation.rows
            if row.judged is not None
        ),
        num_failed=sum(row.failure is not None for row in evaluation.rows),
    )


def _task_score(
    row: RowResult, grades: Mapping[str, float | None], *, headline: str, rules: Rules
) -> TaskScore:
    task = row.item.task
    parts = {name: rules.part(grades[name]) for name in rules.dimensions}
    hops = task.meta.hops
    group = rules.groups.get(task.meta.category)
    return TaskScore(
        task_id=task.task_id,
        prompt=task.prompt,
        groups=(
            task.meta.category,
            *((group,) if group else ()),
            *((f"{hops} hop{'' if hops == 1 else 's'}",) if headline == "reward" else ()),
        ),
        values={
            headline: rules.row_score(grades),
            **{name: value for name, value in parts.items() if value is not None},
            **(row.played.values if row.played else {}),
        },
    )


def summary_json(evaluation: Evaluation, summary: BenchSummary, config: Config) -> dict[str, Any]:
    plan, rows = evaluation.plan, evaluation.rows
    judged = [row.judged for row in rows if row.judged and row.judged.judge != "none"]
    return {
        "name": config.run.name,
        "benchmark": plan.benchmark,
        "edition": plan.edition if plan.benchmark == "wise" else None,
        "agent": plan.agent,
        "policy": _policy(plan, config),
        "data": str(plan.data) if plan.data else None,
        "data_sha256": _file_sha(plan.data),
        "n": summary.n,
        "scored": summary.scored,
        "failed": summary.failed,
        "not_run": summary.not_run,
        "causes": dict(summary.causes),
        "fallbacks": summary.fallbacks,
        "flagged": summary.flagged,
        "missing": summary.missing,
        "na_rule": evaluation.rules.na_rule,
        "headline": estimate_json(summary.headline),
        "overall": line_json(summary.overall),
        "groups": {line.name: line_json(line) for line in summary.groups},
        "categories": {line.name: line_json(line) for line in summary.categories},
        "episode": {name: estimate_json(one) for name, one in summary.episode.items()},
        "judges": sorted({one.judge for one in judged}),
        "rubric_sha": sorted({one.rubric_sha for one in judged}),
        "image_models": sorted({row.drawn.model for row in rows if row.drawn}),
        "cost_usd": round(summary.cost_usd, 6),
        "judge_tokens": sum(one.tokens for one in judged),
        "seconds": round(summary.seconds, 2),
        "wall_s": round(evaluation.wall_s, 2),
        "this_run": {"stages": list(plan.stages), **to_jsonable(evaluation.counts)},
    }


def _policy(plan: EvalPlan, config: Config) -> str | None:
    match plan.agent:
        case "none":
            return None
        case "openai":
            return config.agent.model
        case "checkpoint" | "workflow":
            return config.policy.path


def line_json(line: Line) -> dict[str, Any]:
    figures: dict[str, Mapping[str, Estimate]] = {"skip": line.skip, "zero": line.zero}
    return {
        "n": line.n,
        "failed": line.failed,
        **{
            name: {metric: estimate_json(one) for metric, one in figure.items()}
            for name, figure in figures.items()
        },
    }


def estimate_json(one: Estimate | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"mean": round(one.mean, 4), "ci95": [round(x, 4) for x in one.ci95], "n": one.n}


def _file_sha(path: Path | None) -> str | None:
    if path is None or not path.is_file():
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()
