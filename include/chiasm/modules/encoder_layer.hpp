/// EncoderLayer: the pre-norm transformer block that CLIP and SigLIP share in both towers, and EVA-CLIP's vision tower. ViT, arXiv:2010.11929;
/// CLIP, arXiv:2103.00020; EVA-CLIP, arXiv:2303.15389.
#pragma once

#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>
#include <chiasm/nn/self_attention.hpp>

namespace chiasm::inline CHIASM_ABI {

struct EncoderLayerConfig {
  std::size_t hidden_size, intermediate_size, num_attention_heads;
  Activation hidden_act;
  float layer_norm_eps;
  // EVA-CLIP, as BLIP-2 keeps it, has queries, keys and values in one matrix `qkv`, and calls its output `projection`.
  bool fused_qkv = false, qkv_bias = true;
};

/// Multi-head self-attention over each sequence of a batch, without a cache.
class SelfAttention {
 public:
  SelfAttention() = default;
  SelfAttention(const Weights& w, const EncoderLayerConfig& c)
      : qkv_(c.fused_qkv ? Linear(w / "qkv", c.hidden_size, 3 * c.hidden_size, c.qkv_bias)
                         : Linear(w, {{"q_proj", c.hidden_size}, {"k_proj", c.hidden_size}, {"v_proj", c.hidden_size}}, c.hidden_size)),
        out_proj_(w / (c.fused_qkv ? "projection" : "out_proj"), c.hidden_size, c.hidden_size),
        heads_(c.num_attention_heads) {}

  /// Added to `y`. `mask`, if any, is (N, T, T) and added to the scores.
  void add(Context& ctx, const Operand& x, bool causal, View mask, MutView y) const {  // (N, T, D), (N, T, D)
    const Attend attend = Attend::scaled(heads_, x.columns() / heads_, causal);
    out_proj_(ctx, self_attention(ctx, qkv_, x, attend, mask), y, Activation::none, y);
  }

 private:
  Linear qkv_, out_proj_;
  std::size_t heads_ = 1;
};

class EncoderLayer {
 public:
  EncoderLayer(const Weights& w, const EncoderLayerConfig& c)
      : layer_norm1_(w / "layer_norm1", c.hidden_size, c.layer_norm_eps),
        self_attn_(w / "self_attn", c),
        layer_norm2_(w / "layer_norm2", c.hidden_size, c.layer_norm_eps),
        mlp_(w / "mlp", "fc1", "fc2", c.hidden_size, c.intermediate_size, c.hidden_size, c.hidden_act) {}

  /// In place: adding to rows that are in the cache is faster than writing new ones.
  void operator()(Context& ctx, MutView x, bool causal = false, View mask = {}) const {  // (N, T, D)
    self_attn_.add(ctx, layer_norm1_.operand(ctx, x), causal, mask, x);
    mlp_.add(ctx, layer_norm2_.operand(ctx, x), x);
  }

 private:
  LayerNorm layer_norm1_;
  SelfAttention self_attn_;
  LayerNorm layer_norm2_;
  Mlp mlp_;
};

}  // namespace chiasm
