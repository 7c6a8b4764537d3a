"""An environment for research: what it shows, and what an idea is worth in it."""

from collections.abc import Callable
from typing import Protocol

from research_env.sandbox.protocol import Resource, SandboxFactory


class ResearchEnv(Protocol):
    def context(self) -> str:
        """Shown to the language model: describes the task."""
        ...

    def value(self, idea: str) -> float:
        """How good the idea is."""
        ...


class AIResearchEnv:
    """Ideas are changes of a codebase, and their value is what the changed code achieves."""

    def __init__(
        self,
        codebase: str,
        resource: Resource,
        sandbox_factory: SandboxFactory,
        judge: Callable[[str, Resource, SandboxFactory], float],
    ):
        self.codebase, self.resource, self.sandbox_factory = codebase, resource, sandbox_factory
        self._judge = judge

    def context(self) -> str:
        return self.codebase

    def value(self, code_diff: str) -> float:
        return self._judge(code_diff, self.resource, self.sandbox_factory)
