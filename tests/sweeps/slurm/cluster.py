"""A real SLURM on one machine: munged, one controller and a few pretended nodes, all in one folder.

Needs root and Debian's packages ``slurmctld slurmd slurm-client munge``; listens on 127.0.0.1 only.
As a command: ``python -m tests.sweeps.slurm.cluster FOLDER`` brings one up, prints what to ``source``, and
takes it down at Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
SECONDS = 60  # that a daemon may take to answer


def missing() -> str | None:
    """Why there can be no cluster here; None if there can."""
    if os.geteuid() != 0:
        return "a test cluster needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (apt-get install {' '.join(PACKAGES)})" if absent else None


def install() -> None:
    """Install Debian's packages, without starting their services."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        if not list(Path("/var/lib/apt/lists").glob("*_Packages*")):
            subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet)
        words = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
        subprocess.run(words, check=True, env=quiet, stdout=subprocess.DEVNULL)
    finally:
        if ours:
            policy.unlink()


class Cluster:
    """``nodes`` nodes of ``cpus`` each; partition ``high`` preempts the default partition ``main``."""

    def __init__(self, folder: Path, nodes: int = 4, cpus: int = 1) -> None:
        self.folder = folder
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self.cpus = cpus
        self.conf = folder / "slurm.conf"
        self.env = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def command(self, *words: str) -> str:
        """The output of a SLURM command."""
        return subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=SECONDS).stdout

    def order(self, *words: str) -> None:
        """Run a SLURM command that has to succeed."""
        subprocess.run(words, env=self.env, capture_output=True, timeout=SECONDS, check=True)

    def lose(self, node: str) -> None:
        """A node dies: its daemon and everything it runs, at once and for good."""
        daemon = self.daemons[node]
        for pid in [daemon.pid, *self._steps(node)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait()

    def restart(self, name: str) -> None:
        """Stop a daemon and start it again; the queue is kept."""
        daemon = self.daemons[name]
        daemon.terminate()
        daemon.wait(SECONDS)
        self._spawn(name, *daemon.args)  # type: ignore[misc]

    def stop(self) -> None:
        """End every job and every daemon that was started here."""
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            self.command("scancel", "--full", "--signal=KILL", "--user=root")
            self.command("scancel", "--user=root")
            deadline = time.monotonic() + 10
            while self.command("squeue", "-h", "-t", "running,completing").strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        left = [pid for node in self.nodes for pid in self._steps(node)]
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()

    def _start(self) -> None:
        for name in ("log", "run", "state", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(256))
        key.chmod(0o600)
        socket_file = self.folder / "run" / "munge.sock"
        files = {"key-file": key, "socket": socket_file, "pid-file": self.folder / "run" / "munged.pid"}
        files |= {"log-file": self.folder / "log" / "munged.log", "seed-file": self.folder / "run" / "munge.seed"}
        (self.folder / "run").chmod(0o755)
        self._spawn("munged", "munged", "--foreground", "--force", *(f"--{k}={v}" for k, v in files.items()))
        self._until("munged", socket_file.exists)
        self.conf.write_text(self._configuration(socket_file))
        (self.folder / "cgroup.conf").write_text("IgnoreSystemd=yes\n")
        self._spawn("slurmctld", "slurmctld", "-D", "-i")
        self._until("slurmctld", lambda: "is UP" in self.command("scontrol", "ping"))
        for node in self.nodes:
            self._spawn(node, "slurmd", "-D", "-N", node)
        self._until("the nodes", lambda: self._ready() == len(self.nodes))

    def _ready(self) -> int:
        counts = self.command("sinfo", "-h", "-p", "main", "-t", "idle,mix,alloc", "-o", "%D").split()
        return sum(map(int, counts))

    def _configuration(self, munge: Path) -> str:
        host = socket.gethostname().partition(".")[0]
        ports = free_ports(1 + len(self.nodes))
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={ports[0]}",
            "SlurmUser=root",
            "SlurmdUser=root",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            # a requeued job may start again after five seconds instead of two minutes
            f"AuthInfo=socket={munge},cred_expire=5",
            "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny",
            "SlurmctldParameters=preempt_send_user_signal",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool/%n",
            f"SlurmctldPidFile={self.folder}/run/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/run/%n.pid",
            f"SlurmctldLogFile={self.folder}/log/slurmctld.log",
            f"SlurmdLogFile={self.folder}/log/%n.log",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SwitchType=switch/none",
            "MpiDefault=none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "MinJobAge=86400",
            "ReturnToService=2",
            "SlurmctldTimeout=30",
            "SlurmdTimeout=15",
            "InactiveLimit=0",
            "KillWait=5",
            "CompleteWait=0",
            "BatchStartTimeout=30",
            "SchedulerType=sched/backfill",
            "SchedulerParameters=sched_min_interval=100000,bf_interval=1",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "PreemptType=preempt/partition_prio",
            "PreemptMode=REQUEUE",
            "JobRequeue=1",
            "SlurmdParameters=config_overrides",
        ]
        for node, port in zip(self.nodes, ports[1:], strict=True):
            where = f"NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
            lines.append(f"NodeName={node} {where} CPUs={self.cpus} RealMemory=4000 State=UNKNOWN")
        everywhere = ",".join(self.nodes)
        common = f"Nodes={everywhere} MaxTime=INFINITE State=UP"
        lines.append(f"PartitionName=main {common} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20")
        lines.append(f"PartitionName=high {common} PriorityTier=10 PreemptMode=OFF")
        return "\n".join(lines) + "\n"

    def _spawn(self, name: str, *words: str) -> None:
        with open(self.folder / "log" / f"{name}.out", "ab") as log:
            self.daemons[name] = subprocess.Popen(
                words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True
            )

    def _until(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not true():
            for name, daemon in self.daemons.items():
                if daemon.poll() is not None:
                    tail = (self.folder / "log" / f"{name}.out").read_text()[-2000:]
                    raise RuntimeError(f"{name} ended with {daemon.returncode}:\n{tail}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} not ready after {SECONDS} s; logs in {self.folder}/log")
            time.sleep(0.1)

    def _steps(self, node: str) -> list[int]:
        """The processes of a node's jobs: SLURM's step daemons of this cluster and everything below them."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if not os.readlink(entry / "exe").endswith("/slurmstepd"):
                    continue
                environment = (entry / "environ").read_bytes().split(b"\0")
                wanted = {f"SLURM_CONF={self.conf}".encode(), f"SLURMD_NODENAME={node}".encode()}
                command = (entry / "cmdline").read_bytes()
                if wanted <= set(environment) or (
                    f"SLURM_CONF={self.conf}".encode() in environment and node.encode() in command
                ):
                    found += [int(entry.name), *descendants(int(entry.name))]
        return found


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, file.read_text().split()):
                found += [child, *descendants(child)]
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    if why := missing():
        sys.exit(why)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore the first
        signal.signal(number, signal.default_int_handler)
    with Cluster(Path(sys.argv[1]).absolute(), cpus=2) as up:
        print(f"export SLURM_CONF={up.conf}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
