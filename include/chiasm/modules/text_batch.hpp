/// TextBatch: tokenised texts as encoders take them.
#pragma once

#include <chiasm/core/token_id.hpp>

#include <cstddef>
#include <span>

namespace chiasm::inline CHIASM_ABI {

/// N tokenised texts of one length, padded at their ends as the family wants it. Text n has `used[n]` tokens of its own, which alone can be
/// seen; an empty `used` means that padding counts (SigLIP).
struct TextBatch {
  std::span<const TokenId> ids;
  std::size_t length = 0;
  std::span<const std::size_t> used;

  std::size_t texts() const noexcept { return length == 0 ? 0 : ids.size() / length; }
};

}  // namespace chiasm
