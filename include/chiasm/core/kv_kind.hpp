/// KvKind: in which form a decoder's cache keeps keys and values.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>

namespace chiasm::inline CHIASM_ABI {

enum class KvKind : std::uint8_t {
  automatic,  // bf16 where the context computes in bf16, f32 where it computes in f32
  f32,
  bf16,       // half the memory; numbers are off by at most 2^-9 of themselves
  q8,         // int8 with a scale in f32 for each position and head, whose largest number becomes 127: little more than a quarter of the memory
};

}  // namespace chiasm
