/// MPT: linear biases for positions (ALiBi, arXiv:2108.12409), norms and projections without biases. mosaicml.com/blog/mpt-7b; also MosaicGPT,
/// its forerunner of one billion parameters, on which OpenFlamingo 3B stands. Fields mean what their authors' code makes of them. transformers'
/// MptForCausalLM heeds few of them, and writes files without the tensors that the others ask for: there, the tensors count.
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/decoder_stack.hpp>
#include <chiasm/nn/mlp.hpp>
#include <chiasm/nn/norm.hpp>

#include <cmath>
#include <string>
#include <vector>

namespace chiasm::inline CHIASM_ABI {

struct MptConfig {
  std::size_t vocab_size = 50368, d_model = 2048, n_heads = 16, n_layers = 24, max_seq_len = 2048;
  std::size_t expansion_ratio = 4;
  float layer_norm_epsilon = 1e-5f;
  bool alibi = true;  // false: learned positions, if they are in the file
  float alibi_bias_max = 8.0f;
  float clip_qkv = 0.0f;       // queries, keys and values to [-clip, clip]; 0: no
  float softmax_scale = 0.0f;  // 0: 1 / sqrt(d_model / n_heads)
  float logit_scale = 1.0f;
  bool qk_ln = false;  // a norm over all heads' queries, and one over their keys; false: if they are in the file

  /// From config.json of `mpt` or `mosaic_gpt`. Throws ConfigError, UnsupportedError.
  static MptConfig from(const Json& config) {
    const bool mosaic = config.get<std::string>("model_type", "mpt") == "mosaic_gpt";
    const Json attention = mosaic ? config : config.find("attn_config");
    MptConfig c;
    c.vocab_size = config_size(config, "vocab_size", c.vocab_size);
    c.d_model = config_size(config, config.contains("d_model") ? "d_model" : "hidden_size", c.d_model);
    c.n_heads = config_size(config, config.contains("n_heads") ? "n_heads" : "num_attention_heads", c.n_heads);
    config_divides(config, "n_heads", c.n_heads, c.d_model);
    c.n_layers = config_layers(config, config.contains("n_layers") ? "n_layers" : "num_hidden_layers", c.n_layers);
    c.max_seq_len = config_size(config, "max_seq_len", c.max_seq_len);
    c.expansion_ratio = config_size(config, mosaic ? "mlp_ratio" : "expansion_ratio", c.expansion_ratio);
    c.layer_norm_epsilon = static_cast<float>(config_positive(config, "layer_norm_epsilon", 1e-5));
    c.alibi = attention.get<bool>("alibi", !mosaic);
    c.alibi_bias_max = static_cast<float>(config_positive(attention, "alibi_bias_max", 8.0));
    c.clip_qkv = attention.get<float>(mosaic ? "attn_clip_qkv" : "clip_qkv", 0.0f);
    if (!(c.clip_qkv >= 0)) attention[mosaic ? "attn_clip_qkv" : "clip_qkv"].fail("is negative");
    if (!attention.find("softmax_scale").is_null()) c.softmax_scale = static_cast<float>(config_positive(attention, "softmax_scale", 1.0));
    if (mosaic) c.qk_ln = config.get<bool>("attn_qk_ln", false);
    const Json scale = config.find("logit_scale");
    if (scale.is_string() && scale.as_string() == "inv_sqrt_d_model") c.logit_scale = 1.0f / std::sqrt(static_cast<float>(c.d_model));
    else if (!scale.is_null()) c.logit_scale = static_cast<float>(config_positive(config, "logit_scale", 1.0));
    const auto refuse = [&](bool there, const std::string& what) {
      if (there) throw UnsupportedError(what + " of MPT (" + config.file() + ")");
    };
    refuse(attention.get<bool>("prefix_lm", false), "prefix_lm");
    refuse(attention.get<bool>("rope", false), "rotary positions");
    refuse(config.get<std::string>("norm_type", "layernorm").ends_with("rmsnorm"), "the RMS norm");
    return c;
  }

