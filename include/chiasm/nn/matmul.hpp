/// Matmul: the product with a weight as its file stores it, and what is done to the result on its way to memory.
#pragma once

#include <chiasm/core/activation.hpp>
#include <chiasm/core/context.hpp>
#include <chiasm/core/weight.hpp>

#include <span>

namespace chiasm::inline CHIASM_ABI {

/// What follows the product: activation(product + bias) + residual.
struct Epilogue {
  const float* bias = nullptr;  // (N)
  Activation activation = Activation::none;
  View residual = {};  // (M, N), may be the output itself
};

/// y (M, N) = x (M, K) Wᵀ with W (N, K) in f32, f16 or bf16. Rows of x, y and residual may lie apart; x and y may not overlap.
/// Activations stay f32 unless Context::compute() is bf16. The same result, bit for bit, for any number of threads.
/// Throws ShapeError, UnsupportedError (other dtypes), Cancelled.
void matmul(Context& ctx, View x, const Weight& w, MutView y, const Epilogue& epilogue = {});

/// One of several products of the same x.
struct Product {
  const Weight* weight = nullptr;
  MutView y = {};
  Epilogue epilogue = {};
};

/// All products of one x, which is packed once and read by all: queries, keys and values, or gate and up.
void matmul(Context& ctx, View x, std::span<const Product> products);

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/matmul.ipp>
#endif
