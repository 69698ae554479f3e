"""Machine code is held to what its variant declares: real builds of three systems, and code made to break the rules."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nativeload.cpu_variants import X86_64
from nativeload.errors import ConfigError, LoadError
from nativeload.publish.features import check_declared, code_features, feature_uses
from nativeload.publish.machine_code import read_code
from nativeload.publish.sections import open_image
from tests import handmade

if TYPE_CHECKING:
    from collections.abc import Callable

BY_CC = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="cc makes x86-64 ELF files on x86-64 Linux"
)
ROOT = Path(__file__).parents[2]

RET = b"\xc3"
POPCNT = b"\xf3\x48\x0f\xb8\xc0"  # popcnt rax, rax
PMULLD = b"\x66\x0f\x38\x40\xc1"  # SSE4.1

# What the code of npm's Linux and Windows builds needs. It is a part of what the variants promise: gcc uses VBMI where
# it permutes bytes, and nothing of what ggml does asks for AVX-512 CD.
AVX2 = {"avx", "f16c", "fma", "avx2", "bmi2"}
AVX512 = AVX2 | {"avx512f", "avx512vl", "avx512dq", "avx512bw"}
USED: dict[str, set[str]] = {
    "x64": set(),
    "sse42": {"sse4_2"},
    "sandybridge": {"avx"},
    "ivybridge": {"avx", "f16c"},
    "piledriver": {"avx", "f16c", "fma"},
    "haswell": AVX2,
    "alderlake": AVX2 | {"avx_vnni"},
    "skylakex": AVX512,
    "cannonlake": AVX512,
    "cascadelake": AVX512 | {"avx512_vnni"},
    "icelake": AVX512 | {"avx512_vnni"},
    "cooperlake": AVX512 | {"avx512_vnni", "avx512_bf16"},
    "zen4": AVX512 | {"avx512_vnni", "avx512_bf16"},
    "sapphirerapids": AVX512 | {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8"},
}
BUNDLES = {"linux-x64": "libggml-cpu-{}.so", "win-x64": "ggml-cpu-{}.dll"}


def bundle(binaries: Path, name: str) -> Path:
    """Return the folder of a published bundle; the one that tools/fetch_real.py was to bring must be there."""
    folder = binaries / f"node-llama-cpp-{name}" / "package" / "bins" / name
    assert folder.is_dir(), f"{folder} is missing: run tools/fetch_real.py"
    return folder


def made(tmp_path: Path, data: bytes, name: str = "made") -> Path:
    """Write a library made by hand."""
    path = tmp_path / name
    path.write_bytes(data)
    return path


# --- real files ---


@pytest.mark.real_bundle
@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("variant", X86_64)
def test_every_cpu_backend_needs_what_its_variant_promises(binaries: Path, name: str, variant: str) -> None:
    """And of it exactly what is known; clang's C runtime in the DLLs asks for AVX2 before it uses it."""
    used = check_declared(bundle(binaries, name) / BUNDLES[name].format(variant), variant)
    expected = USED[variant] | ({"avx512_vbmi"} if (name, variant) == ("linux-x64", "cannonlake") else set())
    assert used == expected


@pytest.mark.real_bundle
@pytest.mark.parametrize("variant", X86_64)
def test_the_backends_that_msvc_built_are_proven_too(binaries: Path, variant: str) -> None:
    """Its jump tables stand between the functions, and its vectoriser uses more where the processor has it."""
    path = bundle(binaries, "win-x64-cuda") / f"ggml-cpu-{variant}.dll"
    if not path.exists():
        assert variant in {"ivybridge", "piledriver", "cooperlake", "zen4", "sapphirerapids"}, "MSVC builds the others"
        return
    assert check_declared(path, variant) == USED[variant]


@pytest.mark.real_bundle
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("linux-x64", ("libggml-base.so", "libggml.v0.5.0.so", "libllama.v0.5.0.so", "libllama-common.so")),
        ("linux-x64-cuda", ("libggml-cuda.so", "libllama.cuda.v0.5.0.so")),
        ("win-x64", ("ggml-base.dll", "ggml.v0.4.0.dll", "llama.v0.4.0.dll", "llama-common.dll")),
        ("win-x64-cuda", ("ggml-base.dll", "ggml.cuda.v0.4.0.dll", "ggml-cuda.dll", "llama-common.dll")),
    ],
)
def test_the_core_runs_on_every_x86_64_processor(binaries: Path, name: str, files: tuple[str, ...]) -> None:
    assert {file: set(check_declared(bundle(binaries, name) / file, "x64")) for file in files} == {
        f: set() for f in files
    }


