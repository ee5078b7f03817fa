"""Takes the pictures in docs/images again.

    python -m docs.pictures                  # needs tmux and chromium
    python -m docs.pictures evaluation       # some of them: live, report, evaluation

live        the screen of a short nano run, started inside tmux, in the middle of a step,
            and one step of it as a Gantt chart
report      the last demo's when there is one, else that of the short run
evaluation  an evaluation of the demo's policy, else of the nano policy as it comes, and its
            comparison with the raw prompt on the same tasks
Refuses to write anything when a page has a broken image, a horizontal overflow, or an error on the
console.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from cluster.report.report import write_report
from core.errors import ConfigError

IMAGES = Path(__file__).parent / "images"
RUNS = Path("runs")
NANO_POLICY = Path("models/nano/policy")
PARTS = ("live", "report", "evaluation")
SESSION = "gensearcher-pictures"
COLUMNS, ROWS = 90, 28
RUN_TIMEOUT_S = 900.0
CHROMIUM_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)
PROBE = """<script>addEventListener("load", () => {
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  const overflow = document.documentElement.scrollWidth - innerWidth;
  document.body.innerHTML = "PROBE" + JSON.stringify({broken, overflow,
    height: window.fullHeight}) + "END";
}); addEventListener("load", () => 0);
document.addEventListener("DOMContentLoaded", () => {
  window.fullHeight = document.documentElement.scrollHeight; });</script>"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parts = parser.parse_args().parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: name some of {', '.join(PARTS)}")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for tool in ("tmux", "chromium"):
        if shutil.which(tool) is None:
            raise ConfigError(f"{tool} is not installed; install the package {tool}")
    with tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        root = Path(folder)
        demo = RUNS / "demo"
        has_demo = (demo / "summary.json").is_file()
        if "live" in parts or ("report" in parts and not has_demo):
            screen = capture_live_screen(root)
            save_terminal_picture(screen, IMAGES / "live.png", scratch=root)
            save_timeline_picture(write_report(root / "pictures"), scratch=root)
        if "report" in parts:
            run = demo if has_demo else root / "pictures"
            for width, name in ((1200, "report.png"), (420, "report_narrow.png")):
                save_page_picture(write_report(run), name, width=width, scratch=root)
        if "evaluation" in parts:
            policy = last_checkpoint(demo) if has_demo else NANO_POLICY
            evaluated, compared = evaluate(policy, root)
            save_page_picture(evaluated, "evaluation.png", width=1120, scratch=root)
            save_page_picture(compared, "compare.png", width=1120, scratch=root, most=780)
    sys.stdout.write(f"wrote {', '.join(sorted(p.name for p in IMAGES.glob('*.png')))}\n")


def save_timeline_picture(report: Path, *, scratch: Path) -> None:
    """The report's last section, one step, alone."""
    head, _, body = report.read_text(encoding="utf-8").partition("<body")
    _, heading, section = body.partition("<h2>One step</h2>")
    page = scratch / "timeline.html"
    page.write_text(f"{head}<body>{heading}{section}", encoding="utf-8")
    save_page_picture(page, "timeline.png", width=1120, scratch=scratch, most=900)


def last_checkpoint(run: Path) -> Path:
    return max((run / "checkpoints").glob("step_*"))


def evaluate(policy: Path, root: Path) -> tuple[Path, Path]:
    """(the policy's evaluation, its comparison with the raw prompt), as pages."""
    raw, agent = root / "raw-prompt", root / "agent"
    for out, options in ((raw, ("--agent", "none")), (agent, ("--checkpoint", str(policy)))):
        gensearcher("eval", "nano", "--limit", "96", "--out", str(out), *options)
    gensearcher("compare", str(raw), str(agent))
    return agent / "report.html", agent / f"against_{raw.name}" / "compare.html"


def gensearcher(*arguments: str) -> None:
    command = (sys.executable, "-m", "cluster.cli", *arguments)
    subprocess.run(command, check=True, timeout=RUN_TIMEOUT_S)


def capture_live_screen(root: Path) -> str:
    """The terminal's contents, with colours, while step 3 of a short run is under way."""
    command = (
        f"{sys.executable} -m cluster.cli train --recipe nano run.name=pictures run.root={root} "
        "train.steps=5 train.max_staleness=1 eval.num_tasks=32"
    )
    tmux("new-session", "-d", "-s", SESSION, "-x", str(COLUMNS), "-y", str(ROWS), command)
    kept = ""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    try:
        while time.monotonic() < deadline and is_running():
            seen = tmux("capture-pane", "-e", "-p", "-t", SESSION, check=False)
            if re.search(r"[34] of 5", seen) and "in flight" in seen:
                kept = seen
            time.sleep(0.5)
    finally:
        tmux("kill-session", "-t", SESSION, check=False)
    if not kept:
        raise RuntimeError("the run ended, or took too long, before its screen could be captured")
    return kept


def is_running() -> bool:
    ended = subprocess.run(("tmux", "has-session", "-t", SESSION), capture_output=True, check=False)
    return ended.returncode == 0


def save_terminal_picture(ansi: str, path: Path, *, scratch: Path) -> None:
    """What a terminal showed, as a PNG."""
    lines = ansi.rstrip().splitlines()
    first = max((i for i, line in enumerate(lines) if "gensearcher:" in line), default=0)
    console = Console(record=True, width=COLUMNS, file=(scratch / "ignored").open("w"))
    console.print(Text.from_ansi("\n".join(lines[first:])))
    svg = console.export_svg(title="gensearcher train --recipe nano")
    width, height = (float(n) for n in re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    page = scratch / "screen.html"
    page.write_text(f"<body style='margin:0'>{svg}</body>", encoding="utf-8")
    screenshot(page, path, width=int(width), height=int(height))


def probe_page(page: Path, *, width: int, scratch: Path) -> int:
    """The page's full height in pixels. Raises RuntimeError when something on it is wrong."""
    probe = scratch / "probe.html"
    probe.write_text(page.read_text(encoding="utf-8") + PROBE, encoding="utf-8")
    result = chromium("--dump-dom", f"--window-size={width},1000", probe.as_uri(), scratch=scratch)
    found = re.search(r"PROBE(\{.*?\})END", result.stdout)
    if found is None:
        raise RuntimeError(f"chromium could not load {page}: {result.stderr[-500:]}")
    facts = json.loads(found.group(1))
    errors = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    if facts["broken"] or facts["overflow"] > 0 or errors:
        raise RuntimeError(f"{page} at {width} px: {facts}, console: {errors}")
    return int(facts["height"])


def save_page_picture(
    page: Path, name: str, *, width: int, scratch: Path, most: int = 2600
) -> None:
    """The top `most` pixels of the page. Raises RuntimeError when something on it is wrong."""
    height = probe_page(page, width=width, scratch=scratch)
    screenshot(page, IMAGES / name, width=width, height=min(height, most))


def screenshot(page: Path, path: Path, *, width: int, height: int) -> None:
    with tempfile.TemporaryDirectory(prefix="chromium-") as scratch:
        chromium(
            f"--window-size={width},{height}",
            f"--screenshot={path.resolve()}",
            page.resolve().as_uri(),
            scratch=Path(scratch),
        )


def chromium(*arguments: str, scratch: Path) -> subprocess.CompletedProcess[str]:
    command = ("chromium", *CHROMIUM_FLAGS, f"--user-data-dir={scratch / 'profile'}", *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def tmux(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(("tmux", *arguments), capture_output=True, text=True, check=check)
    return done.stdout


if __name__ == "__main__":
    main()
