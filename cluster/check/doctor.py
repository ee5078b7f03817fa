"""Is everything there that a recipe needs? Asked before anything starts, answered with the mend.

Enters: a Config and a `Machine`. Leaves: one `CheckResult` per check; `refuse_unready` turns the
failed ones into one ConfigError. The checks load no model and start no process; two of them look
further than their arguments: at files, and whether a port answers.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import try_to_load_from_cache

from actors.image_models import api_key_variable, image_model_name, is_api
from cluster.check.machine import GIB, Machine, inspect_machine
from cluster.plan.model_sizes import BYTES, policy_size
from cluster.plan.placement import demands
from cluster.plan.plan import Plan, plan_or_none
from cluster.providers import corpus_path
from core.config import Config, has_secret, ray_address
from core.errors import ConfigError, DataError
from envs.guard import allowed
from rewards.rubrics import load_rubrics

MIN_PYTHON = (3, 11)
CONNECT_TIMEOUT_S = 3.0
DISK_FLOOR_GIB = 1.0
"""For images, logs and caches beside the checkpoints."""
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    name: str
    ok: bool
    detail: str
    """What was found, in one sentence."""
    mend: str = ""
    """What to do about it; "" when ok."""


def diagnose(config: Config, *, recipe: str, machine: Machine) -> tuple[CheckResult, ...]:
    """All checks, in the order in which they are worth mending."""
    plan = plan_or_none(config, recipe=recipe)
    joined = ray_address(config)
    return (
        check_python(machine),
        check_packages(machine),
        check_compiler(config, machine, joined=joined),
        check_gpus(config, plan, machine, joined=joined),
        check_host_memory(plan, machine, joined=joined),
        check_disk(config, machine),
        check_ray(joined),
        check_model_files(config),
        check_dataset(config),
        check_image_model(config),
        check_judge(config),
        check_judge_key(config),
        check_search_key(config),
        check_corpus(config),
        check_named_files(config),
    )


def refuse_unready(config: Config, *, recipe: str) -> None:
    """Raises ConfigError that names every check that failed, each with its mend."""
    refuse(diagnose(config, recipe=recipe, machine=inspect_machine(config.run_dir)))


def refuse(results: Sequence[CheckResult]) -> None:
    """Raises ConfigError that names every check that failed, each with its mend."""
    failed = [result for result in results if not result.ok]
    if failed:
        sentences = "; ".join(f"{one.name}: {one.detail}, so {one.mend}" for one in failed)
        raise ConfigError(f"the recipe cannot run here: {sentences}")


def check_python(machine: Machine) -> CheckResult:
    found = ".".join(map(str, machine.python))
    return _result(
        "python",
        machine.python >= MIN_PYTHON,
        f"this is Python {found}",
        "use Python 3.11 or newer: make setup PYTHON=/path/to/python3.11",
    )


def check_packages(machine: Machine) -> CheckResult:
    if not machine.locked:
        return _result("packages", True, "no lock file beside the code, versions not compared")
    wrong = [
        f"{name} is {machine.installed.get(name, 'missing')} instead of {version}"
        for name, version in machine.locked.items()
        if machine.installed.get(name) != version
    ]
    detail = _some(wrong) if wrong else f"all {len(machine.locked)} packages are as locked"
    return _result("packages", not wrong, detail, "run `make setup`")


def check_compiler(config: Config, machine: Machine, *, joined: str | None) -> CheckResult:
    """vLLM compiles its kernels for a GPU when it starts; for a CPU nothing is compiled."""
    if joined:
        return _result("compiler", True, f"not looked at here, the Ray at {joined} has its own")
    if _gpus_needed(config) == 0:
        return _result("compiler", True, "the recipe needs none")
    detail = f"g++ {'is there' if machine.has_compiler else 'was not found'}, vLLM compiles with it"
    mend = "install it (Debian: apt install g++ python3-dev)"
    return _result("compiler", machine.has_compiler, detail, mend)


def check_gpus(
    config: Config, plan: Plan | None, machine: Machine, *, joined: str | None
) -> CheckResult:
    """Enough GPUs with render replicas at their fewest, and each with enough memory."""
    if joined:
        return _result("gpu", True, f"not looked at here, the actors run on the Ray at {joined}")
    needed = _gpus_needed(config)
    if needed == 0:
        return _result("gpu", True, "the recipe needs none")
    gib = _gpu_gib_needed(plan)
    there = sum(size >= gib for size in machine.gpu_gib)
    each = f" of {gib:.0f} GiB" if gib else ""
    detail = f"at least {needed:g} GPUs{each} are needed, {there} are here"
    mend = "run on such a machine, join a cluster (cluster.address), or take --recipe nano"
    return _result("gpu", there >= needed, detail, mend)


def check_host_memory(plan: Plan | None, machine: Machine, *, joined: str | None) -> CheckResult:
    """The learner's whole state and everything else on one node: what `--plan` adds up."""
    if joined:
        return _result("host_memory", True, f"not looked at here, the Ray at {joined} has its own")
    if plan is None:
        return _result("host_memory", True, "not estimated, the size of the models is not known")
    needed = plan.host_bytes / GIB
    detail = f"about {needed:.0f} GiB are needed, this machine has {machine.memory_gib:.0f}"
    mend = "run the learner on a node with more memory, or train a smaller policy (see --plan)"
    return _result("host_memory", machine.memory_gib >= needed, detail, mend)