@pytest.mark.real_bundle
def test_a_function_that_anybody_may_call_is_not_taken_for_asked(binaries: Path) -> None:
    """MSVC's llama.dll exports all it has, std::bitset's counting with POPCNT too: only its callers ask first."""
    with pytest.raises(LoadError, match=r"declared as x64, it needs sse4_2 \(popcnt "):
        check_declared(bundle(binaries, "win-x64-cuda") / "llama.cuda.v0.4.0.dll", "x64")


@pytest.mark.real_bundle
@pytest.mark.parametrize(
    ("file", "variant", "beyond"),
    [
        ("haswell", "piledriver", {"avx2", "bmi2"}),
        ("ivybridge", "sandybridge", {"f16c"}),
        ("sandybridge", "x64", {"avx"}),
        ("alderlake", "haswell", {"avx_vnni"}),
        ("zen4", "icelake", {"avx512_bf16"}),
        ("sapphirerapids", "zen4", {"amx_tile", "amx_int8"}),
        ("cannonlake", "skylakex", {"avx512_vbmi"}),
    ],
)
def test_a_backend_under_a_lesser_name_is_refused(binaries: Path, file: str, variant: str, beyond: set[str]) -> None:
    """The error names each feature that is too much, with an instruction and its address."""
    path = bundle(binaries, "linux-x64") / f"libggml-cpu-{file}.so"
    with pytest.raises(LoadError) as caught:
        check_declared(path, variant)
    said = caught.value.reason.removeprefix(f"declared as {variant}, it needs ")
    assert {part.split(" (")[0] for part in said.split("), ")} == beyond
    assert said.count(" at 0x") == len(beyond)
    assert caught.value.path == str(path)


@pytest.mark.real_bundle
@pytest.mark.parametrize(("name", "file"), [("win-x64", "ggml-cpu-x64.dll"), ("win-x64-cuda", "ggml-cpu-x64.dll")])
def test_code_whose_question_was_removed_needs_what_it_uses(
    binaries: Path, tmp_path: Path, name: str, file: str
) -> None:
    """The runtime's memchr with AVX2: ``test al, 20h; je`` without the jump."""
    data = bytearray((bundle(binaries, name) / file).read_bytes())
    question = data.index(b"\xa8\x20\x0f\x84")
    data[question + 2 : question + 8] = b"\x66\x0f\x1f\x44\x00\x00"
    path = made(tmp_path, bytes(data))
    assert code_features(path) == {"avx", "avx2"}


@pytest.mark.real_bundle
@pytest.mark.parametrize("file", ["ggml-cpu-x64.dll", "llama.cuda.v0.4.0.dll", "ggml-cuda.dll"])
def test_every_function_that_pe_lists_begins_with_an_instruction(binaries: Path, file: str) -> None:
    """The unwind table as the judge of where code is and where a jump table."""
    path = bundle(binaries, "win-x64-cuda") / file
    code = read_code(path)
    with open_image(path) as image:
        (table,) = [image.content(section) for section in image.sections if section.name == ".pdata"]
    begins = {struct.unpack_from("<I", table, at)[0] for at in range(0, len(table), 12)} - {0}
    missed = {begin for begin in begins if not code.has(begin)}
    assert len(begins) > 1000
    assert len(missed) <= (file == "ggml-cuda.dll")  # one range of its table is all jump table


# --- compiled here ---


@BY_CC
def test_code_beyond_its_declaration_is_refused(build: Callable[..., Path]) -> None:
    path = build("features.c", "libavx2.so", "-DCHECK=1")
    with pytest.raises(LoadError, match=r"declared as sse42, it needs avx \(.* at 0x.*\), avx2 \(vp.* ymm.* at 0x"):
        check_declared(path, "sse42")
    assert check_declared(path, "haswell") == {"avx", "avx2"}


