"""Runs that are trained together: each goes its own way, and where several ask for the same work, it is done at once."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import copy_context
from typing import Any, ClassVar, Generic, TypeVar

import torch

A = TypeVar("A")
CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Question(ABC, Generic[A]):
    """A piece of work of one run, to which the answer is the same whoever else asks.

    weight: of several kinds the lightest is answered first.
    """

    weight: ClassVar[int] = 0

    @abstractmethod
    def key(self) -> Hashable | None:
        """Questions of a class with equal keys can be answered as one; None where it is to be answered by itself."""

    @abstractmethod
    def alone(self) -> A:
        """The answer to this question."""

    @classmethod
    @abstractmethod
    def together(cls, questions: Sequence[Any]) -> "list[A | Exception]":
        """The answers to questions with equal keys, one or more, in their order; an exception is what `alone` would raise."""


class Company:
    """Who is asked; by default nobody else is there, and each question is answered alone.

    ``away``: seconds by each of `CLOCKS` that passed for others since the run began: not its own time.
    """

    def __init__(self) -> None:
        self.away = dict.fromkeys(CLOCKS, 0.0)

    def ask(self, question: Question[A]) -> A:
        """The answer; raises what the question raises."""
        return question.alone()

    def shares(self, question: Question[Any]) -> bool:
        """Whether it is answered for all who ask the same."""
        return False

    def now(self, clock: str) -> float:
        """A clock that stands still while others work."""
        return CLOCKS[clock]() - self.away[clock]

    def share(self, key: Hashable, make: Callable[[], A]) -> A:
        """What is the same for all with this key, and none changes: made once for them."""
        return make()


class _Dismissed(BaseException):
    """Ends a run whose company broke up; nothing catches it, and what it owns is let go."""


class _Member(Company):
    """A run in company: it works in a thread of its own, but only when it is its turn, and waits where it asks."""

    def __init__(self, task: Callable[[Company], Any], shared: dict[Hashable, Any]) -> None:
        super().__init__()
        self._shared = shared
        self._task, self._turn, self._over = task, threading.Semaphore(0), threading.Semaphore(0)
        self._dismissed = False
        self._left = {name: clock() for name, clock in CLOCKS.items()}  # when it was its turn last
        self.asked: tuple[Hashable, Question[Any]] | None = None  # under what kind and key
        self.threads = 1  # that its computations take
        self.answer: Any = None  # an exception is raised where it was asked
        self.result: Any = None
        self.failed: BaseException | None = None
        self.ended = False
        # In the context of who carries it out: what that one holds while it waits is held for the run, too.
        threading.Thread(target=copy_context().run, args=(self._work,), daemon=True).start()

    def go_on(self, share: Mapping[str, float]) -> None:
        """Its turn, until it asks the next question or ends. share: its part of the time that the answer took."""
        for name, clock in CLOCKS.items():
            self.away[name] += clock() - self._left[name] - share.get(name, 0.0)
        self._turn.release()
        self._over.acquire()
        self._left = {name: clock() for name, clock in CLOCKS.items()}
        if self.failed is not None and not self._dismissed:
            raise self.failed

    def dismiss(self) -> None:
        """End it where it waits."""
        self._dismissed = True
        while not self.ended:
            self.go_on({})

    def ask(self, question: Question[A]) -> A:
        if (key := question.key()) is None:
            if self._dismissed:
                raise _Dismissed
            return question.alone()
        # Each thread of a process has a number of its own.
        self.threads = torch.get_num_threads()
        self.asked = (type(question), key, self.threads), question
        self._over.release()
        self._turn.acquire()
        self.asked = None
        if self._dismissed:
            raise _Dismissed
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: A = self.answer
        return answer

    def shares(self, question: Question[Any]) -> bool:
        return question.key() is not None

    def share(self, key: Hashable, make: Callable[[], A]) -> A:
        if key not in self._shared:
            self._shared[key] = make()
        found: A = self._shared[key]
        return found

    def _work(self) -> None:
        self._turn.acquire()
        try:
            self.result = None if self._dismissed else self._task(self)
        except BaseException as error:
            self.failed = error
        self.ended = True
        self._over.release()


def carried_together(tasks: Sequence[Callable[[Company], A]]) -> list[A]:
    """The results of runs that are carried out in company, in their order.

    Of the threads in which they work exactly one goes on at a time, so that they disturb each other no more than runs one
    after another: each reseeds a generator before it draws. The questions in which they agree are answered at once, in this
    thread: those that take little first, so that runs which are not as far come to the same place.

    Raises:
        whatever a task raised, once all others have ended where they were.
    """
    shared: dict[Hashable, Any] = {}
    members = [_Member(task, shared) for task in tasks]
    try:
        for member in members:
            member.go_on({})
        while any(member.asked for member in members):
            _answer(members)
    finally:
        for member in members:
            member.dismiss()
    return [member.result for member in members]


def _answer(members: Sequence[_Member]) -> None:
    """The questions of the lightest kind; all who asked them go on."""
    waiting = [(member, *member.asked) for member in members if member.asked is not None]
    lightest = min(question.weight for _, _, question in waiting)
    groups: dict[Hashable, list[tuple[_Member, Question[Any]]]] = {}
    for member, key, question in waiting:
        if question.weight == lightest:
            groups.setdefault(key, []).append((member, question))
    for group in groups.values():
        began = {name: clock() for name, clock in CLOCKS.items()}
        questions = [question for _, question in group]
        torch.set_num_threads(group[0][0].threads)
        try:
            answers = questions[0].together(questions)
        except Exception as error:
            answers = [error] * len(group)
        share = {name: (clock() - began[name]) / len(group) for name, clock in CLOCKS.items()}
        for (member, _), answer in zip(group, answers, strict=True):
            member.answer = answer
            member.go_on(share)
