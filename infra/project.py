"""Where the engine keeps what belongs to a stack, so that `threenines up` and a literal `pulumi up` share it.

Everything lies in `<state directory>/pulumi`: the backend, the engine's home, the passphrase, and a copy of
the project's configuration for each of the two ways, because the engine writes a salt into the file that it
is given and the committed one shall stay as it is.

    . infra/env.sh          # then: cd infra && pulumi up
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from infra.environment import DEFAULT_STACK, PROJECT, PROJECT_FOLDER, config_of, load_environment
from infra.plan import Environment
from infra.tools.paths import tool_environment, tool_path
from infra.topology import TopologyError

COMMAND_TIMEOUT_S = 60.0
KEPT_UPDATES = 20
_COPY_VARIABLE = "THREENINES_CONFIG_COPY"


class ProjectError(Exception):
    """The engine cannot be prepared: where, what, mend."""

    exit_status = 3

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


class StackBusy(ProjectError):
    """Another process is changing the same stack."""


@dataclass(frozen=True)
class Layout:
    """The folders and files of one stack's engine."""

    environment: Environment

    @property
    def root(self) -> Path:
        """Everything of the engine."""
        return Path(self.environment.state_dir) / "pulumi"

    @property
    def home(self) -> Path:
        """The engine's own home: nothing is written to the user's."""
        return self.root / "home"

    @property
    def passphrase(self) -> Path:
        """Made once, readable by its owner alone. No property of a resource is secret today."""
        return self.root / "passphrase"

    @property
    def inline(self) -> Path:
        """The project folder of the Automation API."""
        return self.root / "inline"

    @property
    def literal(self) -> Path:
        """The configuration file that a literal `pulumi` is pointed to."""
        return self.root / f"Pulumi.{self.environment.stack}.yaml"

    @property
    def checkpoint(self) -> Path:
        """The stack's state as the file backend writes it."""
        return self.root / ".pulumi" / "stacks" / PROJECT / f"{self.environment.stack}.json"

    @property
    def history(self) -> Path:
        """What the file backend remembers of every update."""
        return self.root / ".pulumi" / "history" / PROJECT / self.environment.stack

    @property
    def locks(self) -> Path:
        """Where the file backend puts the locks of this stack."""
        return self.root / ".pulumi" / "locks" / "organization" / PROJECT / self.environment.stack

    @property
    def deployed(self) -> Path:
        """The environment that was deployed last: `up` may have been given another fleet than the stack's."""
        return self.root / "deployed.json"

    @property
    def lock(self) -> Path:
        """Our own lock: one change of a stack at a time."""
        return self.root / "lock"


def prepare(environment: Environment) -> Layout:
    """Makes the folders, the passphrase and the copies of the configuration.

    Raises ProjectError when the state directory cannot be written.
    """
    layout = Layout(environment)
    try:
        for folder in (layout.root, layout.home, layout.inline):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not layout.passphrase.exists():
            _write_private(layout.passphrase, secrets.token_urlsafe(32))
        shutil.copyfile(PROJECT_FOLDER / "Pulumi.yaml", layout.inline / "Pulumi.yaml")
        text = yaml.safe_dump({"config": {f"{PROJECT}:{k}": v for k, v in config_of(environment).items()}})
        _write_private(layout.inline / f"Pulumi.{environment.stack}.yaml", text)
    except OSError as error:
        raise ProjectError(
            f"state directory {environment.state_dir}",
            f"cannot be written ({error.strerror})",
            "free space there, or set stateDir to a folder of yours",
        ) from None
    return layout


def record_deployed(environment: Environment) -> None:
    """Writes down what is being deployed, for those who look at the stack afterwards."""
    _write_private(Layout(environment).deployed, msgspec.json.encode(environment).decode())


def deployed_environment(stack: str = DEFAULT_STACK) -> Environment:
    """The environment of the stack as it was deployed last, else as its file says.

    Raises TopologyError.
    """
    environment = load_environment(stack)
    try:
        found = msgspec.json.decode(Layout(environment).deployed.read_bytes(), type=Environment)
    except (OSError, msgspec.DecodeError):
        return environment
    return found if found.state_dir == environment.state_dir else environment


def _write_private(path: Path, text: str) -> None:
    """Replaces the file in one step: a crash leaves the old one or the new one."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def variables(layout: Layout) -> dict[str, str]:
    """The environment in which the engine works on this stack: without downloads, with our backend."""
    env = {key: value for key, value in tool_environment().items() if not key.startswith("PULUMI_OPTION_")}
    env["PULUMI_BACKEND_URL"] = f"file://{layout.root}"
    env["PULUMI_HOME"] = str(layout.home)
    env["PULUMI_FALLBACK_TO_STATE_SECRETS_MANAGER"] = "true"
    # A refresh tells every difference from what was recorded, also one that leaves nothing to mend: a unit
    # that was killed and started again by its supervisor.
    env["PULUMI_ENABLE_LEGACY_REFRESH_DIFF"] = "true"
    # The backend keeps a copy of every checkpoint otherwise; the history of updates stays.
    env["PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS"] = "true"
    if "PULUMI_CONFIG_PASSPHRASE" not in env and "PULUMI_CONFIG_PASSPHRASE_FILE" not in env:
        env["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(layout.passphrase)
    return env


@contextlib.contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Holds the stack for one change. Raises StackBusy naming the holder's process."""
    with layout.lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip() or "unknown"
            raise _busy(layout, holder) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        release_dead_locks(layout)
        mend_checkpoint(layout)
        _prune_history(layout)
        yield


def _busy(layout: Layout, pid: str) -> StackBusy:
    stack = layout.environment.stack
    return StackBusy(
        f"stack {stack}", f"is being changed by process {pid}", f"wait for it, or end process {pid}"
    )