@BY_CC
@pytest.mark.parametrize(
    ("instruction", "needs"),
    [
        ("nop", set()),
        ("endbr64", set()),  # a no-operation where it is not known, as are the next two
        ("pause", set()),
        ("nopw 8(%rax)", set()),
        ("cpuid", set()),
        ("tzcnt %rax, %rbx", set()),  # runs as bsf
        ("mfence", set()),
        ("fsqrt", set()),
        ("haddps %xmm0, %xmm1", {"sse4_2"}),
        ("pshufb %xmm0, %xmm1", {"sse4_2"}),
        ("pmulld %xmm0, %xmm1", {"sse4_2"}),
        ("pcmpgtq %xmm0, %xmm1", {"sse4_2"}),
        ("popcnt %rax, %rbx", {"sse4_2"}),
        ("lzcnt %rax, %rbx", {"bmi2"}),
        ("andn %rax, %rbx, %rcx", {"bmi2"}),
        ("pdep %rax, %rbx, %rcx", {"bmi2"}),
        ("vzeroupper", {"avx"}),
        ("vcvtph2ps %xmm0, %ymm1", {"f16c"}),
        ("vfmadd231ps %ymm0, %ymm1, %ymm2", {"fma"}),
        ("vpaddd %ymm0, %ymm1, %ymm2", {"avx2"}),
        ("vpaddd %zmm0, %zmm1, %zmm2", {"avx512f"}),
        ("vpconflictd %zmm0, %zmm1", {"avx512cd"}),
        ("vpaddd %ymm16, %ymm17, %ymm18", {"avx512f", "avx512vl"}),
        ("vpmullq %zmm0, %zmm1, %zmm2", {"avx512dq"}),
        ("vpermb %zmm0, %zmm1, %zmm2", {"avx512_vbmi"}),
        # what no variant promises is told in iced's words
        ("rdrand %eax", {"rdrand"}),
        ("cmpxchg16b (%rdi)", {"cmpxchg16b"}),
        ("aesenc %xmm0, %xmm1", {"aes"}),
        ("movbe (%rdi), %eax", {"movbe"}),
        ("xgetbv", {"xsave"}),  # without a CPUID before it
        ("vpdpbusd %zmm0, %zmm1, %zmm2", {"avx512_vnni"}),
        ("vpopcntd %zmm0, %zmm1", {"avx512_vpopcntdq"}),
    ],
)
def test_an_instruction_needs_its_feature(build: Callable[..., Path], instruction: str, needs: set[str]) -> None:
    path = build("features.c", f"lib{instruction.encode().hex()[:40]}.so", f'-DASM="{instruction}"')
    assert code_features(path) == needs


@BY_CC
@pytest.mark.parametrize(
    ("check", "needs"),
    [
        ("level >= 5", set()),
        ("level", set()),
        ("level >= 5 && wish", set()),
        ("wish && level > 4", set()),
        ("level < 5", {"avx", "avx2"}),
        ("!level", {"avx", "avx2"}),
        ("level >= 5 || wish", {"avx", "avx2"}),
        ("wish >= 5", {"avx", "avx2"}),
        ("1", {"avx", "avx2"}),
    ],
)
@pytest.mark.parametrize("effort", ["-O1", "-O2"])
def test_code_that_asks_the_processor_first_needs_nothing(
    build: Callable[..., Path], check: str, needs: set[str], effort: str
) -> None:
    """Only the right side of a test of what CPUID said counts; what callers wish says nothing."""
    name = f"lib{effort[1:]}{check.encode().hex()}.so"
    assert code_features(build("features.c", name, effort, f"-DCHECK={check}")) == needs


@BY_CC
def test_code_whose_address_stands_in_the_data_may_be_called_by_anybody(build: Callable[..., Path]) -> None:
    path = build("features.c", "libexposed.so", "-DCHECK=level >= 5", "-DEXPOSED")
    assert code_features(path) == {"avx", "avx2"}


USE = "vzeroupper; 1: ret"  # AVX, and where a jump past it leads


