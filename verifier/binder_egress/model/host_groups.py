"""The groups of hosts that tiers may name, from `host_groups.toml`."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class HostGroup:
    """A group; the file says what each field is for."""

    programs: str
    purpose: str = ""
    packages: bool = True
    uploads: bool = False
    hosts: dict[str, str] = field(default_factory=dict)


HOST_GROUPS = {name: HostGroup(**row) for name, row in tomllib.loads(Path(__file__).with_suffix(".toml").read_text()).items()}
"""The groups, in the order of the file."""
