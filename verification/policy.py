"""What an environment asks for before a release goes there. The data stand in `policies/*.yaml`."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path

import msgspec

from reports.model import Evidence
from verification.catalogue import Catalogue

SCHEMA = "threenines.policy/1"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must be proven, and which evidence may prove it.

    `categories`: each category has to reach its threshold. `must`: rows that have to be proven whatever the
    thresholds say. A pass counts when it comes from one of `environments` (the first is where to measure),
    by one of `profiles`, as one of the classes of `evidence`, is not older than `fresh_for_days`, and its
    commit lies at most `commits_behind` (by profile; 0 unless named) behind the released one.
    """

    environment: str
    about: str
    categories: bool
    must: tuple[str, ...]
    environments: tuple[str, ...]
    profiles: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    fresh_for_days: float
    commits_behind: dict[str, int]
    expected_minutes: dict[str, float]
    schema: str


class PolicyError(Exception):
    """A policy that cannot be used: where, what, mend."""

    exit_status = 64

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


def known() -> tuple[str, ...]:
    """Environments that have a policy."""
    folder = resources.files(__package__).joinpath("policies")
    return tuple(
        sorted(one.name.removesuffix(".yaml") for one in folder.iterdir() if one.name.endswith(".yaml"))
    )


def load_policy(environment: str, catalogue: Catalogue) -> Policy:
    """The policy of an environment. Raises PolicyError."""
    names = known()
    if environment not in names:
        near = difflib.get_close_matches(environment, names, n=1)
        mend = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
        raise PolicyError(f"environment {environment}", "has no policy", mend)
    text = resources.files(__package__).joinpath("policies", f"{environment}.yaml").read_bytes()
    return parse_policy(text, f"policy {environment}", catalogue)


def read_policy(path: Path, catalogue: Catalogue) -> Policy:
    """A policy of one's own. Raises PolicyError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise PolicyError(str(path), f"cannot be read ({error.strerror})", "name a policy's file") from error
    return parse_policy(text, str(path), catalogue)


def parse_policy(text: bytes, where: str, catalogue: Catalogue) -> Policy:
    """A policy that fits the catalogue. Raises PolicyError."""
    try:
        policy = msgspec.yaml.decode(text, type=Policy)
    except msgspec.MsgspecError as error:
        raise PolicyError(where, f"is no policy ({error})", "compare it with that of production") from error
    problem = _problem(policy, catalogue)
    if problem is not None:
        raise PolicyError(where, problem, "mend the policy")
    return policy


def _problem(policy: Policy, catalogue: Catalogue) -> str | None:
    if policy.schema != SCHEMA:
        return f"is {policy.schema!r}; this version reads {SCHEMA}"
    rows = {entry.row for entry in catalogue.criteria}
    unknown = [row for row in policy.must if row not in rows]
    if unknown:
        return f"asks for {', '.join(unknown)}, which no requirement is called"
    if not policy.categories and not policy.must:
        return "asks for nothing, so that anything would pass"
    if not policy.environments or not policy.profiles:
        return "lets no environment or no profile count"
    if not set(policy.evidence) or Evidence.NONE in policy.evidence or Evidence.SIMULATED in policy.evidence:
        return "has to name classes of evidence, and neither none nor simulated"
    if not 0.0 < policy.fresh_for_days <= 366.0:
        return "fresh_for_days has to lie between 0 and 366"
    if any(behind < 0 for behind in policy.commits_behind.values()):
        return "commits_behind is negative"
    if any(not minutes > 0.0 for minutes in policy.expected_minutes.values()):
        return "expected_minutes has to be above 0"
    return None
