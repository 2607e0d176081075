"""Repositories of the Hugging Face hub as people name them: `hf:OWNER/REPOSITORY[@REVISION]`."""

import re
from dataclasses import dataclass

HUB_PREFIX = "hf:"
HUB_FORM = f"{HUB_PREFIX}OWNER/REPOSITORY[@REVISION]"

_REPOSITORY = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubRepository:
    """A repository of models, and the branch, tag or commit that is meant; None is its main branch."""

    id: str
    revision: str | None = None

    @classmethod
    def named(cls, text: str) -> "HubRepository":
        """That of `hf:OWNER/REPOSITORY[@REVISION]`; raises ValueError if `text` has another form."""
        found = _REPOSITORY.fullmatch(text.removeprefix(HUB_PREFIX))
        if found is None or not text.startswith(HUB_PREFIX):
            raise ValueError(f"{text} names no repository of the hub: write {HUB_FORM}")
        return cls(found["id"], found["revision"])

    @property
    def name(self) -> str:
        """Without its owner."""
        return self.id.rpartition("/")[2]

    @property
    def is_commit(self) -> bool:
        """Whether its files can never change."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def __str__(self) -> str:
        return self.id + (f" at {self.revision}" if self.revision else "")
