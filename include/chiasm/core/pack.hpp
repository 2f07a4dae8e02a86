/// Pack: a weight in blocks, as its file has it, becomes panels (core/panel.hpp), which is what kernels read at the memory's speed.
#pragma once

#include <chiasm/core/thread_pool.hpp>
#include <chiasm/core/weight.hpp>

#include <cstdint>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// A copy of `weight` in panels; other weights come back as they are. The bits of all its numbers stay what they are. On the threads of `pool`, if
/// there is one. With an `order`, row i is row order[i], as in Weight::gather, and other weights are gathered. Pages of a file map that have been copied
/// leave the process's memory, so that a model is not there twice. Throws std::bad_alloc; ShapeError for blocks that are no matrix, and for an order that
/// is none.
Weight pack(const Weight& weight, ThreadPool* pool = nullptr, const std::vector<std::uint32_t>* order = nullptr);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/pack.ipp>
#endif
