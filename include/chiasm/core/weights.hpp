/// Weights: the named tensors of a checkpoint as a tree, `w / "model" / "layers" / 3`. Taking one checks its shape and marks
/// it as used; expect_all_used() then finds what a model forgot.
#pragma once

#include <chiasm/core/conversion.hpp>
#include <chiasm/core/function_ref.hpp>
#include <chiasm/core/weight.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

/// Copies and nodes share one tree, and trees made from it share its marks of use: for one thread at a time, unlike the models made from it.
class Weights {
 public:
  Weights();
  /// `source` is what messages call the whole: the folder or file.
  Weights(std::vector<Weight> tensors, std::string source, WeightKind kind = WeightKind::keep);

  Weights operator/(std::string_view child) const;
  Weights operator/(std::size_t child) const { return *this / std::to_string(child); }

  /// The tensor `name` below this node, of this shape, as kernels take it: converted as Conversion says. Throws WeightError.
  Weight get(std::string_view name, Shape shape) const;
  /// As get(), for products: a matrix in blocks is in panels.
  Weight packed(std::string_view name, Shape shape) const;
  /// As get(), converted to f32: for vectors, tables of positions, queries.
  Tensor tensor(std::string_view name, Shape shape) const;
  /// As get(), for a table of which rows are looked up: not quantised, and row after row.
  Weight table(std::string_view name, Shape shape) const;
  /// As get() without an expectation of its shape. Throws WeightError if there is none.
  Weight get(std::string_view name) const;
  /// The same as the file has it: to look at its shape, or to take it to pieces.
  Weight stored(std::string_view name) const;
  Weight stored(std::string_view name, Shape shape) const;
  /// What packed() makes of a tensor that is no longer, or never was, in the tree: a table that is an output projection, too.
  Weight converted(const Weight& weight) const;
  /// Whether a tensor of this name is there, or any tensor below it ("multi_modal_projector").
  bool contains(std::string_view name) const;

  /// Marks every tensor below this node whose full name contains `part` as used: buffers that files carry along.
  void ignore(std::string_view part) const;
  /// Throws WeightError naming the first tensor below this node that nothing has taken, and how many there are.
  void expect_all_used() const;

  /// The same tensors under names that `rename` gives; an empty name drops the tensor. Throws WeightError where two get one name.
  Weights renamed(FunctionRef<std::string(std::string_view)> rename) const;
  /// The same tree, where tensors for which `order` gives one come with their rows in that order (see Weight::gather) once they are taken.
  using RowOrder = std::shared_ptr<const std::vector<std::uint32_t>>;
  Weights reordered(FunctionRef<RowOrder(const Weight& weight)> order) const;
  /// The same tensors in a tree that converts them so.
  Weights converting(Conversion conversion) const;
  /// This node's tensors and `more`'s in one tree. Throws WeightError where two have one name.
  Weights merged(const Weights& more) const;
  /// The same tree with `extra` in it, replacing one of that name.
  Weights with(Weight extra) const;
  /// The same under a name of one's own: a part of another tensor.
  Weights with(std::string_view name, Weight extra) const;
  /// The same tree, whose messages say of a missing tensor in which file it should be and what it is called there: `origin` knows this for names of the tree.
  struct Origin {
    std::string file, name;
  };
  Weights coming_from(Callback<Origin(std::string_view name)> origin) const;
  /// The same tensors in a tree that takes note and goes on, so that a model's constructor meets all that is wrong with a checkpoint, not only
  /// the first: get() and tensor() add a WeightError to `findings` for what is missing or of another shape and return zeros, expect_all_used()
  /// adds one for each tensor left over, and nothing is converted. A model with findings is of no use. `findings` must outlive the tree.
  Weights noting(std::vector<WeightError>& findings) const;

  /// Names below this node, sorted, without its prefix.
  std::vector<std::string> names() const;
  const std::string& source() const noexcept;
  /// "model.layers.3." or "".
  const std::string& prefix() const noexcept { return prefix_; }
  /// Bytes of all tensors below this node.
  std::size_t bytes() const;

 private:
  struct Entry;
  struct Store;
  const Entry* find(std::string_view name) const;
  Weight missing(std::string_view name) const;
  const Entry* find(std::string_view name, const Shape& shape) const;
  std::shared_ptr<Store> store_;
  std::string prefix_;
};

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/weights.ipp>
#endif
