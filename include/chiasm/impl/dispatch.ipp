/// Dispatch: bodies. All tiers' kernels meet here.
#pragma once

#include <chiasm/core/error.hpp>
#include <chiasm/kernels/dispatch.hpp>
#include <chiasm/kernels/portable.hpp>
#include <chiasm/kernels/target/amx.hpp>
#include <chiasm/kernels/target/avx2.hpp>
#include <chiasm/kernels/target/avx512.hpp>
#include <chiasm/kernels/target/scalar.hpp>

#include <cstdlib>
#include <string>

#if CHIASM_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace chiasm::inline CHIASM_ABI {
namespace kernels {

/// What a processor may have beyond its tier, as bits after those of Isa.
inline constexpr unsigned avx_vnni_bit = isa_count, avx512_vnni_bit = isa_count + 1;

/// What the processor and the operating system offer: a bit per Isa, and those two.
CHIASM_INLINE unsigned detect_isa() noexcept {
  unsigned found = 1u << static_cast<unsigned>(Isa::scalar) | 1u << static_cast<unsigned>(Isa::portable);
#if CHIASM_X86
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return found;
  constexpr unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
  if ((ecx & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c)) return found;
  unsigned saved = 0, saved_high = 0;  // XCR0: the register state that the operating system keeps
  asm volatile("xgetbv" : "=a"(saved), "=d"(saved_high) : "c"(0));
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return found;
  constexpr unsigned ymm = 0x6, zmm = 0xe6, tiles = 0x60000;
  constexpr unsigned avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  if ((saved & ymm) != ymm || (ebx & avx2) == 0) return found;
  found |= 1u << static_cast<unsigned>(Isa::avx2);
  constexpr unsigned avx_vnni = 1u << 4, avx512_vnni = 1u << 11;
  if (unsigned more = 0, unused[3] = {}; __get_cpuid_count(7, 1, &more, &unused[0], &unused[1], &unused[2]) != 0 && (more & avx_vnni) != 0)
    found |= 1u << avx_vnni_bit;
  if ((saved & zmm) != zmm || (ebx & avx512) != avx512) return found;
  found |= 1u << static_cast<unsigned>(Isa::avx512);
  if ((ecx & avx512_vnni) != 0) found |= 1u << avx512_vnni_bit;
  constexpr unsigned amx = 1u << 22 | 1u << 24 | 1u << 25, avx512_bf16 = 1u << 5;  // BF16, TILE, INT8
  if ((saved & tiles) != tiles || (edx & amx) != amx || (ecx & avx512_vnni) == 0) return found;
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) == 0 || (eax & avx512_bf16) == 0) return found;
#if defined(__linux__)
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, request_permission, tile_data) != 0) return found;
  found |= 1u << static_cast<unsigned>(Isa::amx);
#endif
#endif
  return found;
}

CHIASM_INLINE bool has_bit(unsigned bit) noexcept {
  static const unsigned found = detect_isa();
  return (found >> bit & 1u) != 0;
}
CHIASM_INLINE bool has_isa(Isa isa) noexcept { return has_bit(static_cast<unsigned>(isa)); }

CHIASM_INLINE std::vector<Isa> available() {
  std::vector<Isa> tiers;
  for (std::size_t i = 0; i < isa_count; ++i)
    if (has_isa(static_cast<Isa>(i))) tiers.push_back(static_cast<Isa>(i));
  return tiers;
}

CHIASM_INLINE std::string available_names() {
  std::string names;
  for (const Isa isa : available()) names += (names.empty() ? "" : ", ") + std::string(name(isa));
  return names;
}

CHIASM_INLINE const Table& table(Isa isa) {
  if (static_cast<std::size_t>(isa) >= isa_count || !has_isa(isa))
    throw ArgumentError("instruction set '" + std::string(static_cast<std::size_t>(isa) < isa_count ? name(isa) : "?") +
                        "' is not there; available: " + available_names());
  switch (isa) {
#if CHIASM_X86
    case Isa::avx2:
      return has_bit(avx_vnni_bit) ? avx2_vnni::table : avx2::table;
    case Isa::avx512:
      return has_bit(avx512_vnni_bit) ? avx512_vnni::table : avx512::table;
    case Isa::amx:
      return amx::table;
#endif
    case Isa::portable:
      return CHIASM_PORTABLE::table;
    default:
      return scalar::table;
  }
}

CHIASM_INLINE std::vector<const Table*> tables() {
  std::vector<const Table*> all;
  for (const Isa isa : available()) {
    const Table& best = table(isa);
#if CHIASM_X86
    if (&best == &avx2_vnni::table) all.push_back(&avx2::table);
    if (&best == &avx512_vnni::table) all.push_back(&avx512::table);
#endif
    all.push_back(&best);
  }
  return all;
}

/// Throws ArgumentError for a name that no tier has. `origin` says where the name is from.
CHIASM_INLINE Isa isa_named(std::string_view wanted, std::string_view origin) {
  for (std::size_t i = 0; i < isa_count; ++i)
    if (name(static_cast<Isa>(i)) == wanted) return static_cast<Isa>(i);
  throw ArgumentError(std::string(origin) + ": unknown instruction set '" + std::string(wanted) +
                      "'; available: " + available_names());
}

CHIASM_INLINE const Table& active(std::string_view requested) {
  if (!requested.empty()) return table(isa_named(requested, "isa"));
  return active(available().back());
}

CHIASM_INLINE const Table& active(Isa requested) {
  const char* const environment = std::getenv("CHIASM_ISA");
  if (environment == nullptr || *environment == '\0') return table(requested);
  const Isa limit = isa_named(environment, "CHIASM_ISA");
  if (!has_isa(limit)) return table(limit);  // throws: a tier that is asked for and lacking is an error, not a wish
  return table(limit < requested ? limit : requested);
}

}  // namespace kernels
}  // namespace chiasm