  /// Per head, falling from 2^-(bias_max / n) to 2^-bias_max, n being the next power of two: of one more than n_heads, the odd ones come first.
  std::vector<float> alibi_slopes() const {
    std::size_t power = 1;
    while (power < n_heads) power *= 2;
    std::vector<float> slopes;
    const auto add = [&](std::size_t first, std::size_t step) {
      for (std::size_t i = first; i <= power && slopes.size() < n_heads; i += step)
        slopes.push_back(1.0f / std::pow(2.0f, static_cast<float>(i) * (alibi_bias_max / static_cast<float>(power))));
    };
    if (power == n_heads) add(1, 1);
    else add(2, 2), add(1, 2);
    return slopes;
  }
};

namespace detail {
inline LayerNorm mpt_norm(const Weights& w, const MptConfig& c) { return LayerNorm(w, c.d_model, c.layer_norm_epsilon, w.contains("bias")); }
}  // namespace detail

class MptAttention {
 public:
  MptAttention(const Weights& w, const MptConfig& c)
      : Wqkv_(w / "Wqkv", c.d_model, 3 * c.d_model, w.contains("Wqkv.bias")),
        out_proj_(w / "out_proj", c.d_model, c.d_model, w.contains("out_proj.bias")),
        qk_ln_(c.qk_ln || w.contains("q_ln")),
        clip_qkv_(c.clip_qkv) {
    if (qk_ln_) q_ln_ = detail::mpt_norm(w / "q_ln", c), k_ln_ = detail::mpt_norm(w / "k_ln", c);
    attend_ = Attend::scaled(c.n_heads, c.d_model / c.n_heads, true);
    if (c.softmax_scale != 0) attend_.scale = c.softmax_scale;
  }

  Tensor operator()(Context& ctx, const Operand& x, const DecoderPass& pass, const float* alibi_slopes, View residual) const {  // (T, D) -> (T, D)
    const std::size_t width = x.columns();
    Tensor qkv = Wqkv_(ctx, x);                                                                                       // (T, 3 D)
    if (clip_qkv_ != 0)
      for (float& value : qkv.values()) value = std::min(std::max(value, -clip_qkv_), clip_qkv_);
    const View all = qkv;
    View q = all.column_slice(0, width), k = all.column_slice(width, width);
    const Tensor normed_q = qk_ln_ ? q_ln_(ctx, q) : Tensor(), normed_k = qk_ln_ ? k_ln_(ctx, k) : Tensor();
    if (qk_ln_) q = normed_q, k = normed_k;
    Attend attend = attend_;
    attend.alibi_slopes = alibi_slopes;
    return out_proj_(ctx, pass.attend(ctx, q, k, all.column_slice(2 * width, width), attend), Activation::none, residual);
  }

 private:
  Linear Wqkv_, out_proj_;
  bool qk_ln_;
  LayerNorm q_ln_, k_ln_;
  float clip_qkv_;
  Attend attend_;
};

class MptBlock {
 public:
  MptBlock(const Weights& w, const MptConfig& c)
      : norm_1_(detail::mpt_norm(w / "norm_1", c)),
        attn_(w / "attn", c),
        norm_2_(detail::mpt_norm(w / "norm_2", c)),
        ffn_(w / "ffn", "up_proj", "down_proj", c.d_model, c.expansion_ratio * c.d_model, c.d_model, Activation::gelu, w.contains("ffn.up_proj.bias")) {}

  Tensor operator()(Context& ctx, View x, const DecoderPass& pass, const float* alibi_slopes) const {  // (T, D) -> (T, D)
    const Tensor y = attn_(ctx, norm_1_.operand(ctx, x), pass, alibi_slopes, x);
    return ffn_(ctx, norm_2_.operand(ctx, y), y);
  }