def check_disk(config: Config, machine: Machine) -> CheckResult:
    needed = DISK_FLOOR_GIB + checkpoint_gib(config) * (config.train.keep_checkpoints + 1)
    detail = (
        f"{needed:.1f} GiB are needed in {config.run.root} for "
        f"{config.train.keep_checkpoints} checkpoints, {machine.free_disk_gib:.1f} are free"
    )
    mend = "free some, set run.root to a larger disk, or lower train.keep_checkpoints"
    return _result("disk", machine.free_disk_gib >= needed, detail, mend)


def check_ray(address: str | None) -> CheckResult:
    if address is None or address in ("auto", "local"):
        return _result("ray", True, "a Ray of this machine is used")
    if address.startswith("http"):
        detail = f"{address} is the address of a dashboard, which takes jobs but no drivers"
        mend = "submit the run: ray job submit --working-dir . -- gensearcher train --recipe ..."
        return _result("ray", False, detail, mend)
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port is None:
        return _result("ray", False, f"{address!r} is not host:port", "set cluster.address")
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        mend = "start it (ray start --head), or mend cluster.address or RAY_ADDRESS"
        return _result("ray", False, f"nothing answers at {host}:{port} ({error})", mend)
    return _result("ray", True, f"{host}:{port} answers")


def check_model_files(config: Config, *, policy: bool = True, renderer: bool = True) -> CheckResult:
    """Those of the two that are asked for; an image model behind an API has none."""
    wanted = {}
    if policy:
        wanted["policy.path"] = (config.policy.path, "config.json")
    if renderer and not is_api(config.render):
        wanted["render.path"] = (config.render.path, "model_index.json")
    missing = {
        field: path for field, (path, file) in wanted.items() if not _has_model(path, file=file)
    }
    if not missing:
        found = ", ".join(wanted) or "nothing needed"
        return _result("model_files", True, f"here: {found}")
    detail = ", ".join(f"{field} {path} is not here" for field, path in missing.items())
    mends = dict.fromkeys(
        "run `gensearcher nano build`" if "nano" in path else f"run `hf download {path}`"
        for path in missing.values()
    )
    return _result("model_files", False, detail, " and ".join(mends))


def check_dataset(config: Config) -> CheckResult:
    tasks = config.tasks
    if tasks.source == "nano":
        return _result("dataset", True, "the nano world makes its own tasks")
    mend = "download GenSearcher/Train-Data or GenSearcher/KnowGen-Bench and set tasks.path"
    if tasks.path is None or not Path(tasks.path).is_file():
        return _result("dataset", False, f"tasks.path {tasks.path} is not a file", mend)
    # envs.tasks imports much more than the other checks need.
    from envs.tasks import load_rows

    try:
        rows = load_rows(Path(tasks.path))
    except DataError as error:
        return _result("dataset", False, str(error), "mend the file")
    return _result("dataset", True, f"{len(rows)} tasks in {tasks.path}")