@BY_CC
@pytest.mark.parametrize(
    ("routine", "needs"),
    [
        (f"cmpl $5, level(%rip); jl 1f; {USE}", set()),
        (f"cmpl $5, level(%rip); jge 1f; {USE}", {"avx"}),
        (f"cmpl $5, level(%rip); je 1f; {USE}", {"avx"}),  # also where it is less
        (f"cmpl $5, level(%rip); jg 2f; jmp 1f; 2: {USE}", set()),
        (f"testb $4, level(%rip); je 1f; {USE}", set()),
        (f"testb $4, level(%rip); jne 1f; {USE}", {"avx"}),
        (f"btl $5, level(%rip); jae 1f; {USE}", set()),
        (f"btl $5, level(%rip); jb 1f; {USE}", {"avx"}),
        (f"cmpl $5, level(%rip); mov %rdi, %rax; movups (%rax), %xmm0; jl 1f; {USE}", set()),
        (f"cmpl $5, level(%rip); inc %rdi; jl 1f; {USE}", {"avx"}),  # the jump tests something else
        # in a register
        (f"mov level(%rip), %eax; test $4, %al; je 1f; {USE}", set()),
        (f"mov level(%rip), %eax; 2: dec %edi; jne 2b; cmp $2, %eax; jl 1f; {USE}", set()),
        (f"mov wish(%rip), %eax; cmp $2, %eax; jl 1f; {USE}", {"avx"}),
        (f"mov level(%rip), %eax; test %edi, %edi; je 2f; mov %edi, %eax; 2: cmp $2, %eax; jl 1f; {USE}", {"avx"}),
        (f"mov level(%rip), %eax; call plain@PLT; cmp $2, %eax; jl 1f; {USE}", {"avx"}),
        (f"mov level(%rip), %ebx; call plain@PLT; cmp $2, %ebx; jl 1f; {USE}", set()),
        (f"xor %ecx, %ecx; cmp %ecx, level(%rip); je 1f; {USE}", set()),
        (f"cmp %ecx, level(%rip); je 1f; {USE}", {"avx"}),  # with anything
        (f"cmp level(%rip), %ecx; je 1f; {USE}", {"avx"}),
        # other ways to get there
        (f"test %edi, %edi; jne 2f; cmpl $5, level(%rip); 2: jl 1f; {USE}", {"avx"}),
        (f"test %edi, %edi; jne 2f; cmpl $5, level(%rip); jl 1f; 2: {USE}", {"avx"}),
        (f"lea 2f(%rip), %rax; cmpl $5, level(%rip); jl 1f; 2: {USE}", {"avx"}),
        (f"cmpl $5, level(%rip); jl 1f; call 2f; ret; nop; nop; 2: {USE}", set()),
        (f"call 2f; cmpl $5, level(%rip); jl 1f; call 2f; ret; 2: {USE}", {"avx"}),
        ("ret; 1: vzeroupper; jmp 1b", {"avx"}),  # none is known
        # a switch that nobody sets
        (f"cmpl $0, never(%rip); je 1f; {USE}", set()),
        (f"movl $1, never(%rip); cmpl $0, never(%rip); je 1f; {USE}", {"avx"}),
        (f"lea never(%rip), %rax; cmpl $0, never(%rip); je 1f; {USE}", {"avx"}),
        # asking
        ("xor %eax, %eax; cpuid; bt $27, %ecx; jae 1f; xor %ecx, %ecx; xgetbv; 1: ret", set()),
        ("xor %ecx, %ecx; xgetbv; xor %eax, %eax; cpuid; ret", {"xsave"}),
    ],
)
def test_every_way_to_the_code_has_to_ask(build: Callable[..., Path], routine: str, needs: set[str]) -> None:
    digest = hashlib.sha256(routine.encode()).hexdigest()[:16]
    assert code_features(build("features.c", f"lib{digest}.so", f'-DROUTINE="{routine}"')) == needs


@BY_CC
def test_one_use_is_told_for_each_feature(build: Callable[..., Path]) -> None:
    path = build("features.c", "libuses.so", "-DCHECK=1")
    first, second = feature_uses(path)
    assert (first.feature, second.feature) == ("avx", "avx2")
    listing = subprocess.run(["objdump", "-d", str(path)], check=True, capture_output=True, text=True).stdout
    for use in (first, second):
        line = next(line for line in listing.splitlines() if line.lstrip().startswith(f"{use.address:x}:"))
        assert use.text.split()[0] in line


# --- made by hand ---


def switch(*, first: int = 0x1018, index: bytes = b"", variant: bool = False) -> bytes:
    """Return what MSVC makes of a switch: the code, then its jump table, then perhaps one of indexes into that."""
    table = 0x1030
    code = b"\x48\x8d\x15" + struct.pack("<i", -0x1007)  # lea rdx, [image base]
    if index:
        code += b"\x0f\xb6\x84\x0a" + struct.pack("<I", table + 8)  # movzx eax, byte ptr [rdx + rcx + indexes]
    code += b"\x8b\x8c\x82" + struct.pack("<I", table + 4 * variant)  # mov ecx, [rdx + rax*4 + table]
    code += b"\x48\x01\xd1\xff\xe1"  # add rcx, rdx; jmp rcx
    code = code.ljust(0x18, b"\x90") if not index else code.ljust(0x20, b"\x90")
    cases = b"\xb8\x01\x00\x00\x00\xc3\x31\xc0\xc3"  # mov eax, 1; ret; xor eax, eax; ret
    second = first + 6
    text = (code + cases).ljust(table - 0x1000, b"\xcc") + struct.pack("<2I", first, second) + index
    return text.ljust(0x60, b"\xcc") + b"\x31\xc0\xc3"


