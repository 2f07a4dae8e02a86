/// TokenId: an index into a vocabulary.
#pragma once

#include <chiasm/version.hpp>

#include <cstdint>

namespace chiasm::inline CHIASM_ABI {

using TokenId = std::int32_t;

}  // namespace chiasm