def release_dead_locks(layout: Layout) -> tuple[str, ...]:
    """Removes the engine's own locks whose holders are gone (after a SIGKILL) and names them.

    Raises StackBusy when one of the holders lives.
    """
    released = []
    for path in sorted(layout.locks.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
            pid, machine = int(content["pid"]), str(content["hostname"])
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError):
            pid, machine = 0, ""  # cut short: its writer died while writing
        if machine not in ("", socket.gethostname()):
            raise _busy(layout, f"{pid} on {machine}")
        if _is_engine(pid):
            raise _busy(layout, str(pid))
        path.unlink(missing_ok=True)
        released.append(path.name)
    return tuple(released)


def mend_checkpoint(layout: Layout) -> tuple[str, ...]:
    """Undoes what a SIGKILL in the middle of a write left of the state, and names the files.

    The backend replaces a checkpoint in one step but writes its sidecar (`.attrs`) in place, and refuses the
    whole stack when that is empty. Without a sidecar it works. Call it when no engine is at work.
    """
    mended = []
    folder = layout.checkpoint.parent
    for sidecar in (*folder.glob("*.attrs"), *(layout.root / ".pulumi").glob("*.attrs")):
        if not _is_json(sidecar):
            sidecar.unlink(missing_ok=True)
            mended.append(sidecar.name)
    backup = folder / f"{layout.checkpoint.name}.bak"
    if layout.checkpoint.exists() and not _is_json(layout.checkpoint) and _is_json(backup):
        shutil.copyfile(backup, part := folder / f"{layout.checkpoint.name}.part")
        part.replace(layout.checkpoint)
        mended.append(layout.checkpoint.name)
    return tuple(mended)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return True


def _is_engine(pid: int) -> bool:
    try:
        return b"pulumi" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
    except OSError:
        return False


def pending_operations(layout: Layout) -> int:
    """How many operations of a killed engine the checkpoint still counts as under way."""
    return len(_checkpoint_list(layout, "pending_operations"))


def recorded_resources(layout: Layout) -> int:
    """How many resources of ours the checkpoint holds."""
    types = [str(entry.get("type", "")) for entry in _checkpoint_list(layout, "resources")]
    return sum(not kind.startswith("pulumi:") for kind in types)


def _checkpoint_list(layout: Layout, key: str) -> list[dict[str, object]]:
    try:
        latest = json.loads(layout.checkpoint.read_bytes())["checkpoint"]["latest"]
        return [entry for entry in latest.get(key) or () if isinstance(entry, dict)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _prune_history(layout: Layout) -> None:
    """The backend keeps a whole checkpoint for every update, for ever: keep the newest."""
    entries: dict[str, list[Path]] = {}
    for path in layout.history.glob(f"{layout.environment.stack}-*"):
        entries.setdefault(path.name.partition(".")[0], []).append(path)
    for update in sorted(entries)[:-KEPT_UPDATES]:
        for path in entries[update]:
            path.unlink(missing_ok=True)


def check_configuration() -> None:
    """Stops a literal `pulumi up` whose copy of the configuration is not what the folder says any more."""
    import pulumi

    from infra.program import configured_environment

    if not os.environ.get(_COPY_VARIABLE):
        return
    stack = pulumi.get_stack()
    try:
        if load_environment(stack) == configured_environment():
            return
        what = f"{PROJECT}: infra/Pulumi.{stack}.yaml: was changed since infra/env.sh was read; read it again"
    except TopologyError as error:
        what = "\n".join(f"{PROJECT}: {problem}" for problem in error.problems)
    raise pulumi.RunError(what)


def shell_lines(stack: str) -> list[str]:
    """What a shell evaluates so that a literal `pulumi` works on the stack; makes the stack if need be.

    Raises TopologyError, ProjectError and what `infra.tools.paths` raises.
    """
    environment = load_environment(stack)
    layout = prepare(environment)
    try:
        shutil.copyfile(layout.inline / f"Pulumi.{stack}.yaml", layout.literal)
    except OSError as error:
        raise ProjectError(
            str(layout.literal), f"cannot be written ({error.strerror})", "free space"
        ) from None
    env = variables(layout)
    if not layout.checkpoint.exists():
        _init_stack(layout, env)
    with contextlib.suppress(StackBusy):
        release_dead_locks(layout)
        mend_checkpoint(layout)
    env["PULUMI_STACK"] = stack
    env["PULUMI_OPTION_CONFIG_FILE"] = str(layout.literal)
    env[_COPY_VARIABLE] = "1"
    changed = {key: value for key, value in env.items() if os.environ.get(key) != value}
    return [f"export {key}={shlex.quote(value)}" for key, value in sorted(changed.items())]


def _init_stack(layout: Layout, env: dict[str, str]) -> None:
    argv = [str(tool_path("pulumi")), "stack", "init", layout.environment.stack, "--non-interactive"]
    try:
        done = subprocess.run(
            argv,
            cwd=layout.inline,
            env=env,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProjectError(
            f"stack {layout.environment.stack}", "took too long to make", "try again"
        ) from None
    if done.returncode != 0 and not layout.checkpoint.exists():
        raise ProjectError(
            f"stack {layout.environment.stack}",
            f"could not be made: {' '.join(done.stderr.split())[:300]}",
            "mend that",
        )


def main(argv: list[str]) -> int:
    """`python -m infra.project [STACK]` prints what `infra/env.sh` evaluates."""
    try:
        print("\n".join(shell_lines(argv[0] if argv else DEFAULT_STACK)))
    except TopologyError as error:
        for problem in error.problems:
            print(f"{PROJECT}: {problem}", file=sys.stderr)
        return 3
    except (ProjectError, LookupError, msgspec.MsgspecError) as error:
        print(f"{PROJECT}: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
