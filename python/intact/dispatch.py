"""One engine for several threads: a thread of its own runs it, the others hand it work and wait for their events.

Ctrl-C interrupts Python's main thread at any point. The engine's thread is never interrupted, so no token of one caller
is lost because another was stopped.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from intact._native import Engine
from intact.errors import DeviceError

Event = tuple[int, int, int, int | None, list[tuple[int, int]], str | None]
"""Request, stream, token, its log-probability, the most likely tokens with theirs, "stop" or "length" at the end."""

_Result = TypeVar("_Result")


def start(function: Callable[[], _Result]) -> Callable[[], _Result]:
    """Runs `function` in a thread of its own; what is returned waits for its result, or raises its error."""
    done: SimpleQueue[tuple[_Result, None] | tuple[None, BaseException]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((function(), None))
        except BaseException as error:
            done.put((None, error))

    def result() -> _Result:
        value, error = done.get()
        if error is not None:
            raise error
        return cast("_Result", value)

    threading.Thread(target=run, name="intact-start", daemon=True).start()
    return result


class Dispatcher:
    """Shares one engine between sessions. The engine's thread ends when the dispatcher is collected."""

    def __init__(self, engine: Engine) -> None:
        self._runner = _Runner(engine)
        thread = threading.Thread(target=self._runner.run, name="intact-engine", daemon=True)
        thread.start()
        weakref.finalize(self, _stop, self._runner, thread)

    def call(self, function: Callable[[Engine], _Result]) -> _Result:
        """The result of `function(engine)`, which runs between two steps."""
        return self._runner.call(lambda: self._runner.rescued(lambda: function(self._runner.engine)))

    def move(self, adapter: str | None, offload: int, rescue: Callable[[str], None] | None) -> None:
        """Goes on on a GPU adapter but for the last layers, or on the CPU for None, with everything on its way.

        Where that device fails later, `rescue`, if any, is told why, and everything goes on on the CPU.
        """

        def move() -> None:
            self._runner.engine.to(adapter, offload)
            self._runner.rescue = rescue

        self._runner.call(move)

    def session(self) -> Session:
        """A group of requests; what is left of them when the `with` block ends is cancelled."""
        return Session(self._runner)


class Session(AbstractContextManager["Session"]):
    """The requests of one caller."""

    def __init__(self, runner: _Runner) -> None:
        self._runner = runner
        self._events: SimpleQueue[Event | BaseException] = SimpleQueue()

    def add(self, requests: Iterable[tuple[list[int], dict[str, Any]]]) -> list[int]:
        """Starts requests, each a prompt with the engine's settings, and returns their numbers."""
        return self._runner.call(lambda: self._runner.add(requests, self._events))

    def event(self) -> Event:
        """The next event of these requests; waits for it."""
        event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self, request: int, stream: int) -> None:
        """Ends one continuation; an event of it may still come."""
        self._runner.jobs.put(lambda: self._runner.engine.cancel(request, stream))

    def receipt(self, request: int, lengths: list[int]) -> bytes | None:
        """The receipt of a request whose continuations are all over, each cut to that many tokens."""
        return self._runner.call(lambda: self._runner.engine.take_receipt(request, lengths))

    def __exit__(self, *exception: object) -> None:
        self._runner.jobs.put(lambda: self._runner.cancel(self._events))


class _Runner:
    """What the engine's thread works on. It must not refer to the dispatcher, whose end is the thread's."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # A SimpleQueue stays whole wherever a signal or the garbage collector interrupts its user.
        self.jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._owners: dict[int, SimpleQueue[Event | BaseException]] = {}
        self.rescue: Callable[[str], None] | None = None

    def run(self) -> None:
        """Does the jobs, and between them runs the engine as long as it has work."""
        while True:
            while self.engine.idle() or not self.jobs.empty():
                job = self.jobs.get()
                if job is None:
                    return
                job()
                del job  # it refers to its caller, who may not be kept alive while this thread waits
            self._step()

    def call(self, function: Callable[[], _Result]) -> _Result:
        """Runs a function on the engine's thread and returns its result or raises its exception here."""
        reply: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def job() -> None:
            try:
                reply.put((function(), None))
            except BaseException as error:
                reply.put((None, error))

        self.jobs.put(job)
        result, error = reply.get()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]

    def add(
        self, requests: Iterable[tuple[list[int], dict[str, Any]]], events: SimpleQueue[Event | BaseException]
    ) -> list[int]:
        """Starts requests whose events go to one queue."""
        numbers = []
        for prompt, settings in requests:
            number = self.engine.add(prompt, **settings)
            self._owners[number] = events
            numbers.append(number)
        return numbers

    def cancel(self, events: SimpleQueue[Event | BaseException]) -> None:
        """Ends all requests whose events go to this queue."""
        for number in [number for number, owner in self._owners.items() if owner is events]:
            self._end(number)
            del self._owners[number]

    def _end(self, number: int) -> None:
        self.engine.cancel(number)
        self.engine.take_receipt(number, [])  # nobody else will

    def rescued(self, function: Callable[[], _Result]) -> _Result:
        """The result of a function, which runs again on the CPU where the device fails and may be left."""
        try:
            return function()
        except DeviceError as error:
            if self.rescue is None or self.engine.device == "cpu":
                raise
            self.engine.start_again()
            self.rescue(str(error))
            return function()

    def _step(self) -> None:
        try:
            events = self.rescued(self.engine.step)
        except BaseException as error:
            # A step runs everyone's tokens, so its failure is everyone's.
            for number, owner in self._owners.items():
                self._end(number)
                owner.put(error)
            self._owners.clear()
            return
        for event in events:
            if event[0] in self._owners:
                self._owners[event[0]].put(event)


def _stop(runner: _Runner, thread: threading.Thread) -> None:
    runner.jobs.put(None)
    # The interpreter may not end under a thread that is inside the engine. The collector may run on that very thread.
    if thread is not threading.current_thread():
        thread.join()
