"""What a test of faults found."""

import dataclasses
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Finding:
    """The outcome of one test.

    Attributes:
      passed: None where it could not be done here.
      figures: what was counted and measured.
      problems: what was not as it must be, or why the test could not be done.
    """

    passed: bool | None
    figures: dict[str, Any]
    problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, problems: list[str], **figures: Any) -> "Finding":
        """Passed where there are no problems; the first ten are kept."""
        return cls(not problems, figures, tuple(problems[:10]))

    @classmethod
    def impossible(cls, reason: str) -> "Finding":
        """Could not be done here."""
        return cls(None, {}, (reason,))


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a test works, and how much of it.

    Attributes:
      directory: empty at first, gone afterwards.
      cache: of data and compiled programs, shared by all tests.
      quick: a small part of the long form.
    """

    directory: Path
    cache: Path
    quick: bool

    def fresh(self, name: str) -> Path:
        """A directory in it that does not exist yet; its parent does."""
        return self.directory / name
