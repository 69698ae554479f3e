/* A library whose code needs a feature of the processor.
 * -DASM="popcnt %rax,%rax" holds that one instruction.
 * -DCHECK="level >= 5" holds AVX2 code that is called where the check says so. `level` is set from CPUID, `wish` by
 *  the caller. With -DEXPOSED a pointer to the AVX2 code stands in the data too, so that anybody may call it.
 * -DROUTINE="cmpl $5, level(%rip); ..." is a function in assembly; `never` is a variable that C never sets. */
#include <cpuid.h>
#include <immintrin.h>

__attribute__((used)) static int level;
__attribute__((used)) static int wish;
__attribute__((used)) static int never;

void set_wish(int value)
{
    wish = value;
}

int plain(int a, int b)
{
    return a * 3 + b;
}

#ifdef ASM
void one_instruction(void)
{
    __asm__ volatile(ASM);
}
#endif

#if defined(CHECK) || defined(ROUTINE)
__attribute__((constructor)) static void ask_the_processor(void)
{
    unsigned a, b, c, d;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX2))
        level = 5;
}
#endif

#ifdef ROUTINE
__attribute__((naked)) void routine(void)
{
    __asm__ volatile(ROUTINE);
}
#endif

#ifdef CHECK
__attribute__((target("avx2"), noinline)) static int fast(const int *values)
{
    __m256i all = _mm256_loadu_si256((const __m256i *)values);
    return _mm256_extract_epi32(_mm256_add_epi32(all, all), 3);
}

__attribute__((noinline)) static int slow(const int *values)
{
    return values[3] * 2;
}

int either(const int *values)
{
    return (CHECK) ? fast(values) : slow(values);
}
#endif

#ifdef EXPOSED
int (*const exposed[])(const int *) = {fast, slow};
#endif
