"""How is the same work done on several values at once?

One rule: the interpreter's own threads and nothing imported: `threading` and `concurrent.futures` cost more than
hashing a set does.
"""

from __future__ import annotations

import _thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    Given = TypeVar("Given")
    Made = TypeVar("Made")


def in_parallel(work: Callable[[Given], Made], values: Sequence[Given]) -> list[Made]:
    """Return ``work`` of each value, in order, done by this thread and a second one (hashing releases the GIL).

    Raises:
        Exception: the first one, in the order of the values.
    """
    made: dict[int, Made] = {}
    failed: dict[int, BaseException] = {}
    left = list(range(len(values)))
    done = _thread.allocate_lock()

    def help_out() -> None:
        while left:
            try:
                index = left.pop()
            except IndexError:  # the other thread took the last one
                return
            try:
                made[index] = work(values[index])
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                failed[index] = error

    def second() -> None:
        try:
            help_out()
        finally:
            done.release()

    if len(values) > 1:
        done.acquire()
        try:
            _thread.start_new_thread(second, ())
        except RuntimeError:  # no thread to be had: alone, then
            done.release()
    help_out()
    with done:
        pass
    if failed:
        raise failed[min(failed)]
    return [made[index] for index in range(len(values))]
