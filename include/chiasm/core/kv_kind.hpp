/// KvKind: in which form a decoder's cache keeps keys and values.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>

namespace chiasm::inline CHIASM_ABI {

enum class KvKind : std::uint8_t {
  automatic,  // bf16 where the context computes in bf16, f32 where it computes in f32
  f32,
  bf16,       // half the memory; numbers are off by at most 2^-9 of themselves
  q8,         // a quarter and 4 bytes per position and head: integers with the position's largest number as 127
};

}  // namespace chiasm
