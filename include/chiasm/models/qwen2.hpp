/// Qwen2 and Qwen2.5: Llama with biases on queries, keys and values. arXiv:2407.10671.
#pragma once

#include <chiasm/models/llama.hpp>

namespace chiasm::inline CHIASM_ABI {

struct Qwen2Config : DecoderConfig {
  /// Throws ConfigError, UnsupportedError.
  static Qwen2Config from(const Json& config) {
    DecoderConfig defaults;
    defaults.vocab_size = 151936;
    defaults.intermediate_size = 22016;
    Qwen2Config c{detail::read_decoder(config, defaults, 32, 32768)};
    c.qkv_bias = true;
    const bool none = config.contains("sliding_window") && config.find("sliding_window").is_null();
    if (!config.get<bool>("use_sliding_window", false) || none) return c;
    // Layers from max_window_layers on have the window; newer files say it layer by layer.
    const std::size_t window = config_size(config, "sliding_window", 4096);
    const Json types = config.find("layer_types");
    if (types.is_array() && types.size() != c.num_hidden_layers) types.fail("has " + std::to_string(types.size()) + " entries for the layers");
    const auto first = static_cast<std::size_t>(config.get<std::uint32_t>("max_window_layers", 28));
    c.windows.assign(c.num_hidden_layers, 0);
    for (std::size_t i = 0; i < c.num_hidden_layers; ++i)
      if (types.is_array() ? types.at(i).as_string() == "sliding_attention" : i >= first) c.windows[i] = window;
    return c;
  }
};

class Qwen2 : public Decoder {
 public:
  Qwen2(const Weights& w, const Qwen2Config& config) : Decoder(w, config) {}
};

}  // namespace chiasm
