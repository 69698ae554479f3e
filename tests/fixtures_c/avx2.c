/* A library with one instruction of AVX2. */
int wide(void) {
    __asm__ volatile("vpaddd %ymm0, %ymm0, %ymm0");
    return 0;
}
