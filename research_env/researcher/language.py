"""A language model as researcher: one asks it for ideas, and for the changes that carry them out.

Whatever comes of a wish is told: an idea whose change never applies, or an answer that holds no
idea, goes into the bank as it is, where it ends as `patch_failed`. Only what has been had before is
dropped, and then another is asked for.
"""

import contextlib
import dataclasses
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

from research_env.bank import Bank, Idea
from research_env.env import Environment
from research_env.researcher import context, executor, ideator, quoting
from research_env.researcher.asking import Bill, Model, Spent
from research_env.researcher.changes import Codebase, Files, NotApplied
from research_env.researcher.ideator import NoIdea, Thought
from research_env.researcher.interface import BASELINE, EXPLOIT, Proposal, Want
from research_env.researcher.known import Known
from research_env.researcher.wording import Wording
from sbp_jax.config import ResearchConfig
from sbp_jax.errors import UserError
from sbp_jax.inference.engine import EngineDied

_PATIENCE = 5  # wishes in a row
_TALK = 1_000  # tokens of complaints and frames beside context and answers


class Language:
    """A `Researcher`. May be called from several threads."""

    def __init__(
        self,
        env: Environment,
        models: Sequence[Model],
        wording: Wording,
        effort: ResearchConfig,
        seed: int = 0,
    ):
        assert models
        self._env, self._wording, self._seed = env, wording, seed
        self._effort = effort
        self._models = {model.name: model for model in models}
        self._first = models[0]
        self._code = Codebase(env)
        self._known = Known(self._code, effort.max_similarity)
        self._lock = threading.Lock()
        # Ideas of a call that no wish has been given yet, under the wish that they answer, with
        # what their author was shown; and who is about to ask for more.
        self._left: dict[Want, deque[tuple[Thought, str, str]]] = defaultdict(deque)
        self._asking: dict[Want, threading.Lock] = defaultdict(threading.Lock)
        self._owed = Bill()  # for wishes that nothing came of
        self._silent = 0  # wishes in a row that were not answered at all

    @property
    def record(self) -> Mapping[str, object]:
        """What the ideas depend on, for the bank's `meta`."""
        return {
            "models": list(self._models),
            "prompts": self._wording.hash,
            "effort": dataclasses.asdict(self._effort),
        }

    def close(self) -> None:
        for model in self._models.values():
            model.close()

    def propose(self, bank: Bank, want: Want) -> Proposal | None:
        """None where all that came was had before; `BudgetSpent` where there is none for more."""
        model, bill = self._models.get(want.model, self._first), Bill()
        model.purse.begin(lambda: _spent(bank))
        with self._answerable(bill):
            for attempt in range(2):
                seed = f"{self._seed} {want.wish} {attempt}"
                try:
                    thought, said, shown = self._thought(bank, want, model, seed, bill)
                except NoIdea:
                    return None
                try:
                    written = self._written(bank, want, model, thought, seed, bill, said)
                finally:
                    self._known.release(thought.whole)
                if written.refused:
                    continue
                if written.diff == executor.EMPTY:
                    thought = thought._replace(text=f"{thought.text}\n\n({written.reason})")
                parents = tuple(idea.id for idea in self._parents(bank, want))
                proposal = Proposal(thought.title, thought.text, written.diff, parents, want.kind)
                spent = self._paid(bill)
                return proposal._replace(
                    author=model.name, cost=spent.cost, tokens=spent.tokens, context=shown
                )
        return None

    def repair(self, proposal: Proposal, error: str) -> Proposal | None:
        """Of what ran and failed. A change that never applied was revised before it came here."""
        try:
            start = self._code.changed(self._code.original, proposal.diff)
        except NotApplied:
            return None
        model, bill = self._models.get(proposal.author, self._first), Bill()
        refusal = self._known.correction(start)
        said = quoting.block("output", quoting.plain(error, executor.REASON))
        task = self._wording.fill("repair", reason=said)
        seed = f"{self._seed} repair {proposal.diff} {error}"
        with self._answerable(bill):
            written = self._asked_for(model, proposal, start, (), task, seed, bill, refusal, 1)
            if written.applied:
                spent = bill.take()
                return proposal._replace(diff=written.diff, cost=spent.cost, tokens=spent.tokens)
        return None

    def _thought(
        self, bank: Bank, want: Want, model: Model, seed: str, bill: Bill
    ) -> tuple[Thought, str, str]:
        """An idea, claimed; the answer that held none, in that case; what its author was shown."""
        alike = want._replace(wish=0)
        with self._lock:
            asking, left = self._asking[alike], self._left[alike]
        with asking:  # who wishes for the same waits for what the other gets
            if not left:
                left.extend(self._new_thoughts(bank, want, model, seed, bill))
            return left.popleft()

    def _new_thoughts(
        self, bank: Bank, want: Want, model: Model, seed: str, bill: Bill
    ) -> list[tuple[Thought, str, str]]:
        count = self._effort.ideas

        def filled(packed: str, task: str) -> str:
            return self._wording.fill("ideate", context=packed, task=task, count=str(count))

        parents = [idea.id for idea in self._parents(bank, want)]
        task = self._wording.fill(want.kind)
        room = self._room(model, filled("", task))
        start = self._start(bank, want)
        prompt = filled(context.for_ideas(self._env, start, bank, want, room, model.count), task)
        try:
            found = ideator.ideas(
                model,
                self._wording,
                prompt,
                count,
                seed,
                bill,
                lambda thought: self._known.claim(bank, thought.whole, but=parents),
                self._effort.retries,
            )
        except NoIdea as error:
            self._unanswered(model, error)
            if error.repeated:
                raise
            thought = Thought("no idea", f"The model's answer held no idea: {error}")
            said = executor.unreadable("The answer that held no idea:", error.said)
            return [(thought, said, prompt)]
        self._unanswered(model)
        return [(thought, "", prompt) for thought in found]

    def _written(
        self,
        bank: Bank,
        want: Want,
        model: Model,
        thought: Thought,
        seed: str,
        bill: Bill,
        said: str,
    ) -> executor.Written:
        if said:
            return executor.Written(said, False)
        parents = self._parents(bank, want)
        refusal = self._known.change(bank)
        start = self._start(bank, want)
        others = parents[1:] if start is not self._code.original else parents
        idea = Proposal(thought.title, thought.text, "")
        task = self._wording.fill("programme")
        samples = self._effort.samples
        return self._asked_for(model, idea, start, others, task, seed, bill, refusal, samples)

    def _asked_for(
        self,
        model: Model,
        idea: Proposal,
        start: Files,
        others: Sequence[Idea],
        task: str,
        seed: str,
        bill: Bill,
        refusal: executor.Refusal,
        samples: int,
    ) -> executor.Written:
        words = quoting.block("idea", quoting.plain(f"{idea.title}\n\n{idea.text}", ideator.TEXT))
        frame = self._wording.fill("implement", context="", idea=words, task=task)
        packed = context.for_change(self._env, start, others, self._room(model, frame), model.count)
        prompt = self._wording.fill("implement", context=packed, idea=words, task=task)
        revisions = self._effort.revisions
        return executor.write(
            model, self._wording, prompt, self._code, start, seed, bill, refusal, samples, revisions
        )

    def _start(self, bank: Bank, want: Want) -> Files:
        """The code that an idea changes: the first parent's, where there is one to build on."""
        parents = self._parents(bank, want)
        if parents:
            try:
                return self._code.changed(self._code.original, parents[0].diff)
            except NotApplied:
                pass  # the environment has changed since
        return self._code.original

    def _parents(self, bank: Bank, want: Want) -> list[Idea]:
        if want.kind != EXPLOIT:
            return []
        ideas = map(bank.idea, want.parents)
        return [idea for idea in ideas if idea.kind != BASELINE]

    def _room(self, model: Model, frame: str) -> int:
        """Tokens of context that a prompt may hold, so that one can complain of its answer."""
        manner = model.manner
        thinking = manner.forcing.most if manner.forcing else 0
        answers = 2 * manner.answer_tokens + thinking + _TALK
        return self._effort.context_tokens - answers - model.count(frame)

    @contextlib.contextmanager
    def _answerable(self, bill: Bill) -> Iterator[None]:
        """What no proposal has paid for the next one does, so that the bank's sums are right."""
        try:
            yield
        except EngineDied as error:
            raise UserError(f"{error}; mend that, and go on with the same command") from error
        finally:
            with self._lock:
                self._owed.add(bill.take())

    def _paid(self, bill: Bill) -> Spent:
        with self._lock:
            return bill.take().plus(self._owed.take())

    def _unanswered(self, model: Model, failure: NoIdea | None = None) -> None:
        """A search whose model says nothing would otherwise go on to its end."""
        with self._lock:
            self._silent = self._silent + 1 if failure and failure.refused else 0
            if self._silent >= _PATIENCE:
                raise UserError(f"{model.name} answers no more: {failure}")


def _spent(bank: Bank) -> Spent:
    """In earlier starts of this search."""
    ideas = bank.ideas()
    cost = sum(idea.cost or 0.0 for idea in ideas) + bank.get("refused_cost", 0.0)
    return Spent(sum(idea.tokens or 0 for idea in ideas), cost)
