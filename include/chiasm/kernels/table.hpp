/// Table: one function pointer per operation and weight kind. Every tier fills one; Context carries the one that runs.
///
/// All kernels work on raw pointers, never allocate and never throw. Activations are f32. Strides are counted in floats,
/// strides of weights in bytes; weights may lie at any address. Outputs may not overlap inputs except where it is said.
#pragma once

#include <chiasm/core/activation.hpp>
#include <chiasm/core/dtype.hpp>
#include <chiasm/core/panel.hpp>
#include <chiasm/kernels/isa.hpp>
#include <chiasm/kernels/kv_layout.hpp>

#include <cstddef>

namespace chiasm::inline CHIASM_ABI {
namespace kernels {

/// Where a product writes the queries, keys or values of an attention to come, in bf16 as the attention's tiles read them. The product's outputs are heads of
/// `head_dim` numbers each, an even number; its tokens are sequences of `length`, one behind the other. Keys and values go to the blocks of kv_layout.hpp,
/// queries, times `scale`, to rows of head_dim numbers and zeros up to a multiple of 32.
struct HeadsOutput {
  enum class Kind : std::uint8_t { queries, keys, values };
  Kind kind = Kind::queries;
  unsigned char* data = nullptr;  // of the first sequence's first head; 64-byte aligned, as the strides are
  std::size_t head_dim = 0, head_bytes = 0;
  std::size_t length = 0, sequence_bytes = 0;
  float scale = 1.0f;
};

/// Where a product goes, and what is done on its way there: y = activation(product + bias) + residual, or, of a gated product,
/// activation(gate's product + gate_bias) * (product + bias). In rows, as the packed x of the next product, or as the heads of an attention.
struct Output {
  float* y = nullptr;
  std::size_t stride = 0;           // of y's rows
  const float* bias = nullptr;      // (N) or null
  const float* residual = nullptr;  // (M, N) or null; may be y itself. Rows only
  std::size_t residual_stride = 0;
  Activation activation = Activation::none;
  const float* gate_bias = nullptr;  // (N) or null
  void* packed = nullptr;            // instead of y: x of the same tokens as Gemm::pack would have it, of depth N
  std::size_t packed_depth = 0;      // N
  const HeadsOutput* heads = nullptr;  // or this instead of y, where Gemm::writes_heads. With bias, and nothing else
};

/// y (tokens, N) = x (tokens, depth) Wᵀ for many tokens: x is packed once, then ranges of panels and outputs are independent.
/// Weights in block formats lie in panels (core/panel.hpp): `weight_stride` is then the bytes of a panel.
struct GemmCall {
  const void* packed = nullptr;  // from Gemm::pack
  std::size_t tokens = 0, depth = 0;
  const void* weight = nullptr;                  // row n, (depth) elements, begins at weight + n * weight_stride bytes
  std::size_t weight_stride = 0;                 // bytes
  std::size_t panel_begin = 0, panel_end = 0;    // panels of Gemm::panel tokens
  std::size_t output_begin = 0, output_end = 0;  // of [0, N)
  Output out;
  void* scratch = nullptr;     // Gemm::scratch_bytes, 64-byte aligned
  const void* gate = nullptr;  // of a gated product: W of the gate, as `weight` is. Packed outputs only
};

struct Gemm {
  std::size_t panel = 0;  // tokens of a panel
  std::size_t step = 0;   // ranges of outputs begin at multiples of this, or else waste time; of packed outputs they must
  std::size_t block = 0;  // outputs for which x is read once: pieces of fewer read it from memory more often
  std::size_t scratch_bytes = 0;
  std::size_t (*packed_bytes)(std::size_t tokens, std::size_t depth) noexcept = nullptr;
  /// Packs panels [begin, end) of x, whose rows lie `stride` floats apart, to 64-byte aligned memory. `x` is the first row of panel `begin`.
  void (*pack)(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, std::size_t begin, std::size_t end,
               void* packed) noexcept = nullptr;
  void (*run)(const GemmCall& call) noexcept = nullptr;
  /// Of packed outputs of such a depth, ranges must begin at multiples of this, not of `step`. Null: of `step`.
  std::size_t (*packed_step)(std::size_t depth) noexcept = nullptr;
  /// Tokens [begin, end) of packed x as rows, `stride` floats apart. Null where weights of all kinds read x in this form.
  void (*unpack)(const void* packed, std::size_t tokens, std::size_t depth, std::size_t begin, std::size_t end, float* rows, std::size_t stride) noexcept = nullptr;
  bool writes_heads = false;  // whether run() takes Output::heads
};

/// The same for few tokens, where the time is that of reading the weights: rows of W are read once, in place.
struct GemvCall {
  const float* x = nullptr;
  std::size_t x_stride = 0, tokens = 0, depth = 0;
  const void* weight = nullptr;
  std::size_t weight_stride = 0;  // bytes
  std::size_t output_begin = 0, output_end = 0;
  Output out;
};

/// The same with x rounded: to eight bits, for weights in block formats and any number of tokens; or to bf16, for weights in bf16.
struct QuantizedCall {
  const void* quantized = nullptr;  // from Table::quantize, or Few::pack
  std::size_t tokens = 0, depth = 0;
  const void* weight = nullptr;
  std::size_t weight_stride = 0;  // bytes of a panel
  std::size_t output_begin = 0, output_end = 0;
  Output out;
};

/// Products of few tokens with weights in bf16, x rounded to bf16. A token's result does not depend, to the bit, on which tokens are multiplied with it.
struct Few {
  std::size_t tokens = 0;  // at most; 0 where a tier has none
  std::size_t (*packed_bytes)(std::size_t tokens, std::size_t depth) noexcept = nullptr;
  void (*pack)(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, void* packed) noexcept = nullptr;
  void (*run)(const QuantizedCall& call) noexcept = nullptr;
  void (*run_panels)(const QuantizedCall& call) noexcept = nullptr;  // of bf16 in panels
};

/// Softmax(scale q kᵀ + bias) v for rows of one key-value head. A row is a pair of a query and one of the heads that share the
/// key-value head: row r is query r / group, head kv_head * group + r % group, with group = heads / kv_heads.
struct AttentionCall {
  const float* q = nullptr;  // query i of head h at q + i * q_row + h * head_dim
  std::size_t q_row = 0;
  const void* q_rows = nullptr;  // instead of q, where Attention::operands: head h's queries, times scale * log2(e), at q_rows + h * q_head bytes, as HeadsOutput
  std::size_t q_head = 0;
  KvKind kind = KvKind::f32;  // automatic: f32
  const void* k = nullptr;    // f32: key j of head g at k + j * k_row + g * k_head floats. Else head g's blocks of kv_layout.hpp at k + g * k_head bytes
  std::size_t k_row = 0, k_head = 0;
  const void* v = nullptr;
  std::size_t v_row = 0, v_head = 0;
  float* y = nullptr;  // query i of head h at y + i * y_row + h * v_dim
  std::size_t y_row = 0;
  // Instead of y, where Attention::operands: x of a product of packed_tokens tokens, as Gemm::pack of the same Compute has it, of depth packed_depth;
  // query i is its token packed_first + i. For an even v_dim, a multiple of 32 in all heads, and nothing partial.
  void* packed = nullptr;
  std::size_t packed_first = 0, packed_tokens = 0, packed_depth = 0;
  std::size_t queries = 0, keys = 0, heads = 0, kv_heads = 0, head_dim = 0, v_dim = 0;
  float scale = 1;
  bool causal = false;          // key j is visible to query i iff j <= offset + i
  std::size_t offset = 0;       // position of query 0 among the keys
  std::size_t window = 0;       // and iff j > offset + i - window; 0: no window
  const float* mask = nullptr;  // (queries, keys), added; -inf hides. A row that sees nothing becomes 0
  std::size_t mask_row = 0;
  const float* alibi_slopes = nullptr;                  // (heads): slope * (j - (offset + i)) is added
  const float* distance_bias = nullptr;                 // head h's entry [j - (offset + i)], before or behind the pointer, is added
  std::size_t distance_bias_head = 0;
  std::size_t kv_head = 0, row_begin = 0, row_end = 0;  // the part to compute: at most Attention::rows rows
  // A part of the keys, [key_begin, key_end): their sums go to `partial`, v_dim + 2 floats for each row, and Attention::combine makes y of all parts.
  std::size_t key_begin = 0, key_end = static_cast<std::size_t>(-1);
  float* partial = nullptr;
  void* scratch = nullptr;  // Attention::scratch_bytes(head_dim, v_dim), 64-byte aligned
};

struct Attention {
  std::size_t rows = 0;  // the most rows of one call; ranges should begin at a multiple of it
  std::size_t (*scratch_bytes)(std::size_t head_dim, std::size_t v_dim) noexcept = nullptr;
  void (*run)(const AttentionCall& call) noexcept = nullptr;
  /// One row's `count` partial results, `stride` floats apart.
  void (*combine)(const float* partials, std::size_t count, std::size_t stride, std::size_t v_dim, float* y) noexcept = nullptr;
  bool operands = false;  // whether run() takes q_rows and packed, of more than 32 rows in a call's parts, keys not in q8
};

/// Ways into and out of caches.
struct KvStore {
  void (*write_keys)(const KvRows& rows) noexcept = nullptr;
  void (*write_values)(const KvRows& rows) noexcept = nullptr;
  void (*read_keys)(const KvRows& rows) noexcept = nullptr;
  void (*read_values)(const KvRows& rows) noexcept = nullptr;
};

inline constexpr std::size_t compute_kinds = 3;  // of Compute: f32, bf16, i8

/// What products have kernels for: every DType that weights have, and bf16 in panels.
inline constexpr std::size_t bf16_panels = weight_kinds, product_kinds = weight_kinds + 1;

struct Table {
  Isa isa = Isa::scalar;

