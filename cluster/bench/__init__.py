"""A benchmark from prompts to a table: agent -> render -> judge, each stage resumable.

What flows: `BenchTask` -> `AgentRow` -> `RenderRow` -> `JudgeRow`, each written to disk the moment
it is whole (journal.py), each under a key that names all that decided it (rows.py). The rows of a
benchmark become one `BenchSummary` by a pure function (summary.py), the files that the benchmarks'
own tools read (knowgen_files.py, wise_files.py), and a page for people (page.py).

    commands.py   gensearcher eval nano | knowgen | wise | prompts
    run.py        one evaluation: opens what its stages need (parts.py), runs them, writes it all
    pipeline.py   every task through the stages, as far as they are asked for
"""
