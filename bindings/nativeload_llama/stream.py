"""How is something read piece by piece: in a for loop, in an async for loop, and ended early?

One rule: whoever stops reading stops the work: breaking out, close(), a cancelled task and a dropped object all do.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from types import TracebackType
    from typing import Any, Generic, Self, TypeVar

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
        interrupt: ends a step that is under way in another thread.
    """

    def __init__(self, source: Generator[Piece, None, None], interrupt: Callable[[], None]) -> None:
        self._source = source
        self._interrupt = interrupt

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        return next(self._source)

    def close(self) -> None:
        """End the work; what was read stays read."""
        self._source.close()

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

        step = asyncio.ensure_future(asyncio.to_thread(next, self._source, _END))
        try:
            piece = await asyncio.shield(step)
        except asyncio.CancelledError:
            await self._ended(step)
            raise
        if piece is _END:
            raise StopAsyncIteration
        return piece

    async def _ended(self, step: Any) -> None:
        """End a step whose reader is gone, and the work with it."""
        import asyncio

        self._interrupt()
        await asyncio.wait([step])
        if not step.cancelled():
            step.exception()  # seen: it is the interruption
        self.close()

    async def aclose(self) -> None:
        """End the work from a coroutine."""
        import asyncio

        await asyncio.to_thread(self.close)