 private:
  LayerNorm norm_1_;
  MptAttention attn_;
  LayerNorm norm_2_;
  Mlp ffn_;
};

class Mpt : public DecoderStack {
 public:
  /// `transformer` in any of normalise()'s layouts; `lm_head` unless it is tied to the embeddings. Throws WeightError.
  Mpt(const Weights& checkpoint, MptConfig config) : Mpt(std::move(config), normalise(checkpoint)) {}

  const MptConfig& config() const noexcept { return config_; }

  Tensor embed(Context& ctx, std::span<const TokenId> ids) const override { return wte_(ctx, ids); }  // (T) -> (T, D)
  Tensor logits(Context& ctx, View hidden) const override {                                           // (T, D) -> (T, V)
    Tensor y = lm_head_(ctx, hidden);
    if (config_.logit_scale != 1) ctx.kernels().scale(config_.logit_scale, y.data(), y.data(), y.size());
    return y;
  }

  /// MosaicGPT's names, `ln_1`, `mlp.mlp_up`, in the oldest files `causal_attn`, as MPT's.
  static Weights normalise(const Weights& checkpoint) {
    return checkpoint.renamed([](std::string_view name) {
      std::string result(name);
      const auto replace = [&](std::string_view part, std::string_view with) {
        if (const std::size_t at = result.find(part); at != std::string::npos) result.replace(at, part.size(), with);
      };
      replace(".causal_attn.", ".attn.");
      replace(".ln_1.", ".norm_1.");
      replace(".ln_2.", ".norm_2.");
      replace(".ln_f.", ".norm_f.");
      replace(".mlp.mlp_up.", ".ffn.up_proj.");
      replace(".mlp.mlp_down.", ".ffn.down_proj.");
      return result;
    });
  }

 protected:
  Tensor begin(Context& ctx, View embeddings, DecoderPass& pass) const override {  // (T, D) -> (T, D)
    Tensor x = copy(ctx, embeddings);
    if (!wpe_.empty()) pass.add_positions(ctx, wpe_, "max_seq_len", x);
    return x;
  }
  Tensor block(Context& ctx, View x, const DecoderPass& pass) const override {
    return blocks_[pass.layer](ctx, x, pass, alibi_slopes_.empty() ? nullptr : alibi_slopes_.data());
  }
  Tensor end(Context& ctx, Tensor x) const override { return norm_f_(ctx, x); }

 private:
  Mpt(MptConfig config, const Weights& w)
      : DecoderStack({config.vocab_size, config.d_model, config.d_model, config.n_layers, config.n_heads, config.n_heads, config.d_model / config.n_heads,
                      config.max_seq_len}),
        config_(settled(config, w / "transformer")),
        wte_(w / "transformer" / "wte", config.vocab_size, config.d_model),
        norm_f_(detail::mpt_norm(w / "transformer" / "norm_f", config)) {
    if (config_.alibi) alibi_slopes_ = config_.alibi_slopes();
    else wpe_ = (w / "transformer" / "wpe").tensor("weight", Shape{config.max_seq_len, config.d_model});
    blocks_.reserve(config.n_layers);
    for (std::size_t i = 0; i < config.n_layers; ++i) blocks_.emplace_back(w / "transformer" / "blocks" / i, config_);
    lm_head_ = head(w, "lm_head", wte_);
  }

  /// transformers' class has linear biases whatever `alibi` says, and an `expansion_ratio` of 4.
  static MptConfig settled(MptConfig c, const Weights& w) {
    if (!w.contains("wpe")) c.alibi = true;
    const std::string_view up = "blocks.0.ffn.up_proj.weight";
    if (c.expansion_ratio != 4 && w.contains(up) && w.stored(up).shape() == Shape{4 * c.d_model, c.d_model}) c.expansion_ratio = 4;
    return c;
  }

  MptConfig config_;
  Embedding wte_;
  Tensor wpe_;
  std::vector<float> alibi_slopes_;
  std::vector<MptBlock> blocks_;
  LayerNorm norm_f_;
  Linear lm_head_;
};

}  // namespace chiasm
