/// Matmul: the product with a weight as its file stores it, and what is done to the result on its way to memory.
#pragma once

#include <chiasm/core/activation.hpp>
#include <chiasm/core/context.hpp>
#include <chiasm/core/weight.hpp>
#include <chiasm/nn/operand.hpp>

#include <span>
#include <string_view>

namespace chiasm::inline CHIASM_ABI {

namespace kernels {
struct HeadsOutput;
}

/// What follows the product: activation(product + bias) + residual.
struct Epilogue {
  const float* bias = nullptr;  // (N)
  Activation activation = Activation::none;
  View residual = {};  // (M, N), may be the output itself
};

/// y (M, N) = x (M, K) Wᵀ with W (N, K) in f32, f16, bf16 or a block format. Rows of x, y and residual may lie apart; x and y may not overlap.
/// Blocks should come from pack(): in rows, as files have them, they are packed anew for every product.
/// How far x is rounded on the way, Context::compute() says (see Compute). The same result, bit for bit, for any number of threads.
/// Throws ShapeError, UnsupportedError (other dtypes), Cancelled.
void matmul(Context& ctx, const Operand& x, const Weight& w, MutView y, const Epilogue& epilogue = {});

/// One of several products of the same x.
struct Product {
  const Weight* weight = nullptr;
  MutView y = {};
  Epilogue epilogue = {};
  const kernels::HeadsOutput* heads = nullptr;  // instead of y, where writes_heads(): then the epilogue is the bias alone
};

/// Whether the product of so many rows of x with `w` can write Product::heads.
bool writes_heads(Context& ctx, std::size_t rows, const Weight& w);

/// Whether products read weights in bf16 best in panels (Conversion::bf16_panels): with AMX, where x may be rounded. `isa` as for a Context. Throws
/// ArgumentError for a tier that is not there.
bool reads_bf16_panels(Compute compute, std::string_view isa = {});

/// All products of one x, which is packed once and read by all: queries, keys and values, or gate and up.
void matmul(Context& ctx, const Operand& x, std::span<const Product> products);

/// One factor of matmul_operand(): x Wᵀ + bias.
struct Factor {
  const Weight* weight = nullptr;
  const float* bias = nullptr;  // (N)
};

/// activation(x Wᵀ + bias), or with a gate activation(x Gᵀ + gate_bias) * (x Wᵀ + bias), (..., K) -> (..., N), for the product that comes next.
/// Throws as matmul().
Operand matmul_operand(Context& ctx, const Operand& x, const Factor& factor, Activation activation, const Factor& gate = {});

}  // namespace chiasm

#ifndef CHIASM_COMPILED
#include <chiasm/impl/matmul.ipp>
#endif
