/// Eigen interop: tensors and views as Eigen maps without a copy, and Eigen expressions as tensors. Not part of chiasm.hpp.
#pragma once

#include <chiasm/core/context.hpp>
#include <chiasm/core/tensor.hpp>

#include <Eigen/Core>

#include <cstddef>
#include <string>
#include <type_traits>

namespace chiasm::inline CHIASM_ABI {

/// A row-major matrix over borrowed elements whose rows may lie apart; read-only where T is const.
template <class T>
using EigenMap = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                                               Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>,
                            Eigen::Unaligned, Eigen::OuterStride<>>;

/// A column vector over borrowed elements; read-only where T is const.
template <class T>
using EigenVectorMap = Eigen::Map<std::conditional_t<std::is_const_v<T>, const Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1>,
                                                     Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1>>>;

/// The view as a matrix (view.rows(), view.columns()): a vector is one row, and of more than two dimensions all but the last
/// count as rows. No copy: the map must not outlive the elements. Its rows lie view.stride() apart, so a column_slice works.
template <class T>
  requires std::is_arithmetic_v<T>
EigenMap<T> as_eigen(BasicView<T> view) {
  return {view.data(), static_cast<Eigen::Index>(view.rows()), static_cast<Eigen::Index>(view.columns()),
          Eigen::OuterStride<>(static_cast<Eigen::Index>(view.stride()))};
}
template <class T>
  requires std::is_arithmetic_v<T>
EigenMap<T> as_eigen(BasicTensor<T>& tensor) {
  return as_eigen(tensor.view());
}
template <class T>
  requires std::is_arithmetic_v<T>
EigenMap<const T> as_eigen(const BasicTensor<T>& tensor) {
  return as_eigen(tensor.view());
}
/// A temporary's elements would be gone before the map is used.
template <class T>
void as_eigen(const BasicTensor<T>&& tensor) = delete;

/// All elements as one column vector, in row-major order. Throws ShapeError if the rows lie apart.
template <class T>
  requires std::is_arithmetic_v<T>
EigenVectorMap<T> as_eigen_vector(BasicView<T> view) {
  if (!view.contiguous()) throw ShapeError("as_eigen_vector", view.shape().to_string() + " with rows " + std::to_string(view.stride()) + " apart");
  return {view.data(), static_cast<Eigen::Index>(view.size())};
}
template <class T>
  requires std::is_arithmetic_v<T>
EigenVectorMap<T> as_eigen_vector(BasicTensor<T>& tensor) {
  return as_eigen_vector(tensor.view());
}
template <class T>
  requires std::is_arithmetic_v<T>
EigenVectorMap<const T> as_eigen_vector(const BasicTensor<T>& tensor) {
  return as_eigen_vector(tensor.view());
}
template <class T>
void as_eigen_vector(const BasicTensor<T>&& tensor) = delete;

namespace detail {

/// Rank 1 for what Eigen knows at compile time to be a row or a column.
template <class Derived>
Shape eigen_shape(const Eigen::DenseBase<Derived>& expression) {
  if constexpr (Derived::IsVectorAtCompileTime) return {static_cast<std::size_t>(expression.size())};
  return {static_cast<std::size_t>(expression.rows()), static_cast<std::size_t>(expression.cols())};
}

template <class Derived>
void assign_eigen(typename Derived::Scalar* to, const Eigen::DenseBase<Derived>& expression) {
  if (expression.size() == 0) return;
  using T = typename Derived::Scalar;
  EigenMap<T> map(to, expression.rows(), expression.cols(), Eigen::OuterStride<>(expression.cols()));
  map.noalias() = expression.derived().matrix();
}

}  // namespace detail

/// A matrix or array expression evaluated into a tensor of shape (rows, columns); a vector gives shape (size). The storage order
/// of the expression does not matter. Throws std::bad_alloc.
template <class Derived>
  requires std::is_arithmetic_v<typename Derived::Scalar>
BasicTensor<typename Derived::Scalar> from_eigen(const Eigen::DenseBase<Derived>& expression) {
  BasicTensor<typename Derived::Scalar> tensor(detail::eigen_shape(expression));
  detail::assign_eigen(tensor.data(), expression);
  return tensor;
}
/// As above, in memory that the context recycles.
template <class Derived>
  requires std::is_arithmetic_v<typename Derived::Scalar>
BasicTensor<typename Derived::Scalar> from_eigen(Context& ctx, const Eigen::DenseBase<Derived>& expression) {
  auto tensor = ctx.empty<typename Derived::Scalar>(detail::eigen_shape(expression));
  detail::assign_eigen(tensor.data(), expression);
  return tensor;
}

}  // namespace chiasm