def test_msvcs_jump_tables_are_no_code(tmp_path: Path) -> None:
    """Decoded, the table's bytes would be ``sbb [rax], dl`` and the like, or nothing at all."""
    assert code_features(made(tmp_path, handmade.pe(switch()))) == set()
    code = read_code(made(tmp_path, handmade.pe(switch())))
    assert not any(0x1030 <= address < 0x1038 for address in code.starts)
    assert code.has(0x1038)
    assert code.has(0x1060)
    assert set(code.sources) == {0x1018, 0x101E}


def test_tables_of_indexes_and_of_variants_are_no_code(tmp_path: Path) -> None:
    """A byte for each value, where there are many; an entry before the first, for std::variant's index of -1."""
    indexed = read_code(made(tmp_path, handmade.pe(switch(first=0x1020, index=bytes([0, 1, 1, 0, 1])))))
    assert not any(0x1030 <= address < 0x103D for address in indexed.starts)
    assert indexed.has(0x103D)
    variant = read_code(made(tmp_path, handmade.pe(switch(variant=True))))
    assert not any(0x1030 <= address < 0x1038 for address in variant.starts)


@pytest.mark.parametrize("first", [0x1019, 0x2000, 0x5000000, 0])
def test_a_jump_table_that_leads_elsewhere_is_refused(tmp_path: Path, first: int) -> None:
    """Into an instruction, past itself, out of the file: then it is no table, and its bytes have to be code."""
    data = switch(first=first).replace(b"\xcc" * 24, b"\x06" * 24)  # what cannot be code either
    with pytest.raises(LoadError, match="undecodable code"):
        code_features(made(tmp_path, handmade.pe(data)))


def test_code_that_runs_into_a_table_is_refused(tmp_path: Path) -> None:
    """An instruction whose end the table would be: one of both is not what it seems."""
    data = switch().replace(b"\xcc" + struct.pack("<2I", 0x1018, 0x101E), b"\xb8" + struct.pack("<2I", 0x1018, 0x101E))
    with pytest.raises(LoadError, match="undecodable code"):
        code_features(made(tmp_path, handmade.pe(data)))


def test_all_that_read_a_table_lead_to_its_cases(tmp_path: Path) -> None:
    """Two before it, and one after it: the others by way of the first."""
    reads = b"\x8b\x8c\x82" + struct.pack("<I", 0x1030) + b"\x48\x01\xd1\xff\xe1"
    text = (reads + reads + b"\x31\xc0\xc3").ljust(0x30, b"\xcc") + struct.pack("<I", 0x1018) + reads
    assert read_code(made(tmp_path, handmade.pe(text))).sources == {0x1018: [0x1000], 0x1000: [0x100C, 0x1034]}


def test_ten_thousand_tables_are_too_many(tmp_path: Path) -> None:
    """Each costs a look at all the others."""
    count = 10_000
    tables = 0x1000 + 7 * count + 16
    reads = b"".join(b"\x8b\x8c\x82" + struct.pack("<I", tables + 4 * index) for index in range(count))
    text = reads + b"\xc3" * 16 + struct.pack("<I", 0x1000) * count
    with pytest.raises(LoadError, match="too many tables"):
        code_features(made(tmp_path, handmade.pe(text)))


def test_a_dylibs_dispatch_is_not_followed(tmp_path: Path) -> None:
    """Pointers in Mach-O are encoded, so that code there may be called by ways that are not seen."""
    code = b"\x0f\xa2\x89\x05" + struct.pack("<i", 0x1000 - 8) + RET  # cpuid; mov [0x2000], eax; ret
    code += b"\x83\x3d" + struct.pack("<i", 0x1000 - 16) + b"\x05\x7c\x03\xc5\xf8\x77" + RET
    assert code_features(made(tmp_path, handmade.pe(code))) == set()
    assert code_features(made(tmp_path, handmade.macho(code))) == {"avx"}


def test_clangs_jump_tables_in_a_dylib_are_no_code(tmp_path: Path) -> None:
    """Offsets from the table itself, whose address stands in a register."""
    code = b"\x48\x8d\x0d" + struct.pack("<i", 0x19)  # lea rcx, [table]
    code += b"\x48\x63\x04\x81\x48\x01\xc8\xff\xe0"  # movsxd rax, [rcx + rax*4]; add rax, rcx; jmp rax
    code += b"\xb8\x01\x00\x00\x00\xc3\x31\xc0\xc3"
    code = code.ljust(0x20, b"\x90") + struct.pack("<2i", 0x10 - 0x20, 0x16 - 0x20) + RET
    found = read_code(made(tmp_path, handmade.macho(code)))
    assert not any(0x1020 <= address < 0x1028 for address in found.starts)
    assert found.has(0x1028)


