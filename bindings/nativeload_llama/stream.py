"""How is something read piece by piece: in a for loop, in an async for loop, and ended early?

One rule: whoever stops reading stops the work: breaking out, close(), a cancelled task and a dropped object all do.
"""

from __future__ import annotations

import _thread
import time

from nativeload_llama.errors import BusyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator
    from types import TracebackType
    from typing import Any, Generic, Self, TypeVar

    from nativeload_llama.generation import Turn

    Piece = TypeVar("Piece")

    class _Pieces(Iterator[Piece], AsyncIterator[Piece], Generic[Piece]):
        """What a stream is to a type checker; `import typing` costs more than the rest of this module."""
else:

    class _Pieces:
        def __class_getitem__(cls, _: object) -> type:
            return cls


_END: Any = object()


class Stream(_Pieces["Piece"]):
    """Pieces as they come: ``for piece in stream``, or ``async for piece in stream``.

    An async reader does not block its event loop: each step runs in a thread, and a cancelled task ends the step.

    Args:
        source: what makes the pieces.
        turn: whose turn it is while they are made.
    """

    def __init__(self, source: Generator[Piece, None, None], turn: Turn) -> None:
        self._source, self._turn = source, turn

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        self._turn.reader = None
        return next(self._source)

    def close(self) -> None:
        """End the work, also in the middle of a step that another thread takes; what was read stays read.

        Raises:
            BusyError: called from within a step of this stream, such as by a callback.
        """
        while True:
            try:
                self._source.close()
            except ValueError:  # it is running
                if self._turn.thread == _thread.get_ident():
                    raise BusyError("a stream cannot be closed from within its own step") from None
                self._turn.cancel()
                time.sleep(0.002)
            else:
                break
        self._turn.over = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        import asyncio

        turn = self._turn
        turn.reader = asyncio.current_task()
        while not (turn.over or turn.native.closed or turn.session.taken(turn)):  # noqa: ASYNC110 - threads end turns too
            await asyncio.sleep(0.002)
        step = asyncio.ensure_future(asyncio.to_thread(next, self._source, _END))
        try:
            piece = await asyncio.shield(step)
        except asyncio.CancelledError:
            turn.cancel()
            await asyncio.wait([step])
            if not step.cancelled():
                step.exception()  # seen: it is the cancellation
            self.close()
            raise
        if piece is _END:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the work from a coroutine."""
        import asyncio

        await asyncio.to_thread(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
