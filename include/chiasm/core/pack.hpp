/// Pack: from a weight in blocks, as its file has it, to panels (core/panel.hpp), which kernels read as fast as memory gives them.
#pragma once

#include <chiasm/core/thread_pool.hpp>
#include <chiasm/core/weight.hpp>

#include <cstdint>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A copy of `weight` in panels, its numbers the same to the bit; weights that are not in blocks, or are in panels already, come back as they are. On the
/// threads of `pool`, if there is one. With an `order`, row i of the result is row order[i], as in Weight::gather, also of weights that are not packed. Pages of
/// a file map leave the process's memory once they have been copied, so that a model is not there twice. Throws std::bad_alloc; ShapeError for blocks that are
/// not a matrix, and for an `order` that does not fit the rows.
Weight pack(const Weight& weight, ThreadPool* pool = nullptr, const std::vector<std::uint32_t>* order = nullptr);

/// The same for rows of blocks or bf16. Throws also ArgumentError for other weights.
Weight to_panels(const Weight& weight, ThreadPool* pool = nullptr, const std::vector<std::uint32_t>* order = nullptr);

/// A copy in rows of a weight in bf16 that is in panels; all others come back as they are. Throws std::bad_alloc.
Weight to_rows(const Weight& weight);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/pack.ipp>
#endif
