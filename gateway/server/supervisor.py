"""Starts what a node runs, keeps it running, and ends it without dropping a request.

    SIGTERM, SIGINT   stop: the last stage first, each drained and gone before the one below is asked
    SIGINT again      hurry: kill what still drains
    SIGHUP            roll: for each program that tells when it is ready, start a new one, wait, drain the old one

Programs come in stages, started bottom up and at once, stopped top down: the recorder lies below the workers, so
it still runs when the last of them writes its last usage rows. What dies unasked is started again at once; what
keeps dying, ever more rarely, for a start costs a second of a core. A worker may ask to be replaced (it grew, or served
its share): that is a roll of one. Plain synchronous Python on one thread: there is nothing here to go wrong at 3 a.m.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from gateway.server.child import ROLL, Child, Program

logger = logging.getLogger(__name__)

STEADY_S = 10.0  # lived this long and was ready: the next death counts as the first
PAUSE_MAX_S = 60.0
GRACE_S = 5.0  # beyond the drain time, before SIGKILL
HURRY_S = 2.0
ROLL_DEADLINE_S = 60.0
FAILURES_MAX = 3  # of a program that never was ready, before we give up
TICK_S = 0.5


def pause_s(deaths: int) -> float:
    """How long to wait before the next start, after so many deaths in a row: 0, 0.5, 1, 2, … 60."""
    return 0.0 if deaths <= 1 else min(0.5 * 2 ** (deaths - 2), PAUSE_MAX_S)


class Slot:
    """The place of one program: the child that fills it, the one about to, and those that are leaving."""

    def __init__(self, program: Program, stage: int) -> None:
        self.program = program
        self.stage = stage
        self.child: Child | None = None
        self.successor: Child | None = None
        self.leaving: list[Child] = []
        self.deaths = 0  # in a row
        self.due_s: float | None = None  # when to start again
        self.was_ready = False

    @property
    def children(self) -> list[Child]:
        return [child for child in (self.child, self.successor, *self.leaving) if child is not None]

    @property
    def ready(self) -> bool:
        return self.child is not None and self.child.ready


class Supervisor:
    """`run()` returns the exit status when everything has ended.

    `on_ready` is called once, when every program is ready, and not any more when stopping has begun, at which `on_stop`
    is; `on_exit` with the process id of each that ended; `tick` twice a second.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Program]],
        *,
        drain_timeout_s: float,
        drain_delay_s: float = 0.0,
        hangup: Literal["roll", "stop"] = "roll",
        on_ready: Callable[[], None] | None = None,
        on_stop: Callable[[], None] | None = None,
        on_exit: Callable[[int], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._slots = [Slot(program, stage) for stage, programs in enumerate(stages) for program in programs]
        self._drain_timeout_s = drain_timeout_s
        self._drain_delay_s = drain_delay_s
        self._hangup = hangup
        self._on_ready = on_ready
        self._on_stop = on_stop
        self._on_exit = on_exit
        self._tick = tick
        self._tick_s = 0.0
        self._stopping: int | None = None  # the stage that is being stopped; those above it have ended
        self._hurried = False
        self._rolling: deque[Slot] = deque()
        self._status = 0
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        with self._signals():
            for slot in self._slots:
                self._start(slot)
            try:
                while self._stopping is None or self._stopping >= 0:
                    self._wait()
                    self._reap()
                    self._restart_due()
                    self._roll()
                    self._kill_overdue()
                    self._stop_stages()
            finally:  # an error of ours must not leave anybody behind
                for child in self._children():
                    child.kill()
        return self._status

    def stop(self) -> None:
        if self._stopping is not None:
            return
        logger.info("stopping")
        self._rolling.clear()
        self._stopping = max((slot.stage for slot in self._slots), default=-1)
        if self._on_stop is not None:
            self._on_stop()

    # Waiting: for a signal, a ready worker, or the next thing that is due

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals become bytes in a pipe that `_wait` reads, so they interrupt nothing and are never lost."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        earlier = {number: signal.signal(number, lambda *_: None) for number in numbers}
        earlier_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        self._selector.register(read_fd, selectors.EVENT_READ)
        try:
            yield
        finally:
            signal.set_wakeup_fd(earlier_fd)
            for number, handler in earlier.items():
                signal.signal(number, handler)
            self._selector.close()
            os.close(read_fd)
            os.close(write_fd)

    def _wait(self) -> None:
        for key, _ in self._selector.select(self._timeout_s()):
            if isinstance(key.data, Child):
                if not key.data.hear():
                    self._selector.unregister(key.fd)
                    key.data.close()
                self._note_ready()
                self._note_recycling(key.data)
            else:
                for number in os.read(key.fd, 4096):
                    self._heed(number)
        if self._tick is not None and time.monotonic() >= self._tick_s:
            self._tick()
            self._tick_s = time.monotonic() + TICK_S

    def _timeout_s(self) -> float | None:
        due = [slot.due_s for slot in self._slots] + [child.kill_at_s for child in self._children()]
        due += [child.started_s + ROLL_DEADLINE_S for slot in self._rolling if (child := slot.successor)]
        due += [self._tick_s] if self._tick is not None else []
        return max(0.0, min(moments) - time.monotonic()) if (moments := [at for at in due if at is not None]) else None

    def _heed(self, number: int) -> None:
        if number == signal.SIGINT and self._stopping is not None:
            self._hurried = True
            for child in self._children():
                if child.kill_at_s is not None:
                    child.end(time.monotonic())
        elif number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGHUP and self._hangup == "stop"):
            self.stop()
        elif number == signal.SIGHUP and self._stopping is None:
            self._rolling.extend(slot for slot in self._slots if slot.program.tells_ready and slot not in self._rolling)

    def _note_ready(self) -> None:
        for slot in self._slots:
            slot.was_ready = slot.was_ready or slot.ready
        if self._on_ready is not None and self._stopping is None and all(slot.ready for slot in self._slots):
            self._on_ready()
            self._on_ready = None

    def _note_recycling(self, child: Child) -> None:
        """A worker that asks, and still asks after a roll that failed, is queued behind the others: one at a time."""
        if not child.wants_recycling:
            return
        child.wants_recycling = False
        for slot in self._slots:
            if slot.child is child and self._stopping is None and slot not in self._rolling:
                logger.info("%s asks to be replaced", child)
                self._rolling.append(slot)

    # Starting and restarting

    def _start(self, slot: Slot) -> None:
        slot.child = self._spawn(slot, "wait")
        slot.due_s = None if slot.child else time.monotonic() + PAUSE_MAX_S
        self._note_ready()

    def _spawn(self, slot: Slot, kind: Literal["roll", "wait"]) -> Child | None:
        program = slot.program
        others_serve = any(other.ready for other in self._slots if other.stage == slot.stage)
        try:
            child = Child(program, must_serve=kind if others_serve else "")
        except OSError as error:  # no memory, no process or descriptor left: what runs must go on running
            logger.error("%s cannot be started: %s", program.name, error)
            return None
        if child.ready_fd >= 0:
            self._selector.register(child.ready_fd, selectors.EVENT_READ, child)
        logger.debug("%s started", child)
        return child

    def _reap(self) -> None:
        for slot in self._slots:
            for child in slot.children:
                if child.ended:
                    self._remove(slot, child)

    def _remove(self, slot: Slot, child: Child) -> None:
        if child.ready_fd >= 0:
            self._selector.unregister(child.ready_fd)
            child.close()
        if self._on_exit is not None:
            self._on_exit(child.pid)
        if child in slot.leaving:
            slot.leaving.remove(child)
        elif child is slot.successor:
            slot.successor = None
            self._rolling.clear()
            logger.error("%s %s before it was ready: the old one stays", child, child.reason)
        else:
            slot.child, slot.successor = slot.successor, None
            if child.kill_at_s is None:
                self._note_death(slot, child)

    def _note_death(self, slot: Slot, child: Child) -> None:
        lived_s = time.monotonic() - child.started_s
        slot.deaths = 1 if child.ready and lived_s >= STEADY_S else slot.deaths + 1
        if slot.deaths >= FAILURES_MAX and not slot.was_ready:
            logger.error("%s %s, the %d. time, and never was ready: giving up", child, child.reason, slot.deaths)
            self._status = 1
            self.stop()
        elif slot.child is None:
            wait_s = pause_s(slot.deaths)
            slot.due_s = time.monotonic() + wait_s
            when = f"in {wait_s:g} s" if wait_s else "now"
            logger.warning("%s %s after %.1f s: starting again %s", child, child.reason, lived_s, when)

    def _restart_due(self) -> None:
        for slot in self._slots:
            stopping = self._stopping is not None and slot.stage >= self._stopping
            if slot.due_s is not None and not stopping and time.monotonic() >= slot.due_s:
                self._start(slot)

    # Rolling: one program after another, the old one leaves when the new one is ready

    def _roll(self) -> None:
        while self._rolling:
            slot = self._rolling[0]
            if slot.child is None:  # it died just now: the new start is as good as a roll
                self._rolling.popleft()
            elif slot.successor is None:
                slot.successor = self._spawn(slot, "roll")
                if slot.successor is None:
                    self._rolling.clear()
            elif slot.successor.ready:
                slot.child.end(time.monotonic() + self._drain_timeout_s + GRACE_S, ROLL)
                slot.leaving.append(slot.child)
                slot.child, slot.successor = slot.successor, None
                logger.info("%s took over", slot.child)
                self._rolling.popleft()
            else:
                if time.monotonic() > slot.successor.started_s + ROLL_DEADLINE_S:
                    slot.successor.kill()
                return

    # Stopping

    def _stop_stages(self) -> None:
        """Asks the stage that is due; goes down to the next one when it is empty."""
        while self._stopping is not None and self._stopping >= 0:
            slots = [slot for slot in self._slots if slot.stage >= self._stopping]
            for slot in slots:
                slot.due_s = None
            children = [child for slot in slots for child in slot.children]
            limit_s = HURRY_S if self._hurried else self._drain_delay_s + self._drain_timeout_s + GRACE_S
            for child in children:
                if child.kill_at_s is None:
                    child.end(time.monotonic() + limit_s)
            if children:
                return
            self._stopping -= 1

    def _kill_overdue(self) -> None:
        for child in self._children():
            if child.kill_at_s is not None and time.monotonic() >= child.kill_at_s:
                logger.warning("%s did not end in time: killing it", child)
                child.kill()
                child.kill_at_s = time.monotonic() + GRACE_S  # not again at once: it may be in the kernel for a while

    def _children(self) -> list[Child]:
        return [child for slot in self._slots for child in slot.children]
