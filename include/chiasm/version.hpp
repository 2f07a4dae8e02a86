/// Version, the inline namespace that carries the ABI tag, and the two build flavours (header-only, compiled).
#pragma once

#define CHIASM_VERSION_MAJOR 0
#define CHIASM_VERSION_MINOR 1
#define CHIASM_VERSION_PATCH 0
#define CHIASM_VERSION "0.1.0"

// Two versions, or the two flavours, may meet in one program: each has symbols of its own.
#ifdef CHIASM_COMPILED
#define CHIASM_ABI v0_1_compiled
#define CHIASM_INLINE  // bodies live in one translation unit, chiasm::compiled
#else
#define CHIASM_ABI v0_1
#define CHIASM_INLINE inline
#endif
