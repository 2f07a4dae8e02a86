/// Pack: a weight in blocks, as its file has it, becomes panels (core/panel.hpp), which is what kernels read at the memory's speed.
#pragma once

#include <chiasm/core/thread_pool.hpp>
#include <chiasm/core/weight.hpp>

namespace chiasm::inline CHIASM_ABI {

/// A copy of `weight` in panels; other weights come back as they are. The bits of all its numbers stay what they are. On the threads of `pool`, if
/// there is one. Pages of a file map that have been copied leave the process's memory, so that a model is not there twice. Throws std::bad_alloc;
/// ShapeError for blocks that are no matrix.
Weight pack(const Weight& weight, ThreadPool* pool = nullptr);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/pack.ipp>
#endif