  // Products, by Compute and by the weights' kind: kinds differ in `run` only, so that one packed x serves weights of several kinds; but for
  // Compute::i8, where q8_row may read x in a form of its own. Nothing for bf16_panels where a tier does not read them. Attention by Compute.
  Gemm gemm[compute_kinds][product_kinds];
  void (*gemv[weight_kinds])(const GemvCall& call) noexcept = {};
  std::size_t gemv_tokens[compute_kinds][weight_kinds] = {};  // up to so many tokens gemv is the faster one

  // Products of weights in block formats with activations of eight bits; null where a tier has none.
  std::size_t (*quantized_bytes)(std::size_t tokens, std::size_t depth) noexcept = nullptr;
  /// Rows of x, `stride` floats apart, one behind the other: row t begins at quantized_bytes(t, depth). x that is not finite makes its products NaN.
  void (*quantize)(const float* x, std::size_t stride, std::size_t tokens, std::size_t depth, void* quantized) noexcept = nullptr;
  void (*gemv_i8[weight_kinds])(const QuantizedCall& call) noexcept = {};
  std::size_t i8_tokens = 0;  // up to so many tokens gemv_i8 is faster than gemm
  Few few;
  Attention attention[compute_kinds];
  KvStore kv;

  // Rows. y may be x.
  void (*softmax)(const float* x, float* y, std::size_t n) noexcept = nullptr;  // all -inf gives 0
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* y,
                     std::size_t n) noexcept = nullptr;  // weight, bias: may be null
  void (*rms_norm)(const float* x, const float* weight, float eps, float* y, std::size_t n) noexcept = nullptr;

