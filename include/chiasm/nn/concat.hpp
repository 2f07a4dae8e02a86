/// Concat: rows of several tensors, one below the other.
#pragma once

#include <chiasm/core/context.hpp>

#include <cstring>
#include <initializer_list>
#include <span>

namespace chiasm::inline CHIASM_ABI {

/// (T1, D), (T2, D), ... -> (T1 + T2 + ..., D). Throws ShapeError.
inline Tensor concat(Context& ctx, std::span<const View> parts) {
  std::size_t rows = 0;
  for (const View& part : parts) {
    if (part.columns() != parts[0].columns()) throw ShapeError("concat", part.shape().to_string() + " below " + parts[0].shape().to_string());
    rows += part.rows();
  }
  if (rows == 0) throw ShapeError("concat", "nothing to join");
  Tensor joined = ctx.empty(Shape{rows, parts[0].columns()});
  std::size_t row = 0;
  for (const View& part : parts)
    for (std::size_t i = 0; i < part.rows(); ++i) std::memcpy(joined.row(row++), part.row(i), part.columns() * sizeof(float));
  return joined;
}
inline Tensor concat(Context& ctx, std::initializer_list<View> parts) { return concat(ctx, std::span<const View>(parts.begin(), parts.size())); }

}  // namespace chiasm
