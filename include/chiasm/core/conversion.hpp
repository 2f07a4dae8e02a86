/// Conversion: what becomes of a checkpoint's tensors on their way to a model.
#pragma once

#include <chiasm/core/callback.hpp>
#include <chiasm/core/cancel_token.hpp>
#include <chiasm/core/thread_pool.hpp>
#include <chiasm/core/weight.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// What loading makes of matrices. Vectors (norms, biases) are f32 in any case.
enum class WeightKind : std::uint8_t {
  keep,  // as the file has them: f32, f16, bf16 or blocks; other dtypes become f32
  f32,
  bf16,
  q8,    // q8_0: 8.5 bits a number
  q4,    // iq4_nl: 4.5 bits a number
  i8,    // q8_row: 8 bits a number and one scale a row; blocks too become that. For Compute::i8
};

/// What a tensor is taken for.
enum class WeightUse : std::uint8_t {
  product,  // the matrix of a Linear; or whatever it is
  rows,     // a table of which rows are looked up
};

/// The dtype that a tensor comes in. q8, q4 and i8 are for the matrices of products: a tensor that is in blocks stays what it is (but for i8), tables of which rows are looked up
/// stay as the file has them (reading a row costs little however it is stored), and what is no matrix (the patches of a convolution) or has rows shorter
/// than a block becomes bf16.
DType converted_type(const Weight& stored, WeightKind kind, WeightUse use = WeightUse::product) noexcept;

/// Tensors that have been converted before. `name` says under which name a tree has the tensor.
class ConvertedTensors {
 public:
  virtual ~ConvertedTensors() = default;
  /// What add() got for this tensor, type and layout, or nothing.
  virtual std::optional<Weight> find(std::string_view name, const Weight& stored, DType type, Layout layout) = 0;
  virtual void add(std::string_view name, const Weight& stored, const Weight& converted) = 0;
};

/// How a tree converts what is taken from it.
struct Conversion {
  WeightKind kind = WeightKind::keep;
  std::shared_ptr<ThreadPool> threads = {};  // none: a pool is made for the first matrix
  CancelToken cancel = {};                   // ends a conversion with Cancelled
  Callback<void(std::string_view tensor, std::size_t done, std::size_t total)> on_progress = {};  // after each tensor that took work; counts tensors
  std::shared_ptr<ConvertedTensors> before = {};
};

/// A tensor in `type`: itself if it is that, and in that layout; quantised by least squares if `type` is what quantize() writes; floats rounded to nearest even.
/// Matrices in blocks come in panels if `layout` says so; rows come in `order`, if there is one (see Weight::gather). Pages of a file map that have been read leave the process's memory. Throws Cancelled,
/// UnsupportedError (a dtype that is no number, a type that cannot be made), std::bad_alloc.
Weight convert(const Weight& stored, DType type, Layout layout = Layout::rows, ThreadPool* threads = nullptr, const CancelToken& cancel = {},
               const std::vector<std::uint32_t>* order = nullptr);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/conversion.ipp>
#endif