  // Elements. y may be any of the inputs.
  void (*activate)(Activation activation, const float* x, float* y, std::size_t n) noexcept = nullptr;
  void (*gated)(Activation activation, const float* gate, const float* up, float* y,
                std::size_t n) noexcept = nullptr;  // activation(gate) * up
  void (*add)(const float* a, const float* b, float* y, std::size_t n) noexcept = nullptr;
  void (*mul)(const float* a, const float* b, float* y, std::size_t n) noexcept = nullptr;
  void (*scale)(float a, const float* x, float* y, std::size_t n) noexcept = nullptr;
  void (*axpy)(float a, const float* x, float* y, std::size_t n) noexcept = nullptr;  // y += a x
  float (*dot)(const float* a, const float* b, std::size_t n) noexcept = nullptr;
  std::size_t (*argmax)(const float* x, std::size_t n) noexcept = nullptr;  // the first of the largest; 0 for n = 0

  /// Rotates the first 2 `half` dimensions of every head of one token in place: (x1, x2) becomes (x1 cos - x2 sin, x2 cos + x1
  /// sin), where x1 and x2 are the halves and cos, sin have `half` entries. RoFormer, arXiv:2104.09864, in the order of GPT-NeoX
  /// and Llama.
  void (*rope)(float* x, std::size_t heads, std::size_t head_dim, const float* cosine, const float* sine,
               std::size_t half) noexcept = nullptr;

  // Conversions, round to nearest even. Memory of weights may be unaligned.
  void (*to_f32[float_kinds])(const void* x, float* y, std::size_t n) noexcept = {};
  void (*from_f32[float_kinds])(const float* x, void* y, std::size_t n) noexcept = {};
};

}  // namespace kernels
}  // namespace chiasm
