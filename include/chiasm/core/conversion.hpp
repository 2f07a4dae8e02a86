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
  product,  // the matrix of a Linear, and all that is not a table
  rows,     // a table whose rows are looked up by id: embeddings
};

/// The dtype that a tensor is converted to. q8, q4 and i8 are for the matrices of products: tensors that are in blocks already stay as they are (except with i8),
/// so do tables (reading a row costs little however it is stored), and convolution kernels and matrices with rows shorter than a block become bf16.
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
  // Whether matrices of products in bf16 are laid out as AMX reads them (Layout::panels): prompts and pictures take a tenth less time with Compute::bf16, and
  // the weights are memory of the process then, not a map of the file. Without AMX, or with another Compute, each product would copy them back first.
  bool bf16_panels = false;
  std::shared_ptr<ThreadPool> threads = {};  // none: a pool is made for the first matrix
  CancelToken cancel = {};                   // ends a conversion with Cancelled
  Callback<void(std::string_view tensor, std::size_t done, std::size_t total)> on_progress = {};  // after each tensor that took work; counts tensors
  std::shared_ptr<ConvertedTensors> before = {};  // asked before a conversion and told of its result; null: none
};

/// A tensor in `type`: itself if it has that type and layout; quantised by least squares where quantize() writes `type`; floats rounded to nearest even.
/// Matrices in blocks or bf16 come in panels if `layout` says so; rows come in `order`, if there is one (see Weight::gather). Pages of a file map leave the process's
/// memory once they have been read. Throws Cancelled, UnsupportedError (a dtype that is not a number, a type that cannot be made), std::bad_alloc.
Weight convert(const Weight& stored, DType type, Layout layout = Layout::rows, ThreadPool* threads = nullptr, const CancelToken& cancel = {},
               const std::vector<std::uint32_t>* order = nullptr);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/conversion.ipp>
#endif
