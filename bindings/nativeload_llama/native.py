"""Who holds the pointers of one Llama, and when may they be used?

One rule: everything native is used under one lock and freed once: ``with native.entered(): native.context()``. A fork
is noticed, close() works at any time from anywhere, and a long call can be ended by Ctrl-C.
"""

from __future__ import annotations

import _thread
import contextlib
import os

from nativeload_llama import low_level
from nativeload_llama.errors import BusyError, ClosedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from nativeload_llama.low_level import AbortFlag, Adapter, Context, Model


class Native:
    """The model, contexts and adapters of one Llama and the lock under which they are used.

    The lock is C's own: a signal handler cannot come between taking it and knowing who holds it.
    """

    def __init__(self, model: Model, flag: AbortFlag) -> None:
        self.model = model
        self.flag = flag
        self.closed = False
        self.contexts: dict[str, Context] = {}
        self.adapters: list[Adapter] = []
        self._loaded = model.api.loaded
        self.pid = self._loaded.pid
        self.lock = _thread.RLock()
        self.is_mine: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]  # as threading.Condition
        self.worker = 0  # the thread that makes a call for the one that holds the lock
        self.decoding = 0  # the id() of the turn whose step is being taken: a reference would keep what nobody reads
        self.aside: _Aside | None = None  # a call under way in a thread of its own
        self._freed = False
        self.ending = False

    def entered(self) -> _thread.RLock:
        """Return the lock, for a with statement.

        Raises:
            ForkError: another thread of the parent may have held it at the fork.
            BusyError: this thread holds it: a callback, or a signal handler, during a call.
        """
        self._loaded.check_process()
        if self._mine():
            raise BusyError("called from within a call of the same Llama, such as a callback of it")
        return self.lock

    def _mine(self) -> bool:
        return self.is_mine() or (self.worker != 0 and self.worker == _thread.get_ident())

    def check(self) -> None:
        """Refuse to go on with what was closed; the lock is held.

        Raises:
            ClosedError: close() was called.
        """
        if self.ending:
            self._park()
        self._settle()
        if self.closed:
            self._free()
            raise ClosedError("this Llama is closed")

    def context(self, purpose: str = "text") -> Context:
        """Return one of the contexts for the next call; the lock is held.

        Whoever ends a call says so in words of its own before it raises the flag; a flag from before is lowered here,
        and then the words are looked at.

        Raises:
            ClosedError: close() was called.
        """
        self._settle()
        self.flag.clear()
        self.check()
        return self.contexts[purpose]

    def _settle(self) -> None:
        """Wait for a call whose caller was torn away from it, by one Ctrl-C after the other: two must not be in C."""
        aside = self.aside
        if aside is not None and self.worker != _thread.get_ident():
            while aside.begun and not aside.over:
                self.flag.set()
                aside.done.acquire(timeout=0.01)
            self.aside = None
            self.flag.clear()  # it was raised for that call

    def call(self, work: Callable[[], None]) -> None:
        """Make a call that may take long; the lock is held.

        In the main thread it runs in another one, so that Ctrl-C is heard: it ends the call early and is raised.
        """
        if _in_main_thread():
            self._call_aside(work)
        else:
            work()

    def _call_aside(self, work: Callable[[], None]) -> None:
        import threading

        aside = _Aside(self, work)
        # Not _thread's: whoever asks for the current thread there, as logging does, would leave a dummy behind.
        thread = threading.Thread(target=aside.run, name="nativeload: a long call", daemon=True)
        self.aside = aside
        try:
            thread.start()
            aside.done.acquire()
        except BaseException:
            aside.abandoned = True  # said first: a thread that has not begun sees it, and one that has is waited for
            if aside.begun:
                self.flag.set()
                aside.wait()
            raise
        self.aside = None
        thread.join()
        if aside.error is not None:
            raise aside.error

    def close(self) -> None:
        """Free everything: now, or (from a signal handler within a call) with the next call or the object's end."""
        self.closed = True
        if os.getpid() == self.pid:
            self.flag.set()
            if not self._mine():
                with self.lock:
                    self._free()

    def finalize(self) -> None:
        """Free everything at the end of the object or of Python.

        The lock stays held: a daemon thread must not enter C again while libc runs the library's destructors, and one
        that is inside is waited for.
        """
        if os.getpid() != self.pid:
            return
        self.ending = True
        self.flag.set()
        if self.lock.acquire(timeout=60):
            self.closed = True
            self._free()

    def _park(self) -> None:
        """Let the finalizer have the lock and stay here: Python is ending, and this is a daemon thread."""
        self.lock.release()
        forever = _thread.allocate_lock()
        forever.acquire()
        forever.acquire()

    def _free(self) -> None:
        self._settle()
        if self._freed:
            return
        self._freed = True
        while self.contexts:
            low_level.free(self.contexts.popitem()[1])
        while self.adapters:
            low_level.adapter_lora_free(self.adapters.pop())
        low_level.model_free(self.model)


class _Aside:
    """A call in a thread of its own.

    Ctrl-C may come at any step of the thread that starts it, also between the start and the next line: what has begun
    is waited for, and what has not does nothing.
    """

    def __init__(self, native: Native, work: Callable[[], None]) -> None:
        self._native, self._work = native, work
        self.begun = self.abandoned = self.over = False
        self.error: BaseException | None = None
        self.done = _thread.allocate_lock()
        self.done.acquire()

    def run(self) -> None:
        """Make the call, unless nobody waits for it any more."""
        self.begun = True
        try:
            if not self.abandoned:
                self._native.worker = _thread.get_ident()
                self._work()
        except BaseException as error:  # noqa: BLE001 - raised by the thread that waits
            self.error = error
        finally:
            if not self.abandoned or self._native.worker == _thread.get_ident():
                self._native.worker = 0
            self.over = True
            self.done.release()

    def wait(self) -> None:
        """Wait for the end, whatever signals come: it is near. The lock may have been taken just before a signal."""
        while not self.over:
            with contextlib.suppress(BaseException):  # a second Ctrl-C; the first one is being raised
                self.done.acquire(timeout=0.01)


def _in_main_thread() -> bool:
    import threading

    return _thread.get_ident() == threading.main_thread().ident
