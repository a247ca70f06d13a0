"""An environment from a stack's configuration, `Pulumi.<stack>.yaml`, and back.

The same checks whether the engine hands the values over or the command line reads the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec

from infra.document import Mapping as DocumentMapping
from infra.document import Scalar, read_document, show
from infra.plan import Environment, NetworkMode, SubstrateKind
from infra.topology import NAME_PATTERN, Criticality, Problem, TopologyError

PROJECT = "threenines"
PROJECT_FOLDER = Path(__file__).resolve().parent
DEFAULT_STACK = "local"
MAX_CONFIG_BYTES = 256 << 10
MAX_SUBNET_INDEX = 255

_FIELDS = {
    "fleet": "fleet",
    "substrate": "substrate",
    "chaos": "chaos",
    "chaosHosts": "chaos_hosts",
    "chaosAgentsShare": "chaos_agents_share",
    "chaosCriticality": "chaos_criticality",
    "failover": "failover",
    "network": "network",
    "stateDir": "state_dir",
    "subnetIndex": "subnet_index",
}
_REQUIRED = ("fleet", "stateDir")


class ConfigError(TopologyError):
    """A stack's configuration that cannot be used; `problems` as for a manifest."""


def load_environment(
    stack: str = DEFAULT_STACK,
    *,
    folder: Path = PROJECT_FOLDER,
    fleet: str | Path | None = None,
    state_dir: str | Path | None = None,
    chaos: bool | None = None,
) -> Environment:
    """The environment of a stack as its file describes it, with what the caller decides otherwise.

    Raises ConfigError (a TopologyError) naming file and line.
    """
    path = config_path(stack, folder)
    document = read_document(path, MAX_CONFIG_BYTES)
    values, lines = _values_of(document, path)
    environment = environment_from(values, stack, base=folder, source=str(path), lines=lines)
    here = Path.cwd()
    changes: dict[str, object] = {}
    if fleet is not None:
        changes["fleet"] = str((here / fleet).resolve())
    if state_dir is not None:
        changes["state_dir"] = str((here / state_dir).resolve())
    if chaos is not None:
        changes["chaos"] = chaos
    return msgspec.structs.replace(environment, **changes)


def config_path(stack: str, folder: Path = PROJECT_FOLDER) -> Path:
    """The configuration file of a stack. Raises ConfigError when the stack's name is none."""
    if not re.fullmatch(NAME_PATTERN, stack):
        raise _error(f"stack {show(stack)}", "is no name", "use a-z, 0-9 and -, beginning with a letter")
    path = folder / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        known = sorted(p.name.split(".")[1] for p in folder.glob("Pulumi.*.yaml"))
        mend = f"known are {', '.join(known)}" if known else f"write {path}"
        raise _error(f"stack {stack}", f"there is no {path}", mend)
    return path


def environment_from(
    values: Mapping[str, str],
    stack: str,
    *,
    base: Path,
    source: str,
    lines: Mapping[str, int] | None = None,
) -> Environment:
    """The environment that configuration values describe; relative paths start at `base`.

    Raises ConfigError with every problem.
    """
    problems: list[Problem] = []

    def wrong(key: str, what: str, mend: str) -> None:
        place = f"{source}:{lines[key]}" if lines and key in lines else source
        problems.append(Problem(f"{place} {PROJECT}:{key}", what, mend))

    for key in values:
        if key not in _FIELDS:
            near = difflib.get_close_matches(key, _FIELDS, n=1, cutoff=0.6)
            wrong(
                key,
                "is no setting",
                f"did you mean {near[0]}?" if near else f"known are {', '.join(_FIELDS)}",
            )
    for key in _REQUIRED:
        if not values.get(key, "").strip():
            wrong(key, "is missing", f"add {PROJECT}:{key}")
    substrate = values.get("substrate", SubstrateKind.PROCESS)
    if substrate not in tuple(SubstrateKind):
        wrong("substrate", f"is {show(substrate)}", f"write {' or '.join(SubstrateKind)}")
    network = values.get("network", NetworkMode.AUTO)
    if network not in tuple(NetworkMode):
        wrong("network", f"is {show(network)}", f"write {' or '.join(NetworkMode)}")
    chaos = values.get("chaos", "false").lower()
    if chaos not in ("true", "false"):
        wrong("chaos", f"is {show(chaos)}", "write true or false")
    chaos_hosts = values.get("chaosHosts", "1")
    if not re.fullmatch("[0-9]{1,3}", chaos_hosts):
        wrong(
            "chaosHosts", f"is {show(chaos_hosts)}", "give the most hosts that faults may disturb, 0 to 999"
        )
    share = values.get("chaosAgentsShare", "1")
    if not re.fullmatch(r"0|1|0?\.[0-9]{1,9}|[01]\.0*", share):
        wrong("chaosAgentsShare", f"is {show(share)}", "give a share of the agents, 0 to 1")
    criticality = values.get("chaosCriticality", Criticality.CRITICAL)
    if criticality not in tuple(Criticality):
        wrong("chaosCriticality", f"is {show(criticality)}", f"write {' or '.join(Criticality)}")
    failover = values.get("failover", "false").lower()
    if failover not in ("true", "false"):
        wrong("failover", f"is {show(failover)}", "write true or false")
    subnet = values.get("subnetIndex", "0")
    if not subnet.isascii() or not subnet.isdigit() or len(subnet) > 4 or int(subnet) > MAX_SUBNET_INDEX:
        wrong("subnetIndex", f"is {show(subnet)}", f"give a whole number from 0 to {MAX_SUBNET_INDEX}")
    for key in ("fleet", "stateDir"):
        if "\0" in values.get(key, ""):
            wrong(key, "holds a NUL character", "give a path")
    if problems:
        raise ConfigError(tuple(problems))
    return Environment(
        stack=stack,
        substrate=substrate,
        chaos=chaos == "true",
        chaos_hosts=int(chaos_hosts),
        chaos_agents_share=float(share),
        chaos_criticality=Criticality(criticality),
        failover=failover == "true",
        fleet=str((base / values["fleet"]).resolve()),
        state_dir=str((base / values["stateDir"]).resolve()),
        network=network,
        subnet_index=int(subnet),
    )


def config_of(environment: Environment) -> dict[str, str]:
    """The configuration values that describe an environment: `environment_from`, reversed."""
    plain = msgspec.to_builtins(environment)
    values = {key: plain[field] for key, field in _FIELDS.items()}
    return {
        key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in values.items()
    }


def _values_of(document: DocumentMapping, path: Path) -> tuple[dict[str, str], dict[str, int]]:
    config = document.entries.get("config")
    if not isinstance(config, DocumentMapping):
        raise _error(f"{path}:{document.line}", "has no config mapping", f"add config: {PROJECT}:fleet: …")
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    for full, node in config.entries.items():
        line = config.key_lines[full]
        space, _, key = full.partition(":")
        if space != PROJECT:
            continue  # another package's setting (pulumi:…): the engine's business
        if not isinstance(node, Scalar) or node.value is None:
            raise _error(
                f"{path}:{line} {full}", "is no single value", "write one value, in quotes if need be"
            )
        value = node.value
        values[key] = str(value).lower() if isinstance(value, bool) else str(value)
        lines[key] = line
    return values, lines


def _error(where: str, what: str, mend: str) -> ConfigError:
    return ConfigError((Problem(where, what, mend),))
