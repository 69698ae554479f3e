"""Which instructions are in a file's x86-64 code, and how does control get from one to another?

One rule: code is decoded from the first byte of each executable section to its last, and every jump in it leads to an
instruction. Skipped are the jump tables that MSVC and Apple's clang put between functions (an instruction names each,
and each of its entries leads to one shortly before it) and the zeros that Apple's linker pads with. A byte that is none
of these is a LoadError. Where published files have an unwind table, every function it lists begins with an instruction.
"""

from __future__ import annotations

import bisect
import struct
import sys
from array import array

from nativeload.errors import ConfigError, LoadError
from nativeload.publish.sections import open_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from types import ModuleType

    from iced_x86 import Decoder, Instruction

    from nativeload.publish.sections import Image, Section

_MOST_EXPORTS = 1 << 20  # a DLL that exports all it has: 23,034
_NO_TABLE = 1 << 64
_FROM_BASE, _FROM_TABLE = "base", "table"
_ENTRY = 4  # bytes
_MOST_TABLES = 1 << 13  # named in one section; in real ones up to 264
_WIDEST_FUNCTION = 1 << 20  # bytes; how far before a table the code may lie that it leads to
_ALIGNMENT = 16  # bytes, of functions, and at most of the tables of one function
_GOES_ON, _BRANCHES, _MAY_BE_PADDING = range(3)


def iced() -> ModuleType:
    """Import iced_x86.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import iced_x86
    except ImportError as e:
        raise ConfigError("publish", "iced-x86 is not installed", hint="Run: pip install 'nativeload[publish]'") from e
    return iced_x86


class Code:
    """The decoded code of one file. Addresses are relative to its image base.

    Attributes:
        image: the file it was read from; only its headers may be used once it is closed.
        starts: the address of every instruction, ascending.
        found: iced's code number -> the addresses of the instructions of that kind.
        flows: iced's code number -> whether instructions of that kind branch.
        sources: the address of an instruction -> those of the jumps and calls that lead to it.
        pointed: addresses that an instruction computes or that PE exports: code there may be called from anywhere.
        named: the addresses of data that an instruction names, relative to its own, and does not just compare.
        contents: the address of each section of data -> its bytes.
        pointers: the addresses that stand in the data: in tables of functions, symbol tables, relocations.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.starts = array("Q")
        self.found: dict[int, array[int]] = {}
        self.flows: dict[int, int] = {}
        self.sources: dict[int, list[int]] = {}
        self.pointed: set[int] = set(_exported(image))
        self.named: set[int] = set()
        # Device code is no data of the host's; .pdata lists every function, called through a pointer or not.
        self.contents = {
            s.address: image.content(s)
            for s in image.sections
            if s.address and not s.executable and not s.name.startswith((".nv", ".pdata"))
        }
        self.pointers = set(_pointers(image, self.contents))
        self._parts: list[tuple[int, int, Decoder]] = []
        for section in sorted(image.sections, key=lambda s: s.address):
            if section.executable and section.size:
                _Sweep(self, section).run()
        for target, sources in self.sources.items():
            if not self.has(target) and any(start <= target < end for start, end, _ in self._parts):
                raise LoadError(image.path, f"undecodable code: {sources[0]:#x} leads into the middle of {target:#x}")

    def decoder_of(self, data: bytes, address: int) -> Decoder:
        """Make the decoder of one section, which ``at`` will use too."""
        decoder: Decoder = iced().Decoder(64, data, ip=address)
        self._parts.append((address, address + len(data), decoder))
        return decoder

    def at(self, address: int) -> Instruction:
        """Decode the instruction at an address that is in ``starts`` or that a branch leads to."""
        for start, end, decoder in self._parts:
            if start <= address < end:
                decoder.position, decoder.ip = address - start, address
                return decoder.decode()
        nothing: Instruction = iced().Instruction()
        return nothing  # it leads out of the code: an invalid instruction

    def has(self, address: int) -> bool:
        """Does an instruction begin at this address?"""
        index = bisect.bisect_left(self.starts, address)
        return index < len(self.starts) and self.starts[index] == address

    def before(self, address: int) -> Instruction | None:
        """Return the instruction that ends where this one begins."""
        index = bisect.bisect_left(self.starts, address) - 1
        found = self.at(self.starts[index]) if index >= 0 else None
        return found if found is not None and found.next_ip == address else None


