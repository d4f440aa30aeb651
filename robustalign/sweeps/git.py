"""What is checked out where a command was typed."""

from __future__ import annotations

import subprocess


def git_state() -> dict[str, str]:
    """Commit and cleanness of the working directory's repository; empty outside of one or without git."""
    sha = _git("rev-parse", "HEAD")
    if not sha:
        return {}
    dirty = _git("status", "--porcelain", "--untracked-files=no")
    return {"git.sha": sha, "git.dirty": "unknown" if dirty is None else str(bool(dirty)).lower()}


def _git(*arguments: str) -> str | None:
    try:
        process = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return process.stdout.strip()
