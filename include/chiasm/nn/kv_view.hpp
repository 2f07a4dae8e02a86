/// KvView: the keys and values that attention reads, wherever they lie.
#pragma once

#include <chiasm/core/kv_kind.hpp>

#include <cstddef>

namespace chiasm::inline CHIASM_ABI {

/// Borrowed. Key j of head h is at keys + h * key_head_stride + j * key_stride, values alike; strides in elements. Those of a cache of another kind
/// than f32 are at key_blocks + h * key_block_stride bytes, in blocks of kernels/kv_layout.hpp, values alike.
struct KvView {
  const float* keys = nullptr;    // (heads, length, head_dim)
  const float* values = nullptr;  // (heads, length, v_dim)
  std::size_t length = 0;
  std::size_t key_stride = 0, key_head_stride = 0;
  std::size_t value_stride = 0, value_head_stride = 0;
  KvKind kind = KvKind::f32;
  const std::byte *key_blocks = nullptr, *value_blocks = nullptr;
  std::size_t key_block_stride = 0, value_block_stride = 0;
};

}  // namespace chiasm