def read_code(path: str | os.PathLike[str]) -> Code:
    """Decode all machine code of an x86-64 file.

    Raises:
        LoadError: it is no such file, has no code, or not all of its code can be decoded.
        ConfigError: iced-x86 is not installed.
    """
    iced()
    with open_image(path) as image:
        if image.machine != "x86_64":
            raise LoadError(image.path, f"{image.machine} code, not x86-64")
        code = Code(image)
    if not code.starts:
        raise LoadError(image.path, "none of its sections holds code")
    return code


def _exported(image: Image) -> tuple[int, ...]:
    """Return the addresses that a PE file exports. ELF's symbol table is data that holds them as they are."""
    if not image.exports:
        return ()
    count, table = struct.unpack("<20x I 4x I 8x", image.loaded(image.exports, 40))
    if count > _MOST_EXPORTS:
        raise LoadError(image.path, f"damaged: it claims {count} exports")
    return struct.unpack(f"<{count}I", image.loaded(table, 4 * count)) if count else ()


def _pointers(image: Image, contents: dict[int, bytes]) -> Iterator[int]:
    """Yield the addresses in the data that lie in the image."""
    end = max((section.address + section.memory for section in image.sections), default=0)
    for start, data in contents.items():
        aligned = data[-start % 8 :]
        words = array("Q", aligned[: len(aligned) // 8 * 8])
        if sys.byteorder != "little":
            words.byteswap()
        yield from (word - image.base for word in words if image.base < word < image.base + end)


class _Sweep:
    """One pass over one section."""

    def __init__(self, code: Code, section: Section) -> None:
        self.code, self.path = code, code.image.path
        self.data = code.image.content(section)
        self.start, self.end = section.address, section.address + len(self.data)
        self.decoder = code.decoder_of(self.data, self.start)
        self.tables: dict[int, str] = {}  # address of a table ahead -> what its entries count from
        self.readers: dict[int, int] = {}  # address of a table -> the first instruction that reads it
        self.indexes: set[int] = set()  # addresses of what may be tables of bytes, each an index into the table before
        self.registers: dict[int, int] = {}  # register -> the address in this section that was last put into it
        self.limit = _MOST_TABLES

    def run(self) -> None:
        """Decode all of the section but its tables and its padding."""
        at = self.start
        while at < self.end:
            self.decoder.position, self.decoder.ip = at - self.start, at
            at = self.stretch()

    def stretch(self) -> int:
        """Decode up to the next table or padding; return where code goes on."""
        x86, code = iced(), self.code
        found, flows, starts, sources = code.found, code.flows, code.starts, code.sources
        rip, none, table = x86.Register.RIP, x86.Register.NONE, min(self.tables, default=_NO_TABLE)
        for instruction in self.decoder:
            address, kind = instruction.ip, instruction.code
            if address >= table:
                return self.skip(table, address)
            flow = flows.get(kind)
            if flow is None:
                flow = self.first_of(instruction)
            if flow == _BRANCHES:
                sources.setdefault(instruction.near_branch_target, []).append(address)
            elif instruction.memory_base == rip:
                self.name(instruction)
            elif instruction.memory_index != none and self.reads_table(instruction):
                table = min(self.tables)
            elif flow == _MAY_BE_PADDING and (after := self.padding(address)):
                return after
            starts.append(address)
            found[kind].append(address)
        return self.end

    def first_of(self, instruction: Instruction) -> int:
        """Note what instructions of this kind do."""
        x86, kind = iced(), instruction.code
        flow = x86.FlowControl
        if instruction.is_invalid:
            raise LoadError(self.path, f"undecodable code at {instruction.ip:#x}")
        self.code.found[kind] = array("Q")
        if instruction.flow_control in {flow.UNCONDITIONAL_BRANCH, flow.CONDITIONAL_BRANCH, flow.CALL}:
            self.code.flows[kind] = _BRANCHES
        else:
            self.code.flows[kind] = _MAY_BE_PADDING if kind == x86.Code.ADD_RM8_R8 else _GOES_ON
        return self.code.flows[kind]

    def padding(self, address: int) -> int | None:
        """Return where the zeros end that Apple's linker puts between functions; None where these are no such."""
        flow = iced().FlowControl
        after = -(-address // _ALIGNMENT) * _ALIGNMENT
        if after == address or any(self.data[address - self.start : after - self.start]) or not self.code.starts:
            return None
        before = self.code.starts[-1]
        last = iced().Decoder(64, self.data[before - self.start : address - self.start], ip=before).decode()
        ends = {flow.RETURN, flow.UNCONDITIONAL_BRANCH, flow.INDIRECT_BRANCH, flow.EXCEPTION, flow.CALL}
        return after if last.flow_control in ends else None

    def name(self, instruction: Instruction) -> None:
        """Note the address that an instruction names relative to its own."""
        x86, target = iced(), instruction.memory_displacement
        if self.start <= target < self.end:
            self.code.pointed.add(target)
            self.registers[instruction.op0_register] = target
        elif instruction.mnemonic not in {x86.Mnemonic.CMP, x86.Mnemonic.TEST}:
            self.code.named.add(target)

    def reads_table(self, instruction: Instruction) -> bool:
        """Does it read from a table that lies ahead? MSVC adds the table's address, clang takes it from a register."""
        x86, address = iced(), instruction.ip
        base, table, scale = instruction.memory_base, instruction.memory_displacement, instruction.memory_index_scale
        if scale == 1 and instruction.mnemonic == x86.Mnemonic.MOVZX and address < table < self.end:
            self.count()
            self.indexes.add(table)
        if scale != _ENTRY or base == x86.Register.NONE:
            return False
        kind = _FROM_BASE
        if not table and instruction.mnemonic == x86.Mnemonic.MOVSXD:
            table, kind = self.registers.get(base, 0), _FROM_TABLE
        if table in self.readers:  # what the table lists is reached from here by way of the first one
            self.code.sources.setdefault(self.readers[table], []).append(address)
            return False
        if table <= address or self.target(table, table, kind) is None:
            return False
        self.count()
        self.tables[table], self.readers[table] = kind, address
        if kind == _FROM_BASE and table - _ENTRY > address and self.target(table - _ENTRY, table, kind) is not None:
            self.tables[table - _ENTRY], self.readers[table - _ENTRY] = kind, address  # std::variant has an index of -1
        return True

    def count(self) -> None:
        self.limit -= 1
        if self.limit < 0:
            raise LoadError(self.path, "undecodable code: it names too many tables")

    def target(self, at: int, table: int, kind: str) -> int | None:
        """Return where an entry leads; None where it does not lead into the code shortly before its table."""
        if not self.start <= at <= self.end - _ENTRY:
            return None
        value: int = struct.unpack_from("<i", self.data, at - self.start)[0]
        target = value if kind == _FROM_BASE else value + table
        return target if max(self.start, table - _WIDEST_FUNCTION) <= target < table else None

    def skip(self, table: int, reached: int) -> int:
        """Return where code goes on after a table that was reached, and those that follow it."""
        at, entries = table, 0
        first = self.target(table, table, self.tables[table])
        if (reached != table or first is None or not self.code.has(first)) and table + _ENTRY in self.tables:
            del self.tables[table]  # no index of -1 after all
            return reached
        while at in self.tables or at in self.indexes:
            following = min((other for other in (*self.tables, *self.indexes) if other > at), default=_NO_TABLE)
            if at in self.tables:
                start, at = at, self.lead(at, following)
                entries = (at - start) // _ENTRY
            else:
                self.indexes.remove(at)
                while at < min(following, self.end) and self.data[at - self.start] < entries:
                    at += 1
            if at < following < at + _ALIGNMENT:
                at = following  # code before both names it: the tables of one function lie together
        if not entries or reached != table:
            raise LoadError(self.path, f"undecodable code at {at:#x}")
        return at

    def lead(self, table: int, end: int) -> int:
        """Note that the code which reads a table may lead to all that it lists; return where it ends."""
        at, kind = table, self.tables.pop(table)
        while at < end and (target := self.target(at, table, kind)) is not None and self.code.has(target):
            self.code.sources.setdefault(target, []).append(self.readers[table])
            at += _ENTRY
        return at
