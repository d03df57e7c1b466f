"""Several threads on one engine: whoever needs a token steps it, and hands out what belongs to others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Any

from intact._native import Engine

Event = tuple[int, int, int, "int | None", "list[tuple[int, int]]", "str | None"]


class Dispatcher:
    """Shares one engine between sessions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._changed = Condition()
        self._stepping = False
        self._sessions: dict[int, Session] = {}

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A group of requests; those that are not finished at the end are cancelled."""
        session = Session(self)
        try:
            yield session
        finally:
            session.close()

    def add(self, session: Session, prompt: list[int], settings: dict[str, Any]) -> int:
        """Starts a request for a session."""
        with self._changed:
            while self._stepping:
                self._changed.wait()
            request = self._engine.add(prompt, **settings)
            self._sessions[request] = session
            return request

    def end(self, request: int, stream: int | None) -> None:
        """Ends a request, or one of its continuations."""
        with self._changed:
            if stream is None:
                self._sessions.pop(request, None)
            self._engine.cancel(request, stream)

    def wait(self, session: Session) -> None:
        """Returns when the session has events; steps the engine unless another thread is doing so."""
        with self._changed:
            while not session.queue and self._stepping:
                self._changed.wait()
            if session.queue:
                return
            self._stepping = True
        events: list[Event] = []
        try:
            events = self._engine.step()
        finally:
            with self._changed:
                self._stepping = False
                for event in events:
                    owner = self._sessions.get(event[0])
                    if owner is not None:
                        owner.queue.append(event)
                self._changed.notify_all()


class Session:
    """The requests of one call."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._requests: list[int] = []
        self.queue: deque[Event] = deque()

    def add(self, prompt: list[int], **settings: Any) -> int:
        """Starts a request and returns its number."""
        request = self._dispatcher.add(self, prompt, settings)
        self._requests.append(request)
        return request

    def end(self, request: int, stream: int) -> None:
        """Ends one continuation early; ending one that is over does nothing."""
        self._dispatcher.end(request, stream)

    def events(self) -> Iterator[Event]:
        """The events so far, at least one; runs the engine where there is none."""
        while not self.queue:
            self._dispatcher.wait(self)
        while self.queue:
            yield self.queue.popleft()

    def close(self) -> None:
        """Cancels what is not finished."""
        for request in self._requests:
            self._dispatcher.end(request, None)