def check_image_model(config: Config) -> CheckResult:
    """Of a provider: is it named, and is its key set?"""
    if not is_api(config.render):
        return _result("image_model", True, "it draws on replicas of this run, without a key")
    try:
        name = image_model_name(config.render)
    except ConfigError as error:
        return _result("image_model", False, str(error), "set render.api.model")
    if not (variable := api_key_variable(config.render)):
        return _result("image_model", True, f"{name} is asked without a key")
    return check_key("image_model", variable, name)


def check_judge(config: Config) -> CheckResult:
    """The pixel judge cannot read other pictures than the nano world's."""
    source, kind = config.tasks.source, config.judge.kind
    return _result(
        "judge",
        kind != "pixels" or source == "nano",
        f"judge.kind={kind} grades tasks of tasks.source={source}",
        "set judge.kind=openai and judge.model: pixels reads only the flags of the nano world",
    )


def check_judge_key(config: Config) -> CheckResult:
    judge = config.judge
    if judge.key_variable is None:
        return _result("judge_key", True, f"the judge ({judge.kind}) needs none")
    return check_key("judge_key", judge.key_variable, f"judge {judge.model}")


def check_search_key(config: Config) -> CheckResult:
    """The keys of all providers that the tools may ask."""
    needed = config.tools.needed_keys
    if not needed:
        return _result("search_key", True, "the providers of the tools need none")
    missing = {name: variable for name, variable in needed.items() if not has_secret(variable)}
    shown = missing or needed
    said = ", ".join(f"{variable} for {name}" for name, variable in shown.items())
    exports = " ".join(f"{variable}=..." for variable in missing.values())
    detail = f"{said}: {'not set' if missing else 'set'}"
    return _result("search_key", not missing, detail, f"export {exports} before the run")


def check_corpus(config: Config) -> CheckResult:
    if "local" not in config.tools.providers or config.tools.mode == "replay":
        return _result("corpus", True, "the tools need none of your own")
    path = corpus_path(config.tools)
    detail = f"tools.corpus {path} is {'here' if path.is_file() else 'not here'}"
    return _result("corpus", path.is_file(), detail, "build it: gensearcher corpus build")


def check_named_files(config: Config) -> CheckResult:
    """Read by an actor, whose complaint would come when all others are up."""
    guard, judge = config.tools.guard, config.judge
    canary = judge.canary_file if judge.canary_every else None
    named = {"tools.guard.benchmark": guard.benchmark, "judge.canary_file": canary}
    missing = [
        f"{name} {path}" for name, path in named.items() if path and not Path(path).is_file()
    ]
    if missing:
        detail = f"{', '.join(missing)} is not here"
        return _result("named_files", False, detail, "give the path of the file")
    try:
        allowed(guard.allow)
        load_rubrics(Path(judge.prompt_file) if judge.prompt_file else None)
    except ConfigError as error:
        return _result("named_files", False, str(error), "mend that")
    return _result("named_files", True, "what the guard and the judge are told can be read")


def checkpoint_gib(config: Config) -> float:
    """Policy, and masters and Adam's two moments of what is trained; 0.0 if not known."""
    try:
        policy = policy_size(config.policy.path)
    except ConfigError:
        return 0.0
    state = 3 * 4 * policy.trained_params(config.learner)
    return (policy.params * BYTES[config.policy.dtype] + state) / GIB


def check_key(name: str, variable: str, user: str) -> CheckResult:
    ok = has_secret(variable)
    detail = f"{variable} is {'set' if ok else 'not set'}, {user} needs it"
    return _result(name, ok, detail, f"export {variable}=... before the run")


def _gpus_needed(config: Config) -> float:
    return sum(demand.num_gpus for demand in demands(config))


def _gpu_gib_needed(plan: Plan | None) -> float:
    """Of the fullest kind of GPU; 0.0 when that is not known."""
    places = plan.memory_by_place if plan is not None else {}
    return max((size for where, size in places.items() if where.endswith("GPU")), default=0) / GIB


def _has_model(path: str, *, file: str) -> bool:
    """In a local folder, or in the Hugging Face cache."""
    if (Path(path) / file).is_file():
        return True
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/"))
    return is_hub_id and isinstance(try_to_load_from_cache(path, file), str)


def _some(items: Sequence[str]) -> str:
    rest = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + rest


def _result(name: str, ok: bool, detail: str, mend: str = "") -> CheckResult:
    return CheckResult(name=name, ok=ok, detail=detail, mend="" if ok else mend)
