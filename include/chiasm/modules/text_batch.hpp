/// TextBatch: tokenised texts of one length, as text encoders take them.
#pragma once

#include <chiasm/core/token_id.hpp>

#include <cstddef>
#include <span>

namespace chiasm::inline CHIASM_ABI {

/// Borrowed. N texts, padded at their ends as the family wants it. Attention sees the first `used[n]` tokens of text n alone; an empty `used` means that
/// padding is seen, too (SigLIP).
struct TextBatch {
  std::span<const TokenId> ids;       // (N, length)
  std::size_t length = 0;
  std::span<const std::size_t> used;  // (N) or empty

  std::size_t texts() const noexcept { return length == 0 ? 0 : ids.size() / length; }
};

}  // namespace chiasm
