/// EncoderLayer: the pre-norm transformer block that CLIP and SigLIP share in both towers, and EVA-CLIP's vision tower. ViT, arXiv:2010.11929;
/// CLIP, arXiv:2103.00020; EVA-CLIP, arXiv:2303.15389.
#pragma once

#include <chiasm/nn/attention.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>

#include <cmath>

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

  /// Adds `residual`. `mask`, if any, is (N, T, T) and added to the scores.
  Tensor operator()(Context& ctx, const Operand& x, bool causal, View mask, View residual) const {  // (N, T, D) -> (N, T, D)
    const std::size_t sequences = x.shape()[0], length = x.shape()[1], width = x.columns(), head_dim = width / heads_;
    const Tensor qkv = qkv_(ctx, x);                // (N, T, 3 D)
    Tensor mixed = ctx.empty(x.shape());            // (N, T, D)
    for (std::size_t n = 0; n < sequences; ++n) {
      const View one = qkv.view()[n];               // (T, 3 D)
      KvView kv{one.data() + width, one.data() + 2 * width, length, 3 * width, head_dim, 3 * width, head_dim};
      Attend attend;
      attend.heads = attend.kv_heads = heads_;
      attend.head_dim = attend.v_dim = head_dim;
      attend.scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
      attend.causal = causal;
      if (!mask.empty()) attend.mask = mask[n];
      attention(ctx, one.column_slice(0, width), kv, mixed.view()[n], attend);
    }
    return out_proj_(ctx, mixed, Activation::none, residual);
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

  Tensor operator()(Context& ctx, View x, bool causal = false, View mask = {}) const {  // (N, T, D) -> (N, T, D)
    const Tensor y = self_attn_(ctx, layer_norm1_.operand(ctx, x), causal, mask, x);
    return mlp_(ctx, layer_norm2_.operand(ctx, y), y);
  }

 private:
  LayerNorm layer_norm1_;
  SelfAttention self_attn_;
  LayerNorm layer_norm2_;
  Mlp mlp_;
};

}  // namespace chiasm
