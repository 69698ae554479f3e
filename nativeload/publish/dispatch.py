"""Does an instruction run only on processors that were asked whether they have it?

One rule: it does when every way back from it, over jumps and calls, comes through the right side of a test of a
variable that code after a CPUID instruction writes. Where a way back is lost, the answer is no.

That is how a C runtime linked into a DLL, and MSVC's vectoriser, use AVX2 in files that run without it: each such place
compares ``__isa_available`` first. The answer does not say which of the processor's features was asked for.
"""

from __future__ import annotations

from nativeload.publish.machine_code import iced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from iced_x86 import Instruction

    from nativeload.publish.machine_code import Code

_LONGEST_WAY = 20_000  # instructions
_MOST_STEPS = 5_000_000  # instructions, for one file
_LONGEST_DETECTION = 4096  # instructions after a CPUID; __isa_available_init has 190
_LONGEST_BLOCK = 64  # instructions between a test and the jump that it decides


class Dispatch:
    """What one file asks of the processor.

    Attributes:
        variables: the addresses that code after a CPUID writes to.
        detection: the addresses of the instructions that follow a CPUID within its function.
    """

    def __init__(self, code: Code) -> None:
        self.code, self.x86 = code, iced()
        self.variables: set[int] = set()
        self.detection: set[int] = set()
        self._guarded: set[int] = set()
        self._entries = code.pointed | code.pointers
        self._steps = _MOST_STEPS
        r = self.x86.Register
        self._volatile = {r.RAX, r.RCX, r.RDX, r.R8, r.R9, r.R10, r.R11}  # lost in a call on every system
        self._facts = self.x86.InstructionInfoFactory()
        if code.image.format != "macho":  # its pointers are encoded, so that a way to a function could be missed
            for start in code.found.get(self.x86.Code.CPUID, ()):
                self._follow(start)

    def guards(self, address: int) -> bool:
        """Is this instruction reached through a test of the processor only?"""
        if not self.variables:
            return False
        if address not in self._guarded:
            self._guarded |= self._walk(address, self._available) or set()
        return address in self._guarded

    def _follow(self, start: int) -> None:
        """Note what the code after a CPUID writes, up to the end of its function; calls are not followed."""
        x86, flow = self.x86, self.x86.FlowControl
        ahead, steps = [start], _LONGEST_DETECTION
        while ahead and steps:
            instruction = self.code.at(address := ahead.pop())
            if address in self.detection or instruction.is_invalid:
                continue
            steps -= 1
            self.detection.add(address)
            if instruction.op0_kind == x86.OpKind.MEMORY and instruction.is_ip_rel_memory_operand:
                self._note(instruction)
            kind = instruction.flow_control
            if kind in {flow.CONDITIONAL_BRANCH, flow.UNCONDITIONAL_BRANCH}:
                ahead.append(instruction.near_branch_target)
            if kind in {flow.NEXT, flow.CONDITIONAL_BRANCH, flow.CALL, flow.INDIRECT_CALL}:
                ahead.append(instruction.next_ip)

    def _note(self, instruction: Instruction) -> None:
        x86, address = self.x86, instruction.memory_displacement
        if instruction.mnemonic in {x86.Mnemonic.MOV, x86.Mnemonic.OR, x86.Mnemonic.AND}:
            self.variables.update(range(address, address + x86.MemorySizeExt.size(instruction.memory_size)))

    def _walk(self, address: int, settles: Callable[[Instruction, bool], bool | None]) -> set[int] | None:
        """Go back on every way until it is settled; return the instructions passed, None where one way is not."""
        seen: set[int] = set()
        back, ends = [address], 0
        while back:
            at = back.pop()
            if at in seen:
                continue
            seen.add(at)
            self._steps -= 1
            ways = self._ways_to(at)
            if not ways or len(seen) > _LONGEST_WAY or self._steps < 0:
                return None
            for instruction, taken in ways:
                settled = settles(instruction, taken)
                if settled is False:
                    return None
                if settled is None:
                    back.append(instruction.ip)
                else:
                    ends += 1
        return seen if ends else None

    def _ways_to(self, address: int) -> list[tuple[Instruction, bool]]:
        """Return what may run before, and whether it jumps here; nothing where control may come from elsewhere."""
        if address in self._entries:
            return []
        ways = [(self.code.at(source), True) for source in self.code.sources.get(address, ())]
        before = self._runs_into(address)
        return ways if before is None else [*ways, (before, False)]

    def _runs_into(self, address: int) -> Instruction | None:
        """Return the instruction that control runs on from, past no-operations: padding that is reached by nothing."""
        flow = self.x86.FlowControl
        on = {flow.NEXT, flow.CONDITIONAL_BRANCH, flow.CALL, flow.INDIRECT_CALL}
        before = self.code.before(address)
        while before is not None and before.flow_control in on:
            if before.mnemonic != self.x86.Mnemonic.NOP or before.ip in self.code.sources or before.ip in self._entries:
                return before
            before = self.code.before(before.ip)
        return None

    def _available(self, instruction: Instruction, taken: bool) -> bool | None:
        """Is this a jump decided by a test of the processor, and the way on that it has what was asked for?"""
        if instruction.flow_control != self.x86.FlowControl.CONDITIONAL_BRANCH:
            return None
        test = instruction
        for _ in range(_LONGEST_BLOCK):
            if test.ip in self.code.sources or test.ip in self._entries:
                return None  # the flags may come from elsewhere
            before = self.code.before(test.ip)
            if before is None or before.flow_control != self.x86.FlowControl.NEXT:
                return None
            test = before
            if test.rflags_modified:
                return True if self._side(test, instruction.condition_code) is taken and self._asks(test) else None
        return None

    def _side(self, test: Instruction, condition: int) -> bool | None:
        """Is the processor known to have a feature where the jump is taken (True), or where it is not (False)?"""
        x86 = self.x86
        is_ = x86.ConditionCode
        if test.op1_kind == x86.OpKind.MEMORY:
            return None
        if test.mnemonic == x86.Mnemonic.BT:
            return {is_.B: True, is_.AE: False}.get(condition)
        if test.mnemonic == x86.Mnemonic.TEST:
            return {is_.NE: True, is_.E: False}.get(condition)
        if test.mnemonic != x86.Mnemonic.CMP:
            return None
        if test.op1_kind == x86.OpKind.REGISTER or not test.immediate(1):  # with zero
            return {is_.NE: True, is_.E: False}.get(condition)
        sides = {is_.GE: True, is_.G: True, is_.AE: True, is_.A: True}
        return (sides | {is_.L: False, is_.LE: False, is_.B: False, is_.BE: False}).get(condition)

    def _asks(self, test: Instruction) -> bool:
        """Is what it tests one of the variables, or a register that was loaded from one on every way here?"""
        x86 = self.x86
        with_register = test.mnemonic == x86.Mnemonic.CMP and test.op1_kind == x86.OpKind.REGISTER
        if with_register and not self._holds(test, test.op1_register, self._is_zero):
            return False
        if test.is_ip_rel_memory_operand:
            address = test.memory_displacement
            return address in self.variables or self._never_set(address)
        return test.op0_kind == x86.OpKind.REGISTER and self._holds(test, test.op0_register, self._is_variable)

    def _holds(self, test: Instruction, register: int, is_right: Callable[[Instruction], bool]) -> bool:
        """Was the register set by the right kind of instruction, whichever way control came here?"""
        full = self.x86.RegisterExt.full_register(register)
        return self._walk(test.ip, lambda way, taken: self._sets(way, taken, full, is_right)) is not None

    def _sets(
        self, way: Instruction, taken: bool, register: int, is_right: Callable[[Instruction], bool]
    ) -> bool | None:
        """Does it set the register rightly (True), otherwise (False), or not at all?"""
        x86 = self.x86
        if way.flow_control in {x86.FlowControl.CALL, x86.FlowControl.INDIRECT_CALL}:
            return False if taken or register in self._volatile else None
        written = {x86.OpAccess.WRITE, x86.OpAccess.READ_WRITE, x86.OpAccess.COND_WRITE, x86.OpAccess.READ_COND_WRITE}
        for used in self._facts.info(way).used_registers():
            if used.access in written and x86.RegisterExt.full_register(used.register) == register:
                return is_right(way)
        return None

    def _is_variable(self, way: Instruction) -> bool:
        loads = way.mnemonic == self.x86.Mnemonic.MOV and way.is_ip_rel_memory_operand
        return loads and way.memory_displacement in self.variables

    def _is_zero(self, way: Instruction) -> bool:
        return way.mnemonic == self.x86.Mnemonic.XOR and way.op0_register == way.op1_register

    def _never_set(self, address: int) -> bool:
        """Is this a zero in the data that is compared and never written? So a runtime leaves a switch off."""
        if address in self.code.named or address in self.code.pointers:
            return False
        for section in self.code.image.sections:
            if section.address in self.code.contents and section.address <= address < section.address + section.memory:
                at = address - section.address
                return not any(self.code.contents[section.address][at : at + 8])
        return False