def test_zeros_between_the_functions_of_a_dylib_are_no_code(tmp_path: Path) -> None:
    """Apple's linker pads with them; decoded they would swallow the first byte of what follows."""
    found = read_code(made(tmp_path, handmade.macho(RET.ljust(16, b"\0") + POPCNT + RET)))
    assert list(found.starts) == [0x1000, 0x1010, 0x1015]
    assert code_features(made(tmp_path, handmade.macho(RET.ljust(16, b"\0") + POPCNT + RET))) == {"sse4_2"}


def test_a_zero_byte_that_belongs_to_an_instruction_is_code(tmp_path: Path) -> None:
    """``mov eax, [rax]; add [rax], al`` up to a boundary: there is no end of a function before it."""
    code = (b"\x8b\x00" * 7 + b"\x00\x00" + POPCNT + RET).ljust(48, b"\x90")
    assert list(read_code(made(tmp_path, handmade.macho(code))).starts)[6:9] == [0x100C, 0x100E, 0x1010]


def test_a_mac_has_sse_4_1(tmp_path: Path) -> None:
    """Apple's compilers count on it; on the other systems it is a feature."""
    assert code_features(made(tmp_path, handmade.macho(PMULLD + RET))) == set()
    assert code_features(made(tmp_path, handmade.pe(PMULLD + RET))) == {"sse4_2"}
    assert code_features(made(tmp_path, handmade.elf({".text": PMULLD + RET}))) == {"sse4_2"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (random.Random(2).randbytes(4096), "not an ELF, PE or Mach-O file"),
        (handmade.elf({".text": RET})[:-70], "beyond its end"),
        (handmade.elf({".text": b"\x06" + RET}), "undecodable code at 0x1000"),
        (handmade.elf({".text": RET + b"\xc5"}), "undecodable code at 0x1001"),  # cut in the middle
        (handmade.elf({".text": b"\xeb\x01\xb8\x00\x00\x00\x00\xc3"}), "leads into the middle"),
        (handmade.elf({".text": RET}, machine=183), "arm64 code, not x86-64"),
        (handmade.pe(machine=0xAA64), "arm64 code, not x86-64"),
        (handmade.elf({".rodata": RET}), "none of its sections holds code"),
        (handmade.elf({}), "none of its sections holds code"),
        (
            handmade.pe(exports=[0x1000] * 4).replace(struct.pack("<2I", 1, 4), struct.pack("<2I", 1, 1 << 30)),
            "exports",
        ),
    ],
)
def test_what_cannot_be_read_in_full_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        code_features(made(tmp_path, data))
    with pytest.raises(LoadError, match=reason):
        check_declared(made(tmp_path, data), "sapphirerapids")


def test_random_code_is_refused_or_read_but_never_hangs(tmp_path: Path) -> None:
    """Bytes that happen to name tables, pad, and jump anywhere."""
    chance, refused = random.Random(3), 0
    some = [
        b"\x8b\x8c\x82",
        b"\x00",
        b"\xc3",
        b"\xeb",
        b"\x48\x8d\x0d",
        b"\x48\x63\x04\x81",
        b"\x0f\xa2",
        b"\x0f\xb6\x84\x0a",
    ]
    for _ in range(300):
        text = b"".join(chance.choice([chance.choice(some), chance.randbytes(2)]) for _ in range(400))
        data = handmade.pe(text) if chance.random() < 0.5 else handmade.macho(text)
        try:
            code_features(made(tmp_path, data))
        except LoadError:
            refused += 1
    assert refused > 200


def test_an_unknown_variant_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'pentium' is none of x64, sse42"):
        check_declared(made(tmp_path, handmade.pe()), "pentium")


def test_without_iced_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "iced_x86", None)
    with pytest.raises(ConfigError, match=r"pip install 'nativeload\[publish\]'"):
        code_features(made(tmp_path, handmade.pe()))


def test_the_modules_are_imported_without_the_decoder() -> None:
    code = (
        "import sys; sys.modules['iced_x86'] = sys.modules['lief'] = None\n"
        "import nativeload.publish.binary, nativeload.publish.fatbin, nativeload.publish.features"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ, capture_output=True)
