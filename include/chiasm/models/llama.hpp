/// Llama and Vicuna. arXiv:2302.13971, 2307.09288; key names and class defaults of transformers' LlamaForCausalLM.
#pragma once

#include <chiasm/modules/config.hpp>
#include <chiasm/modules/decoder.hpp>

namespace chiasm::inline CHIASM_ABI {

namespace detail {
/// What the three families read alike, over the class defaults that `c` comes with. `length` and kv heads' default differ.
inline DecoderConfig read_decoder(const Json& config, DecoderConfig c, std::size_t kv_heads, std::size_t length) {
  c.vocab_size = config_size(config, "vocab_size", c.vocab_size);
  c.hidden_size = config_size(config, "hidden_size", c.hidden_size);
  c.intermediate_size = config_size(config, "intermediate_size", c.intermediate_size);
  c.num_hidden_layers = config_layers(config, "num_hidden_layers", c.num_hidden_layers);
  c.num_attention_heads = config_size(config, "num_attention_heads", c.num_attention_heads);
  // Left out means the class default; null means as many as there are heads.
  const bool grouped = kv_heads != 0 && !config.contains("num_key_value_heads");
  c.num_key_value_heads = config_size(config, "num_key_value_heads", grouped ? kv_heads : c.num_attention_heads);
  config_divides(config, "num_key_value_heads", c.num_key_value_heads, c.num_attention_heads);
  if (config.find("head_dim").is_null()) config_divides(config, "num_attention_heads", c.num_attention_heads, c.hidden_size);
  c.head_dim = config_size(config, "head_dim", c.hidden_size / c.num_attention_heads);
  c.hidden_act = config_activation(config, "hidden_act", "silu");
  c.rms_norm_eps = static_cast<float>(config_positive(config, "rms_norm_eps", 1e-6));
  c.rope = config_rope(config, c.head_dim, 10000.0, length);
  if (c.head_dim % 2 != 0) config.fail("heads have " + std::to_string(c.head_dim) + " dimensions, expected an even number");
  if (c.rope.type == RopeType::standard) c.rope.dim = c.head_dim;  // these classes heed partial_rotary_factor in the stretched forms alone
  return c;
}
}  // namespace detail

struct LlamaConfig : DecoderConfig {
  /// Throws ConfigError, UnsupportedError.
  static LlamaConfig from(const Json& config) {
    LlamaConfig c{detail::read_decoder(config, DecoderConfig(), 0, 2048)};
    c.qkv_bias = c.out_bias = config.get<bool>("attention_bias", false);
    c.mlp_bias = config.get<bool>("mlp_bias", false);
    return c;
  }
};

class Llama : public Decoder {
 public:
  Llama(const Weights& w, const LlamaConfig& config) : Decoder(w, config) {}
};

}  // namespace chiasm
