/// KvView: the keys and values that attention reads, wherever they lie.
#pragma once

#include <chiasm/version.hpp>

#include <cstddef>

namespace chiasm::inline CHIASM_ABI {

/// Borrowed. Key j of head h is at keys + h * key_head_stride + j * key_stride, values alike; strides in elements.
struct KvView {
  const float* keys = nullptr;    // (heads, length, head_dim)
  const float* values = nullptr;  // (heads, length, v_dim)
  std::size_t length = 0;
  std::size_t key_stride = 0, key_head_stride = 0;
  std::size_t value_stride = 0, value_head_stride = 0;
};

}  // namespace chiasm
