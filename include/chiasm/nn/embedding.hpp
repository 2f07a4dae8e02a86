/// Embedding: rows of a table by id.
#pragma once

#include <chiasm/core/block_format.hpp>
#include <chiasm/core/context.hpp>
#include <chiasm/core/token_id.hpp>
#include <chiasm/core/weights.hpp>
#include <chiasm/kernels/table.hpp>

#include <span>

namespace chiasm::inline CHIASM_ABI {

class Embedding {
 public:
  Embedding() = default;
  /// `weight` (rows, width) below `w`. Throws WeightError.
  Embedding(const Weights& w, std::size_t rows, std::size_t width) : weight_(w.table("weight", Shape{rows, width})) {}

  /// Throws ArgumentError for an id that has no row.
  Tensor operator()(Context& ctx, std::span<const TokenId> ids) const {  // (T) -> (T, D)
    const std::size_t rows = weight_.shape()[0], width = weight_.shape()[1], bytes = row_bytes(weight_.dtype(), width);
    Tensor y = ctx.empty(Shape{ids.size(), width});
    for (std::size_t t = 0; t < ids.size(); ++t) {
      if (ids[t] < 0 || static_cast<std::size_t>(ids[t]) >= rows)
        throw ArgumentError("Embedding: id " + std::to_string(ids[t]) + ", '" + weight_.name() + "' has " + std::to_string(rows) + " rows");
      const std::byte* const row = weight_.data() + static_cast<std::size_t>(ids[t]) * bytes;
      if (is_block_format(weight_.dtype()))
        dequantize(weight_.dtype(), row, y.row(t), width);
      else
        ctx.kernels().to_f32[static_cast<std::size_t>(weight_.dtype())](row, y.row(t), width);
    }
    return y;
  }

  /// The table; as a tied output projection, Weights::converted() of it.
  const Weight& weight() const noexcept { return weight_; }

 private:
  Weight weight_;
};

}  // namespace chiasm
