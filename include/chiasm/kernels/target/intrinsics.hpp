/// Intrinsics: <immintrin.h>, included outside every region and with g++ 12's false warnings about its own undefined vectors silenced.
#pragma once

#include <chiasm/kernels/isa.hpp>

#if CHIASM_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#endif
